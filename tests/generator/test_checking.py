"""Checks on their way through the database: planned once, run once, counted once, and asked when pairs are chosen."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from typing import Any

import pytest
import sqlalchemy as sa

from generator import checking, models
from generator.engines import Completion, CompletionRequest, RequestFailed
from generator.lineage import show
from generator.pipeline import Pipeline, Report, build, forget_failed
from generator.plan import plan
from generator.progress import Silent
from generator.recipe import Recipe, SelectionSettings
from generator.store import Database
from sandbox_server.errors import Unavailable
from sandbox_server.jobs import Job, Outcome, Verdict
from tests.fakes import FakeSandbox, passes
from tests.generator.conftest import SQLITE_ONLY
from tests.generator.rules import RESPONSE, RuleEngine, stage_of

CHECKS = SelectionSettings(agreement=True, mutants=2, repeat=2)


def checked(recipe: Recipe, settings: SelectionSettings = CHECKS) -> Recipe:
    return dataclasses.replace(recipe, selection=settings)


async def faults_fail(job: Job) -> Outcome:
    """Pass what is whole and fail what is empty or has a fault, as good tests do."""
    outcome = await passes(job)
    wanted = job.tests.split("1 + ")[1].strip()
    whole = f"return value + {wanted}" in job.code
    return outcome if whole else dataclasses.replace(outcome, verdict=Verdict.FAILED)


async def run(recipe: Recipe, database: Database, sandbox: FakeSandbox | None = None, engine: Any = None) -> Report:
    return await build(
        recipe, database, Silent(), engine=engine or RuleEngine(), sandbox=sandbox or FakeSandbox(faults_fail)
    )


def rows(database: Database, sql: str) -> list[Any]:
    with database.reading() as session:
        return list(session.execute(sa.text(sql)))


def programs(database: Database) -> int:
    """The programs of all checks; a fault can leave an empty function, and that is then one program."""
    return int(rows(database, "SELECT count(DISTINCT program_key || executions_recipe_id) FROM checks")[0][0])


async def test_a_build_checks_what_passed_and_stores_what_came_of_it(small: Recipe, database: Database) -> None:
    sandbox = FakeSandbox(faults_fail)

    report = await run(checked(small), database, sandbox)

    kinds = dict(rows(database, "SELECT kind, count(*) FROM checks GROUP BY kind"))
    assert kinds == {"agreement": 30, "mutant": 30, "repeat": 15, "stub": 15}
    assert report.programs_run == len(sandbox.started) == 15 + programs(database)
    assert {job.repeat for job in sandbox.started} == {1, 2}
    found = rows(database, "SELECT tests, tests_passed, group_size, stub_failed, mutants_killed, flaky FROM scores")
    assert [tuple(row) for row in found] == [(3, 1, 1, True, 2, False)] * 15
    assert report.snapshot is not None
    assert report.snapshot.size == 5


async def test_a_second_build_plans_nothing_and_runs_nothing(small: Recipe, database: Database) -> None:
    await run(checked(small), database)
    sandbox = FakeSandbox(faults_fail)

    report = await run(checked(small), database, sandbox)

    assert sandbox.started == []
    assert report.did_nothing


async def test_checks_turned_on_later_run_only_themselves(small: Recipe, database: Database) -> None:
    await run(small, database)

    report = await run(checked(small), database)

    assert (report.completions_drawn, report.programs_run) == (0, programs(database))


async def test_one_more_mutant_costs_its_own_runs_and_a_threshold_none(small: Recipe, database: Database) -> None:
    fewer = SelectionSettings(agreement=True, mutants=1, repeat=2)
    await run(checked(small, fewer), database)
    before = programs(database)

    more = await run(checked(small), database)
    stricter = await run(checked(small, dataclasses.replace(CHECKS, min_agreement=0.5)), database)

    assert 0 < more.programs_run == programs(database) - before <= 15
    assert stricter.programs_run == 0
    assert stricter.snapshot is not None
    assert (stricter.snapshot.judged, stricter.snapshot.size) == (15, 0)
    assert dict(rows(database, "SELECT reason, count(*) FROM rejected_pairs GROUP BY reason")) == {
        "agreement below 0.5": 15
    }


async def test_checks_that_were_cut_off_go_on_where_they_stopped(small: Recipe, database: Database) -> None:
    async def leave(job: Job) -> Outcome:
        if len(first.started) > 40:
            raise Unavailable("gone")
        return await faults_fail(job)

    first = FakeSandbox(leave)
    with pytest.raises(Unavailable):
        await run(checked(small), database, first)
    done = rows(database, "SELECT count(*) FROM executions")[0][0]

    report = await run(checked(small), database)

    assert 15 <= done <= 40
    assert report.programs_run == 15 + programs(database) - done
    assert rows(database, "SELECT count(*) FROM scores WHERE NOT complete")[0][0] == 0
    assert report.snapshot is not None
    assert report.snapshot.size == 5


async def test_a_sample_that_comes_later_counts_in_the_agreement_of_the_others(
    small: Recipe, database: Database
) -> None:
    def refuse(request: CompletionRequest) -> None:
        if stage_of(request) == "responses" and request.sampling.seed % 3 == 0:
            raise RequestFailed("status 400")

    recipe = checked(small)
    first = await run(recipe, database, engine=RuleEngine(before=refuse))
    assert first.failed
    forget_failed(database, Pipeline(recipe))

    await run(recipe, database)

    assert [tuple(row) for row in rows(database, "SELECT DISTINCT tests, complete FROM scores")] == [(3, True)]
    once = rows(database, "SELECT response_id, kept, filter, other_id FROM scored_responses ORDER BY response_id")
    assert len(once) == 15
    assert sum(row.kept for row in once) == 5


async def test_what_is_scored_anew_is_judged_anew_whatever_the_clock_says(small: Recipe, database: Database) -> None:
    """It was a day ahead when the samples that were there first were judged, or another host's was."""
    refused: set[str] = set()

    def refuse(request: CompletionRequest) -> None:
        if stage_of(request) == "responses" and request.sampling.seed % 3 == 0:
            refused.add(request.prompt.messages[-1].content)
            raise RequestFailed("status 400")

    await run(checked(small), database, engine=RuleEngine(before=refuse))
    with database.writing() as session:
        ahead = models.utc_now() + dt.timedelta(days=1)
        session.execute(sa.update(models.Judgement).values(created_at=ahead))
    forget_failed(database, Pipeline(checked(small)))

    report = await run(checked(small), database)

    assert report.snapshot is not None
    assert 0 < report.snapshot.judged == 3 * len(refused)


async def test_the_answer_that_most_samples_agree_with_is_chosen(small: Recipe, database: Database) -> None:
    """Two samples of each instruction pass each other's tests, the third only its own."""

    class Agreeing(RuleEngine):
        async def complete(self, request: CompletionRequest) -> Completion:
            completion = await super().complete(request)
            if stage_of(request) != "responses":
                return completion
            asked = hashlib.sha256(request.prompt.messages[-1].content.encode()).hexdigest()
            alone.setdefault(asked, request.sampling.seed)
            number = int(asked[:8], 16) + (alone[asked] == request.sampling.seed)
            return Completion(RESPONSE.format(number=number), "stop", 1, 1)

    alone: dict[str, int | None] = {}
    settings = SelectionSettings(agreement=True)

    report = await run(checked(small, settings), database, engine=Agreeing())

    assert report.snapshot is not None
    kept = rows(database, "SELECT DISTINCT group_size, tests_passed FROM scored_responses WHERE kept")
    assert [tuple(row) for row in kept] == [(2, 2)]


async def test_a_program_that_ends_otherwise_when_repeated_is_rejected(small: Recipe, database: Database) -> None:
    async def unsure(job: Job) -> Outcome:
        outcome = await passes(job)
        if job.repeat == 1:
            return outcome
        told = (Verdict.PASSED, Verdict.FAILED)
        return dataclasses.replace(outcome, verdict=Verdict.FAILED, repeat_verdicts=told, flaky=True)

    await run(checked(small, SelectionSettings(repeat=2)), database, FakeSandbox(unsure))

    found = rows(database, "SELECT DISTINCT filter, reason, verdict FROM rejected_pairs")
    assert [tuple(row) for row in found] == [("stable", "not every one of 2 runs passed", "PASSED")]
    with database.reading() as session:
        stored = session.scalars(sa.select(models.Execution.repeat_verdicts)).all()
    assert [told for told in stored if told] == [["PASSED", "FAILED"]] * 15


@SQLITE_ONLY
async def test_the_same_program_is_never_run_twice(small: Recipe, database: Database) -> None:
    """Equal tests and equal code of two samples are one program, whoever asks."""
    same = RuleEngine()
    complete = same.complete

    async def always(request: CompletionRequest) -> Completion:
        completion = await complete(request)
        return Completion(RESPONSE.format(number=7), "stop", 1, 1) if stage_of(request) == "responses" else completion

    same.complete = always  # type: ignore[method-assign]
    sandbox = FakeSandbox(faults_fail)

    report = await run(checked(small), database, sandbox, engine=same)

    # On itself, on two faults, one of which leaves empty functions, and twice in a row; the others' tests are its own.
    assert report.programs_run == len(sandbox.started) == 4


def planned(recipe: Recipe, database: Database) -> tuple[int, int, int]:
    step = plan(database, Pipeline(recipe))[-2]
    assert step.stage == "checks"
    return step.done, step.to_do, step.at_most


async def test_a_plan_counts_the_checks_of_answers_that_are_there_exactly(small: Recipe, database: Database) -> None:
    """Some faults are one program: less than two faults, a stub, a repetition and two other samples each."""
    recipe = checked(small)
    await run(small, database)

    before = planned(recipe, database)
    await run(recipe, database)

    assert programs(database) < 15 * 6
    assert before == (0, programs(database), programs(database))
    assert planned(recipe, database) == (programs(database), 0, 0)
    assert "checks" not in [step.stage for step in plan(database, Pipeline(small))]


async def test_a_plan_counts_one_more_fault_by_the_programs_that_it_adds(small: Recipe, database: Database) -> None:
    await run(checked(small, SelectionSettings(agreement=True, mutants=1, repeat=2)), database)
    before = planned(checked(small), database)

    report = await run(checked(small), database)

    assert before == (0, report.programs_run, report.programs_run)


async def test_a_plan_bounds_the_checks_of_what_is_not_drawn(small: Recipe, database: Database) -> None:
    """Nothing is known of an answer that is not there; of one that was not run, all but whether it passes."""
    nothing = planned(checked(small), database)
    await run(small, database)
    with database.writing() as session:
        for table in (models.Judgement, models.DatasetItem, models.Execution):
            session.execute(sa.delete(table))
    not_run = planned(checked(small), database)
    with database.writing() as session:
        least = sa.select(sa.func.min(models.Response.id)).scalar_subquery()
        session.execute(sa.delete(models.Response).where(models.Response.id != least))
    one = planned(checked(small), database)
    await run(checked(small), database)

    assert nothing == (0, 0, 15 * 6)
    assert not_run == (0, 0, programs(database))
    # Of the one that is there four at most, and it with the tests of two; of each of the others six.
    assert one[:2] == (0, 0)
    assert one[2] in (15 * 6 - 1, 15 * 6)


async def test_a_plan_counts_the_most_where_there_are_too_many_answers_to_make_the_checks_of(
    small: Recipe, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "EXACT_ANSWERS", 14)
    await run(small, database)

    assert planned(checked(small), database) == (0, 15 * 6, 15 * 6)


async def test_a_plan_counts_the_checks_that_a_sample_brings_to_those_beside_it(
    small: Recipe, database: Database
) -> None:
    """Its tests are run on their code, too: more than an answer's own checks."""
    recipe = checked(small, SelectionSettings(agreement=True))
    refused: list[CompletionRequest] = []

    def refuse(request: CompletionRequest) -> None:
        if stage_of(request) == "responses" and not refused:
            refused.append(request)
            raise RequestFailed("no")

    await run(recipe, database, engine=RuleEngine(before=refuse))
    forget_failed(database, Pipeline(recipe))

    before = planned(recipe, database)
    report = await run(recipe, database)

    assert before == (12 * 2 + 2, 0, 4)
    assert report.programs_run == 1 + 4


async def test_a_rows_story_tells_its_score_and_its_checks(small: Recipe, database: Database) -> None:
    await run(checked(small), database)
    id = rows(database, "SELECT min(response_id) FROM scored_responses")[0][0]

    with database.reading() as session:
        story = show(session, id)

    assert [score["mutants_killed"] for score in story["scores"]] == [2]
    told = [(check["kind"], check["verdict"]) for check in story["checks"]]
    assert told == [
        ("agreement", "FAILED"),
        ("agreement", "FAILED"),
        ("mutant", "FAILED"),
        ("mutant", "FAILED"),
        ("repeat", "PASSED"),
        ("stub", "FAILED"),
    ]
    assert all(check["label"].startswith("line ") for check in story["checks"] if check["kind"] == "mutant")


@pytest.mark.nsjail
@SQLITE_ONLY
async def test_in_the_real_sandbox_weak_tests_and_chance_are_told_from_good_answers(
    small: Recipe, database: Database
) -> None:
    answers = {
        "good": ("def add(value):\n    return value + 1", "assert add(1) == 2"),
        "blind": ("def add(value):\n    return value + 1", "assert add(1) == 2 or True"),
        "chance": (
            "import random\ndef add(value):\n    return value + 1",
            "assert random.random() < 0.5 or add(1) > 9",
        ),
    }

    class Three(RuleEngine):
        async def complete(self, request: CompletionRequest) -> Completion:
            completion = await super().complete(request)
            if stage_of(request) != "responses":
                return completion
            code, tests = answers[list(answers)[len(drawn) % 3]]
            drawn.append(code)
            blocks = f"#### Implementation\n```python\n{code}\n```\n\n#### Explanation\nIt adds.\n\n#### Tests\n"
            return Completion(f"#### Reasoning\nAdd.\n\n{blocks}```python\n{tests}\n```\n", "stop", 1, 1)

    drawn: list[str] = []
    recipe = checked(small, SelectionSettings(mutants=3, repeat=20))
    recipe = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, concurrency=1),
        seeds=dataclasses.replace(recipe.seeds, limit=2),
    )

    report = await build(recipe, database, Silent(), engine=Three())

    verdicts = {
        (row.test_code, row.filter)
        for row in rows(
            database,
            "SELECT r.test_code, s.filter FROM scored_responses s JOIN responses r ON r.id = s.response_id",
        )
    }
    assert (answers["good"][1], None) in verdicts
    assert (answers["blind"][1], "tests_tell") in verdicts
    # One in two runs: either it failed at once, and was never checked, or twenty runs in a row showed it.
    assert {name for tests, name in verdicts if tests == answers["chance"][1]} <= {"stable"}
    assert report.snapshot is not None
    assert report.snapshot.size == 1  # the two instructions have the same code


def test_a_pipeline_that_was_never_built_has_no_plan(database: Database) -> None:
    assert checking.find_plan(database, "nothing") is None
    with database.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(models.Check)) == 0


async def test_scores_are_shown_of_a_pipelines_own_responses(small: Recipe, database: Database) -> None:
    """Not those of samples that it no longer wants, nor of another pipeline's that are checked alike."""
    mutants = SelectionSettings(mutants=2)
    await run(checked(small, mutants), database)
    fewer = dataclasses.replace(
        checked(small, mutants), name="fewer", responses=dataclasses.replace(small.responses, samples=1)
    )

    await run(fewer, database)

    shown = rows(database, "SELECT pipeline, count(*), count(kept) FROM scored_responses GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in shown] == [("fewer", 5, 5), ("small", 15, 15)]
