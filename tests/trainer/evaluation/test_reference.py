"""Checks by a reference program: what is sent, what comes back, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sandbox_server.client import connect
from sandbox_server.guest.separate.values import Codec
from sandbox_server.jobs import File, Job, Judge, LimitsRequest, Outcome, Verdict
from tests.fakes import INFO, FakeSandbox
from trainer.evaluation.calls import Answers, encode_inputs, read_answers
from trainer.evaluation.evalplus import HUMANEVAL_0_2_1
from trainer.evaluation.inside import calls as inside
from trainer.evaluation.problems import Bench, Scored
from trainer.evaluation.reference import ReferenceBroken, References, SameOutputs

DOUBLE = "def double(x):\n    return x * 2\n"


def check(reference: str = DOUBLE, *inputs: Any, base: int = 1, typed: bool = False) -> SameOutputs:
    return SameOutputs(
        reference, "double", tuple([one] for one in inputs or (1, 2, [3])), base, 0, HUMANEVAL_0_2_1, typed
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    async with connect("embedded") as sandbox:
        info = await sandbox.info()
        references = References(sandbox, info, "python", tmp_path_factory.mktemp("references"))
        yield Bench(sandbox, info, LimitsRequest(), Judge.SAME_INTERPRETER, "python", references)


in_sandbox = pytest.mark.asyncio(loop_scope="module")


async def score(bench: Bench, code: str, against: SameOutputs | None = None) -> Scored:
    return await (against or check()).score(code, "T/0#0", bench)


@pytest.mark.nsjail
@in_sandbox
@pytest.mark.parametrize(
    ("code", "verdict", "base"),
    [
        (DOUBLE, "PASSED", "PASSED"),
        ("double = lambda x: x + x", "PASSED", "PASSED"),
        ("def double(x):\n    print('x' * 10**6)\n    return x + x", "PASSED", "PASSED"),
        ("def double(x):\n    return 2 * x if x == 1 else None", "FAILED", "PASSED"),
        ("def double(x):\n    return 3", "FAILED", "FAILED"),
        ("def double(x):\n    return x + x if isinstance(x, int) else 1 / 0", "ERROR", "PASSED"),
        ("def double(x):\n    raise SystemExit(0)", "ERROR", "ERROR"),
        ("def double(x): return x * 2\nraise ValueError('top')", "ERROR", "ERROR"),
        ("def triple(x): return x * 3", "ERROR", "ERROR"),
        ("def double(x:", "SYNTAX_ERROR", "SYNTAX_ERROR"),
        ("import os\ndef double(x):\n    os._exit(0) if x == 2 else None\n    return x * 2", "INCOMPLETE", "PASSED"),
        ("def double(x):\n    while True: pass", "TIME_LIMIT", "TIME_LIMIT"),
        (
            "def double(x):\n    while x == 2:\n        try:\n            while True: pass\n"
            "        except BaseException: break\n    return x * 2",
            "TIME_LIMIT",
            "PASSED",
        ),
        ("def double(x):\n    return [0] * 10**10", "ERROR", "ERROR"),
        ("def double(x):\n    yield x * 2", "FAILED", "FAILED"),
        # An object that is equal to everything leaves its equality behind.
        ("class All:\n    def __eq__(self, other): return True\ndef double(x): return All()", "FAILED", "FAILED"),
        ("class All(list):\n    def __eq__(self, other): return True\ndef double(x): return All()", "FAILED", "FAILED"),
        ("import enum\nclass E(enum.IntEnum): A = 2\ndouble = lambda x: E.A if x == 1 else x * 2", "PASSED", "PASSED"),
        # Equality patched wherever the program can reach; the values are compared elsewhere.
        ("import operator\noperator.eq = lambda a, b: True\ndouble = id", "FAILED", "FAILED"),
        ("import json\njson.dumps = lambda *a, **k: '[]'\ndouble = id", "FAILED", "FAILED"),
        ("if __name__ == '__main__':\n    raise ValueError\n" + DOUBLE, "PASSED", "PASSED"),
    ],
)  # fmt: skip
async def test_a_program_gets_the_verdict_that_it_earns(bench: Bench, code: str, verdict: str, base: str) -> None:
    scored = await score(bench, code)

    assert (scored.verdict, scored.details["base"]) == (verdict, base)
    assert scored.details["assurance"] == "TESTS_JUDGED"
    json.dumps(scored.details)


@pytest.mark.nsjail
@in_sandbox
async def test_a_program_finds_nothing_but_the_inputs(bench: Bench) -> None:
    """It searches its interpreter's memory, its frames and its files for the outputs of the reference."""
    secret = "def double(x):\n    return 'sesame' + str(x * 7919)\n"
    spy = (
        "import gc, os, sys\n"
        "def double(x):\n"
        "    found = [o for o in gc.get_objects() if isinstance(o, str) and 'ses' + 'ame' in o]\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        found += [v for v in map(str, frame.f_locals.values()) if 'ses' + 'ame' in v]\n"
        "        frame = frame.f_back\n"
        "    found = [f for f in found if 'f_back' not in f]\n"
        "    found += [n for n in os.listdir('.') if not n.startswith('_selfalign_answers')]\n"
        "    return found[0] if found else 'nothing'\n"
    )

    scored = await score(bench, spy, check(secret))

    assert scored.verdict is Verdict.FAILED
    assert scored.details["first_failure"]["output"] == "'nothing'"


@pytest.mark.nsjail
@in_sandbox
async def test_an_input_that_is_changed_in_place_is_fresh_the_next_time(bench: Bench) -> None:
    scored = await score(bench, "def double(x):\n    x.append(1)\n    return x", check(DOUBLE, [1], [1], [1]))

    assert scored.verdict is Verdict.PASSED


@pytest.mark.nsjail
@in_sandbox
async def test_inputs_keep_their_types(bench: Bench) -> None:
    types = "def double(x):\n    return f'{type(x).__name__} {x!r}'"

    inputs = ((1, (2,)), {3}, 1j, b"x", [{"a": (1,)}], float("inf"), "\ud800", 10**1000)
    assert (await score(bench, types, check(types, *inputs, typed=True))).verdict is Verdict.PASSED
    wrong = "def double(x):\n    return f'list {x!r}'"
    assert (await score(bench, wrong, check(types, *inputs, typed=True))).verdict is Verdict.FAILED


@pytest.mark.nsjail
@in_sandbox
async def test_long_values_are_compared_by_hash(bench: Bench) -> None:
    """Values of a million characters, and sequences of half a million items, which fill no message."""
    for reference in ("def double(x): return 'ab' * 10**6", "def double(x): return [(1, 'a')] * 500_000"):
        assert (await score(bench, reference, check(reference))).verdict is Verdict.PASSED
        assert (await score(bench, reference.replace("a", "b"), check(reference))).verdict is Verdict.FAILED


@pytest.mark.nsjail
@in_sandbox
async def test_a_program_that_takes_long_is_looked_at_before_it_goes_on(bench: Bench) -> None:
    """One that is wrong early never meets the inputs that take long; one that is right so far meets all."""
    slow = "def double(x):\n    for _ in range(2 * 10**7 if x else 0): pass\n    return {}"
    against = check(DOUBLE, 0, 1, 2, 3)

    early = await score(bench, slow.format("7"), against)
    late = await score(bench, slow.format("x * 2 if x < 3 else None"), against)
    never = await score(bench, slow.format("x * 2"), against)

    assert (early.verdict, early.details["inputs"], early.details["base"]) == ("FAILED", 2, "FAILED")
    assert (late.verdict, late.details["inputs"], late.details["first_failure"]["input"]) == ("FAILED", 4, 3)
    assert (never.verdict, never.details["inputs"]) == ("PASSED", 4)


@pytest.mark.nsjail
@in_sandbox
async def test_a_program_is_looked_at_before_the_inputs_that_took_its_reference_long(bench: Bench) -> None:
    """However fast it is itself; one that is right meets them too."""
    slow = "def double(x):\n    for _ in range(2 * 10**7 if x >= 2 else 0): pass\n    return x * 2"
    against = check(slow, 0, 1, *range(2, 8))

    wrong = await score(bench, "def double(x): return 7", against)
    right = await score(bench, DOUBLE, against)

    assert (wrong.verdict, wrong.details["inputs"]) == ("FAILED", 2)
    assert (right.verdict, right.details["inputs"]) == ("PASSED", 8)


@pytest.mark.nsjail
@in_sandbox
async def test_a_reference_that_fails_is_not_the_programs_fault(bench: Bench) -> None:
    with pytest.raises(ReferenceBroken, match=r"reference program of double answers 2 of its 3 inputs here \(no\)"):
        await score(bench, DOUBLE, check("def double(x):\n    if x == [3]: raise ValueError('no')\n    return x"))


@pytest.mark.nsjail
@in_sandbox
async def test_outputs_of_a_reference_are_computed_once(bench: Bench, tmp_path: Path) -> None:
    against = check("def double(x):\n    return x * 2  # once")
    first = References(bench.sandbox, bench.info, "python", tmp_path)
    expected = (await first.of(against)).expected
    (kept,) = tmp_path.iterdir()  # noqa: ASYNC240

    nowhere = FakeSandbox()
    anew = References(nowhere, bench.info, "python", tmp_path)
    again = (await anew.of(against)).expected

    assert again == expected
    assert anew.known_cost_us(against) == sum(expected.cpu_time_us)
    assert anew.known_cost_us(check("def double(x): return x + x")) == anew.known_cost_us("another kind") == 0
    assert nowhere.started == []
    kept.write_bytes(kept.read_bytes()[:-5] + b"\n")
    assert (await References(bench.sandbox, bench.info, "python", tmp_path).of(against)).expected == expected


async def test_the_job_holds_inputs_and_program_and_no_output(tmp_path: Path) -> None:
    """What is sent for a candidate is what is sent for the reference, but for the program."""

    async def answers(job: Job) -> Outcome:
        text = b'["loaded"]\n["=",2]\n["=",4]\n["=",["y","list",2,[],[3,3]]]\n["done",1,1,1]\n'
        return Outcome(Verdict.EXITED, files=(File(inside.ANSWERS, text),))

    sandbox = FakeSandbox(answers)
    bench = Bench(
        sandbox, INFO, LimitsRequest(), Judge.SAME_INTERPRETER, "python", References(sandbox, INFO, "python", tmp_path)
    )
    scored = await check().score("candidate", "T/0#0", bench)

    assert scored.verdict is Verdict.PASSED
    reference, candidate = ({file.path: file.content for file in job.files} for job in sandbox.started)
    assert candidate.pop(inside.PROGRAM) == b"candidate"
    assert reference.pop(inside.PROGRAM) == DOUBLE.encode()
    sent = json.loads(candidate.pop(inside.CALLS))
    assert sent["inputs"] == json.loads(reference.pop(inside.CALLS))["inputs"] == [[1], [2], [[3]]]
    assert candidate == reference


def answers_of(text: bytes, verdict: Verdict = Verdict.EXITED) -> Answers:
    return read_answers(Outcome(verdict, files=(File(inside.ANSWERS, text),)), 2)


@pytest.mark.parametrize(
    ("text", "values", "stopped"),
    [
        (b"", 0, Verdict.INCOMPLETE),
        (b"\xff\n" * 3, 0, Verdict.INCOMPLETE),
        (b'["loaded"]\n', 0, Verdict.INCOMPLETE),
        (b'["=",1]\n["=",2]\n["done",1,1]\n', 0, Verdict.INCOMPLETE),
        (b'["loaded"]\n["=",1]\n["time"]\n', 1, Verdict.TIME_LIMIT),
        (b'["loaded"]\n["=",1]\n["!","E","m"]\n', 1, Verdict.ERROR),
        (b'["loaded"]\n["=",1]\n["!"]\n', 1, Verdict.INCOMPLETE),
        (b'["loaded"]\n["=",1]\n["=",2]\n["=",3]\n', 2, None),
        (b'["loaded"]\n["=",1]\n["=",2]\n["done","x",1]\n', 2, None),
        (b'["syntax","bad",3]\n', 0, Verdict.SYNTAX_ERROR),
        (b'["loaded"]\n["=",1]\n' + b"[" * 100_000, 1, Verdict.INCOMPLETE),
    ],
)
def test_answers_are_read_whatever_they_are(text: bytes, values: int, stopped: Verdict | None) -> None:
    answers = answers_of(text)

    assert (len(answers.values), answers.stopped, answers.cpu_time_us) == (values, stopped, ())


def test_what_was_seen_from_outside_comes_before_what_the_program_says() -> None:
    assert answers_of(b'["loaded"]\n["!","E","m"]\n', Verdict.MEMORY_LIMIT).stopped is Verdict.MEMORY_LIMIT


def test_plain_inputs_are_plain_json() -> None:
    assert encode_inputs([[1, "a"], [[None]]], typed=False) == b'[[1,"a"],[[null]]]'


@pytest.mark.parametrize(
    "value",
    [
        0, -7, True, False, None, 10**600, 10**700, 1 << 9000, 0.1, -0.0, 1e300, float("inf"), "",
        "a\"\\\n\x00é\ud800\u2028😀",
        "x" * 200, [1], (1,), {}, b"x", {1},
    ],
)  # fmt: skip
def test_a_short_line_is_the_codecs(value: object) -> None:
    """What is written without a codec is what one writes."""
    codec = Codec(2)

    assert inside._line(value, 1 << 20) == codec.dumps(["=", codec.encode(value)])


def test_long_sequences_of_equal_numbers_have_the_same_line() -> None:
    """Whether they are ints or floats; other values, and ints that no double holds, do not."""
    many = 50_001
    line = inside._line([2] * many, 1 << 20)

    assert line.startswith(b'["#"')
    assert line == inside._line([2.0] * many, 1 << 20)
    assert line not in (inside._line([2] * (many - 1) + [3], 1 << 20), inside._line((2,) * many, 1 << 20))
    assert inside._line([1 << 60] * many, 1 << 20) != inside._line([(1 << 60) + 1] * many, 1 << 20)
    assert inside._line(["a"] * many, 1 << 20) == inside._line(["".join(["a"])] * many, 1 << 20)
