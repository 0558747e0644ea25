"""Scoring: resumable, patient with the sandbox, and never inventing a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from generator.models import Evaluation, EvaluationSample, Recipe
from generator.store import Database
from sandbox_server.errors import Broken, InvalidJob, Unavailable, Unsupported
from sandbox_server.jobs import (
    AssertionFailure,
    Isolation,
    Job,
    Judge,
    Limits,
    LimitsRequest,
    Outcome,
    RuntimeInfo,
    SandboxInfo,
    TestReport,
    Verdict,
)
from trainer.evaluation.problems import Benchmark, Problem
from trainer.evaluation.run import CannotScore, Report, evaluate
from trainer.evaluation.samples import Sample
from trainer.evaluation.tests_check import Tests

PROBLEMS = tuple(
    Problem(f"T/{number}", "", "", f"def f():\n    return {number}\n", Tests(f"assert f() == {number}", "f"))
    for number in range(6)
)
BENCHMARK = Benchmark("six", "0" * 32, PROBLEMS)


class TwoEach:
    """Two samples of each problem, the second wrong."""

    subject = "two each"
    concurrency = 0

    def __init__(self) -> None:
        self.parameters = {"drawn": "twice"}

    def count(self, problem: Problem) -> int:
        return 2

    async def sample(self, problem: Problem, index: int) -> Sample:
        return Sample(completion=f"{index}", code=problem.solution if index == 0 else "def f(): pass")


class FakeSandbox:
    """Answers from `answer`, which may raise; keeps what it was asked."""

    def __init__(self, answer: Callable[[Job], Outcome]) -> None:
        self.answer = answer
        self.jobs: list[Job] = []
        self.judges = tuple(Judge)

    async def run(self, job: Job) -> Outcome:
        self.jobs.append(job)
        return self.answer(job)

    async def info(self) -> SandboxInfo:
        limits = Limits(10_000, 10_000, 1 << 28, 64, 64, 1 << 20, 1 << 20, 1 << 20)
        runtime = RuntimeInfo("python", "CPython", (), "fingerprint", warm=False)
        return SandboxInfo("0", (runtime,), limits, limits, 2, 8, Isolation((), False, "none", True), self.judges)

    async def close(self) -> None: ...


def judged(job: Job) -> Outcome:
    if "pass" in job.code:
        failure = AssertionFailure(1, job.tests, "None", "==", "0")
        return Outcome(Verdict.FAILED, tests=TestReport(1, 1, True, failure))
    return Outcome(Verdict.PASSED, tests=TestReport(1, 0, True))


async def score(sandbox: FakeSandbox, database: Database, **more: Any) -> Report:
    return await evaluate(BENCHMARK, PROBLEMS, TwoEach(), sandbox, database, **({"limits": LimitsRequest()} | more))


async def test_every_verdict_is_a_row_and_the_score_adds_up(database: Database) -> None:
    report = await score(FakeSandbox(judged), database)

    low, high = report.scores["intervals"]["pass@1"]
    assert 0.18 < low < 0.5 < high < 0.82
    assert {**report.scores, "intervals": {}} == {
        "problems": 6,
        "samples": 12,
        "passed": 6,
        "pass@1": 0.5,
        "intervals": {},
        "verdicts": {"PASSED": 6, "FAILED": 6},
    }
    with database.reading() as session:
        row = session.get_one(Evaluation, report.evaluation)
        recipe = session.get_one(Recipe, row.recipe_id)
        failed = session.get_one(EvaluationSample, (report.evaluation, "T/3", 1))
    assert (row.scores, row.finished_at is not None) == (report.scores, True)
    assert recipe.parameters["limits"]["memory_bytes"] == 1 << 28
    assert recipe.parameters["drawn"] == "twice"
    assert failed.details is not None
    assert failed.details["first_failure"]["left"] == "None"


async def test_what_took_its_reference_longest_goes_first(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the last slot does not work alone; the report keeps the benchmark's order."""
    costs = {problem.check: cost for problem, cost in zip(PROBLEMS, (3, 9, 0, 5, 9, 1), strict=True)}
    monkeypatch.setattr("trainer.evaluation.reference.References.known_cost_us", lambda self, check: costs[check])
    sandbox = FakeSandbox(judged)

    report = await score(sandbox, database, concurrency=1)

    assert [job.request_id for job in sandbox.jobs[::2]] == ["T/1#0", "T/4#0", "T/3#0", "T/0#0", "T/5#0", "T/2#0"]
    assert [sample.task_id for sample in report.samples[::2]] == [problem.task_id for problem in PROBLEMS]


async def test_a_second_run_runs_nothing_and_says_the_same(database: Database) -> None:
    first = await score(FakeSandbox(judged), database)
    idle = FakeSandbox(judged)

    second = await score(idle, database)

    assert (second.ran, idle.jobs) == (0, [])
    assert (second.samples, second.scores) == (first.samples, first.scores)


async def test_an_interrupted_run_goes_on_where_it_stopped(database: Database) -> None:
    def breaks_at_4(job: Job) -> Outcome:
        if job.request_id == "T/4#0":
            raise Broken("the host changed under us")
        return judged(job)

    with pytest.raises(Broken):
        await score(FakeSandbox(breaks_at_4), database, concurrency=1)
    with database.reading() as session:
        assert session.scalars(select(Evaluation)).one().scores is None
    rest = FakeSandbox(judged)
    report = await score(rest, database)

    assert {job.request_id for job in rest.jobs} == {f"T/{task}#{index}" for task in (4, 5) for index in (0, 1)}
    assert report.scores["samples"] == 12


async def test_other_limits_are_another_evaluation(database: Database) -> None:
    first = await score(FakeSandbox(judged), database)

    second = await score(FakeSandbox(judged), database, limits=LimitsRequest(memory_bytes=1 << 27))

    assert first.evaluation != second.evaluation
    assert second.ran == 12


async def test_the_sandboxs_trouble_is_no_verdict(database: Database) -> None:
    def unreachable(job: Job) -> Outcome:
        raise Unavailable("nobody listens")

    with pytest.raises(Unavailable) as trouble:
        await score(FakeSandbox(unreachable), database)

    assert trouble.value.__notes__ == ["verdicts that were reached are stored; the same command goes on from there"]
    with database.reading() as session:
        assert session.scalars(select(EvaluationSample)).all() == []


async def test_a_sample_that_cannot_be_run_is_named(database: Database) -> None:
    def refuses(job: Job) -> Outcome:
        raise InvalidJob("code", "longer than 1 MiB")

    with pytest.raises(CannotScore, match="T/0#0 cannot be run: code: longer than 1 MiB"):
        await score(FakeSandbox(refuses), database, concurrency=1)


async def test_what_cannot_be_judged_apart_is_a_row_with_its_reason(database: Database) -> None:
    """The evaluation goes on, the sample counts as not passed, and it is not asked for again."""

    def refuses_some(job: Job) -> Outcome:
        assert job.judge is Judge.SEPARATE
        if job.request_id.startswith("T/2"):
            raise Unsupported("judge: SEPARATE cannot judge these tests: they patch the program")
        return judged(job)

    sandbox = FakeSandbox(refuses_some)
    report = await score(sandbox, database, judge=Judge.SEPARATE)
    again = await score(idle := FakeSandbox(refuses_some), database, judge=Judge.SEPARATE)

    assert report.scores["verdicts"] == {"PASSED": 5, "FAILED": 5, "UNJUDGED": 2}
    assert (report.scores["passed"], report.scores["unjudged"]) == (5, 2)
    assert (again.ran, idle.jobs, again.scores) == (0, [], report.scores)
    with database.reading() as session:
        row = session.get_one(EvaluationSample, (report.evaluation, "T/2", 0))
    assert row.verdict == "UNJUDGED"
    assert row.details == {"reason": "judge: SEPARATE cannot judge these tests: they patch the program"}


async def test_a_sandbox_without_a_separate_judge_is_refused_at_once(database: Database) -> None:
    sandbox = FakeSandbox(judged)
    sandbox.judges = (Judge.SAME_INTERPRETER,)

    with pytest.raises(CannotScore, match="does not judge SEPARATE; it offers SAME_INTERPRETER"):
        await score(sandbox, database, judge=Judge.SEPARATE)
    assert sandbox.jobs == []


async def test_progress_starts_with_what_is_already_stored(database: Database) -> None:
    await score(FakeSandbox(judged), database)
    seen: list[tuple[int, int]] = []

    await score(FakeSandbox(judged), database, progress=lambda done, total: seen.append((done, total)))

    assert seen == [(12, 12)]
