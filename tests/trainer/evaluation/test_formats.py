"""CRUXEval, and benchmarks whose data lives on the hub, in fixtures that were written for these tests."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from generator.engines import Completion, CompletionRequest
from sandbox_server.client import connect
from sandbox_server.jobs import Judge, LimitsRequest
from trainer.evaluation.benchmarks import NAMES, load_benchmark
from trainer.evaluation.config import BENCHMARKS
from trainer.evaluation.contest import same_output
from trainer.evaluation.data import DataUnfit
from trainer.evaluation.generation import ModelSamples, RepairSamples
from trainer.evaluation.prediction import right_side
from trainer.evaluation.problems import Bench, Problem
from trainer.evaluation.reference import References
from trainer.evaluation.rows import ScoredSample

in_sandbox = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    async with connect("embedded") as sandbox:
        info = await sandbox.info()
        references = References(sandbox, info, "python", tmp_path_factory.mktemp("references"))
        yield Bench(sandbox, info, LimitsRequest(), Judge.SAME_INTERPRETER, "python", references)


def load(folder: Path, benchmark: str, *rows: dict[str, Any]) -> tuple[Problem, ...]:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_benchmark(benchmark, path).problems


async def verdict(problem: Problem, code: str, bench: Bench) -> str:
    return (await problem.check.score(code, "T/0#0", bench)).verdict.value


def case(stdin: str, output: str, kind: str) -> dict[str, str]:
    return {"input": stdin, "output": output, "testtype": kind}


def packed(cases: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def generation_row(kind: str, public: Any, private: str, **more: Any) -> dict[str, Any]:
    return {
        "question_title": "Sum",
        "question_content": "Add the two numbers.",
        "platform": "leetcode",
        "question_id": "7",
        "contest_id": "c",
        "contest_date": "2024-01-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(public),
        "private_test_cases": private,
        "metadata": "{}",
        **more,
    }


FUNCTIONAL = generation_row(
    "functional",
    [case("1\n2", "3", "functional")],
    packed([case("[1]\n[2]", "[1, 2]", "functional")]),
    starter_code="class Solution:\n    def combine(self, a, b):\n        ",
    metadata='{"func_name": "combine"}',
)
STDIN = generation_row("stdin", [case("1 2\n", "3\n", "stdin")], json.dumps([case("2 2\n", "4.0", "stdin")]))


def test_every_benchmark_of_the_settings_can_be_loaded() -> None:
    assert BENCHMARKS == NAMES


@pytest.mark.nsjail
@in_sandbox
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("class Solution:\n    def combine(self, a, b):\n        return a + b", "PASSED"),
        ("class Solution:\n    def combine(self, a: List[int], b) -> Optional[int]:\n        return tuple(a) + tuple(b)"
         " if isinstance(a, list) else a + b", "PASSED"),
        ("def combine(a, b):\n    return reduce(lambda x, y: x + y, [a, b])", "PASSED"),
        ("def combine(a, b):\n    return a", "FAILED"),
        ("def combine(a, b):\n    return a + b if a == 1 else None", "FAILED"),
        ("def sub(a, b):\n    return a", "ERROR"),
        ("def combine(a, b): 1 / 0", "ERROR"),
        ("def combine(a, b) return", "SYNTAX_ERROR"),
    ],
)  # fmt: skip
async def test_livecodebench_functions(tmp_path: Path, bench: Bench, code: str, expected: str) -> None:
    (problem,) = load(tmp_path, "livecodebench-generation", FUNCTIONAL)

    assert "def combine(self, a, b)" in problem.instruction
    assert await verdict(problem, code, bench) == expected


@pytest.mark.nsjail
@in_sandbox
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a, b = map(int, input().split())\nprint(a + b)", "PASSED"),
        ("if __name__ == '__main__':\n    print(sum(map(int, sys.stdin.read().split())))\n    sys.exit(0)", "PASSED"),
        ("print(3)", "FAILED"),
        ("print(int(input()))", "ERROR"),
        ("while True: pass", "TIME_LIMIT"),
    ],
)
async def test_livecodebench_programs(tmp_path: Path, bench: Bench, code: str, expected: str) -> None:
    (problem,) = load(tmp_path, "livecodebench-generation", STDIN)
    limited = Bench(
        bench.sandbox, bench.info, LimitsRequest(cpu_time_ms=1000), bench.judge, bench.runtime, bench.references
    )

    assert await verdict(problem, code, limited) == expected


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1\n2\n", "1\n2", True),
        (" 1 \n2", "1\n2 ", True),
        ("1.50 2", "1.5 2.0", True),
        ("50000000000000001", "50000000000000000", False),
        ("1 2", "1  2", True),
        ("a b", "a  b", False),
        ("1", "1\n2", False),
        ("", "1", False),
        ("NaN", "1", False),
        ("sNaN", "1", False),
    ],
)
def test_outputs_are_compared_line_by_line(output: str, expected: str, same: bool) -> None:
    assert same_output(output, expected) is same


def test_private_tests_that_name_code_are_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (len, ("run",))

    row = STDIN | {"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()}

    with pytest.raises(DataUnfit, match=r"row 1 is not one of livecodebench-generation: .* asks for builtins.len"):
        load(tmp_path, "livecodebench-generation", row)
    for damaged in ("@@", base64.b64encode(b"no zlib").decode(), "{}"):
        with pytest.raises(DataUnfit, match="row 1 is not one of"):
            load(tmp_path, "livecodebench-generation", STDIN | {"private_test_cases": damaged})


@pytest.mark.nsjail
@in_sandbox
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("assert add(1, [2]) == {'a': [3]}", "PASSED"),
        ("{'a': [3]}", "PASSED"),
        ("# as told\nassert add(1, [2]) == {'a': [3]}", "PASSED"),
        ("assert add(1, [2]) == {'a': list(range(3, 4))}", "PASSED"),
        ("assert add(1, [2]) == {'a': (3,)}", "FAILED"),
        ("assert add(1, [2]) == add(1, [2])", "ERROR"),
        ("assert add(1, [2]) ==", "SYNTAX_ERROR"),
        ("", "SYNTAX_ERROR"),
        ("assert add(1, [2]) == __import__('os')._exit(0)", "INCOMPLETE"),
    ],
)
async def test_livecodebench_predicted_tests(tmp_path: Path, bench: Bench, code: str, expected: str) -> None:
    row = {
        "question_title": "T",
        "question_content": "Add.",
        "question_id": "9",
        "contest_id": "c",
        "contest_date": "2024-01-01T00:00:00",
        "difficulty": "easy",
        "test": json.dumps([case("1\n[2]", '{"a": [3]}', "functional")]),
        "starter_code": "class Solution:\n    def add(self, a, b): ...",
        "function_name": "add",
        "test_id": 2,
    }
    (problem,) = load(tmp_path, "livecodebench-tests", row)

    assert (problem.task_id, problem.prefix) == ("LiveCodeBench/9/2", "assert add(1, [2]) ==")
    assert await verdict(problem, problem.solution, bench) == "PASSED"
    assert await verdict(problem, code, bench) == expected


@pytest.mark.nsjail
@in_sandbox
async def test_livecodebench_execution(tmp_path: Path, bench: Bench) -> None:
    row = {
        "question_id": "1",
        "contest_id": "c",
        "contest_date": "2024-01-01T00:00:00",
        "difficulty": "easy",
        "function_name": "f",
        "code": "def f(x):\n    return {x}",
        "input": "f(x = 3)",
        "output": "set([3])",
        "id": "sample_0",
        "problem_id": "1",
        "numsteps": 3,
    }
    (problem,) = load(tmp_path, "livecodebench-execution", row)

    assert problem.prefix == "assert f(x = 3) =="
    for code, expected in ((problem.solution, "PASSED"), ("{3}", "PASSED"), ("{4}", "FAILED"), ("f(x = 3)", "ERROR")):
        assert await verdict(problem, code, bench) == expected


@pytest.mark.nsjail
@in_sandbox
async def test_ds_1000_runs_its_own_tests(tmp_path: Path, bench: Bench) -> None:
    context = (
        "def test_execution(solution):\n    space = {'x': [3, 1]}\n    exec(solution, space)\n"
        "    assert space['result'] == [1, 3]\n\n"
        "def test_string(solution):\n    assert 'for' not in solution\n"
    )
    row = {
        "prompt": "Sort x into result.",
        "reference_code": "result = sorted(x)",
        "code_context": context,
        "metadata": {"problem_id": 0, "library": "Numpy"},
    }
    (problem,) = load(tmp_path, "ds-1000", row)

    assert problem.task_id == "DS-1000/0"
    assert await verdict(problem, problem.solution, bench) == "PASSED"
    assert await verdict(problem, "result = x", bench) != "PASSED"
    assert await verdict(problem, "result = [i for i in sorted(x)]", bench) != "PASSED"
    assert await verdict(problem, "import sys; sys.exit(0)", bench) != "PASSED"
    assert await verdict(problem, "result = 1 / 0", bench) == "ERROR"


@pytest.mark.nsjail
@in_sandbox
@pytest.mark.parametrize(
    ("task", "code", "expected"),
    [
        ("cruxeval-o", "assert f([1, 1, 3, 1, 3, 1]) == [(4, 1), (4, 1), (4, 1), (4, 1), (2, 3), (2, 3)]", "PASSED"),
        ("cruxeval-o", "[(4, 1)] * 4 + [(2, 3)] * 2", "PASSED"),
        ("cruxeval-o", "[(4, 1)]", "FAILED"),
        ("cruxeval-o", "f([1, 1, 3, 1, 3, 1])", "ERROR"),
        ("cruxeval-i", "assert f([3, 1, 3, 1, 1, 1]) == 'whatever'", "PASSED"),
        ("cruxeval-i", "f([3] + [1, 3, 1, 1, 1])", "PASSED"),
        ("cruxeval-i", "f([1])", "FAILED"),
        ("cruxeval-i", "f()", "ERROR"),
        ("cruxeval-i", "g([1])", "SYNTAX_ERROR"),
        ("cruxeval-i", "f(f := lambda x: 1)", "ERROR"),
    ],
)
async def test_cruxeval(benchmark_data: Path, bench: Bench, task: str, code: str, expected: str) -> None:
    problem = load_benchmark(task, benchmark_data).problems[0]

    assert await verdict(problem, code, bench) == expected


@pytest.mark.parametrize(
    ("code", "predicted"),
    [
        ("assert f(1) == 2", "2"),
        ("assert f(1) == 2, 'why'", "2"),
        ("2", "2"),
        ("text\nassert f(1) == (1, 2)\nmore text", "(1, 2)"),
        ("x = 2", None),
        ("assert f(1) != 2", None),
        ("(" * 10_000, None),
        ("\0", None),
    ],
)
def test_the_prediction_is_found(code: str, predicted: str | None) -> None:
    assert right_side(code) == predicted


async def test_a_wrong_attempt_is_shown_to_the_model_and_a_right_one_stays(tmp_path: Path) -> None:
    class Parrot:
        asked: list[str] = []  # noqa: RUF012

        async def complete(self, request: CompletionRequest) -> Completion:
            self.asked.append(request.prompt.text)
            return Completion("better", "stop")

        async def close(self) -> None: ...

    (problem,) = load(tmp_path, "livecodebench-repair", STDIN)
    details = {"first_failure": {"arguments": "1 2", "output": "4", "expected": "3"}}
    earlier = [
        ScoredSample(problem.task_id, 0, "right", "right", "PASSED", {}),
        ScoredSample(problem.task_id, 1, "wrong", "print(4)", "FAILED", details),
    ]
    source = RepairSamples(ModelSamples(Parrot(), subject="m", render=str), earlier, "e1")

    assert (source.count(problem), source.parameters["repairs"]) == (2, "e1")
    assert (await source.sample(problem, 0)).code == "right"
    assert (await source.sample(problem, 1)).code == "better"
    (prompt,) = Parrot.asked
    assert "print(4)" in prompt
    assert "FAILED. 1 2 -> 4, expected 3" in prompt
