from __future__ import annotations

from generator.checks import Kind, Sample, Score, checks, program, score
from generator.recipe import SelectionSettings

ALL = SelectionSettings(agreement=True, mutants=3, repeat=2)
ADD = "def add(a, b):\n    return a + b\n"


def sample(index: int, *, passed: bool = True, code: str = ADD, tests: str = "assert add(1, 2) == 3") -> Sample:
    return Sample(f"r{index}", index, code, tests, passed)


def test_only_what_passed_is_checked_and_against_every_other_samples_tests() -> None:
    samples = [sample(0), sample(1, passed=False), sample(2, passed=False)]

    asked = [(check.response_id, check.kind, check.number) for check in checks(samples, ALL)]

    assert asked == [
        ("r0", Kind.REPEAT, 0),
        ("r0", Kind.STUB, 0),
        ("r0", Kind.MUTANT, 0),
        ("r0", Kind.MUTANT, 1),
        ("r0", Kind.AGREEMENT, 1),
        ("r0", Kind.AGREEMENT, 2),
    ]


def test_nothing_is_checked_that_is_not_asked_for() -> None:
    assert list(checks([sample(0), sample(1)], SelectionSettings())) == []


def test_code_answers_to_the_name_that_the_other_samples_tests_call() -> None:
    samples = [
        sample(0),
        sample(1, code="def plus(a, b):\n    return a + b\n", tests="assert plus(2, 2) == 4"),
    ]
    check = next(check for check in checks(samples, SelectionSettings(agreement=True)) if check.response_id == "r0")

    code, tests = program(check, samples[0], samples[1], ALL)
    namespace: dict[str, object] = {}
    exec(f"{code}\n{tests}", namespace)

    assert namespace["plus"] is namespace["add"]


def test_a_group_counts_for_its_members_times_the_tests_it_passes() -> None:
    samples = [sample(0), sample(1), sample(2), sample(3, passed=False)]
    verdicts = {
        ("r0", Kind.AGREEMENT, 1): "PASSED",
        ("r1", Kind.AGREEMENT, 0): "PASSED",
        ("r0", Kind.AGREEMENT, 2): "FAILED",
        ("r2", Kind.AGREEMENT, 3): "TIME_LIMIT",
    }

    scores = score(samples, verdicts, SelectionSettings(agreement=True), {})

    assert scores["r0"] == scores["r1"] == Score(4, 2, 2, 2 * 2 / 16)
    assert scores["r2"] == Score(4, 1, 1, 1 / 16)
    assert "r3" not in scores


def test_a_fault_is_noticed_when_the_tests_do_not_pass_however_they_end() -> None:
    verdicts = {
        ("r0", Kind.STUB, 0): "FAILED",
        ("r0", Kind.MUTANT, 0): "PASSED",
        ("r0", Kind.MUTANT, 1): "TIME_LIMIT",
        ("r0", Kind.MUTANT, 2): "ERROR",
        ("r0", Kind.MUTANT, 3): "REFUSED",
    }

    found = score([sample(0)], verdicts, SelectionSettings(mutants=4), {})["r0"]

    assert (found.stub_failed, found.mutants, found.mutants_killed, found.mutation_score) == (True, 3, 2, 2 / 3)
    assert (found.agreement, found.flaky) == (None, None)


def test_without_a_place_for_a_fault_there_is_no_score() -> None:
    found = score([sample(0)], {}, SelectionSettings(mutants=4), {})["r0"]

    assert (found.stub_failed, found.mutants, found.mutation_score) == (None, 0, None)


def test_one_run_that_ends_otherwise_is_flaky() -> None:
    settings = SelectionSettings(repeat=3)
    samples = [sample(0), sample(1)]

    scores = score(samples, {}, settings, {"r0": ["PASSED", "FAILED", "PASSED"], "r1": ["PASSED"] * 3})

    assert (scores["r0"].flaky, scores["r1"].flaky) == (True, False)
