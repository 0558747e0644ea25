from __future__ import annotations

import dataclasses
import io

import sqlalchemy as sa
from rich.console import Console

from generator import models
from generator.pipeline import build
from generator.preview import left_out, preview
from generator.progress import Silent
from generator.recipe import DatasetSettings, Recipe, SelectionSettings
from generator.render import render
from generator.store import Database
from sandbox_server.jobs import Job, Outcome, ProgramError, TestReport, Verdict
from tests.fakes import FakeSandbox
from tests.generator.rules import RuleEngine


async def test_a_preview_takes_some_seeds_through_every_stage(small: Recipe, database: Database) -> None:
    engine = RuleEngine()

    stories = await preview(small, database, Silent(), 2, engine=engine, sandbox=FakeSandbox())

    assert len(engine.requests) == 6
    assert len(stories) == 2
    for story in stories:
        assert story["code"].startswith("\ndef ") or story["code"].startswith("def ")
        assert story["responses"]["execution"]["verdict"] == "PASSED"
        assert story["instructions"]["text"] in story["responses"]["prompt"]


async def test_what_a_preview_drew_the_build_does_not_draw_again(small: Recipe, database: Database) -> None:
    await preview(small, database, Silent(), 2, engine=RuleEngine(), sandbox=FakeSandbox())

    report = await build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox())

    assert report.drawn == {"concepts": 3, "instructions": 3, "responses": 13}
    assert report.programs_run == 13


async def test_a_preview_leaves_no_pipeline_and_no_snapshot(small: Recipe, database: Database) -> None:
    await preview(small, database, Silent(), 1, engine=RuleEngine(), sandbox=FakeSandbox())

    with database.reading() as session:
        assert list(session.scalars(sa.select(models.Pipeline.name))) == ["small"]
        assert session.scalars(sa.select(models.Dataset)).all() == []


async def test_a_preview_of_what_was_built_asks_nothing(small: Recipe, database: Database) -> None:
    await build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox())
    engine, sandbox = RuleEngine(), FakeSandbox()

    stories = await preview(small, database, Silent(), 3, engine=engine, sandbox=sandbox)

    assert len(stories) == 3
    assert (engine.requests, sandbox.started) == ([], [])


async def test_an_answer_that_cannot_be_used_ends_its_story(small: Recipe, database: Database) -> None:
    class Silly(RuleEngine):
        async def complete(self, request):  # type: ignore[no-untyped-def]
            return dataclasses.replace(await super().complete(request), text="")

    (story,) = await preview(small, database, Silent(), 1, engine=Silly(), sandbox=FakeSandbox())

    assert story["concepts"]["error"] == "no concepts"
    assert "instructions" not in story
    assert "cannot be used: no concepts" in shown([story])


async def test_a_preview_can_be_read(small: Recipe, database: Database) -> None:
    async def fail(job: Job) -> Outcome:
        tests = TestReport(assertions_run=2, assertions_failed=1)
        return Outcome(Verdict.FAILED, tests=tests, error=ProgramError("AssertionError", "1 is not 2"))

    stories = await preview(small, database, Silent(), 1, engine=RuleEngine(), sandbox=FakeSandbox(fail))
    text = shown(stories)

    assert "FAILED" in text
    assert "2 assertions, 1 failed" in text
    assert "AssertionError: 1 is not 2" in text
    assert len(shown(stories, whole_prompts=True)) > len(text)


async def test_a_preview_checks_answers_and_says_what_filters_say(small: Recipe, database: Database) -> None:
    async def run(job: Job) -> Outcome:
        """Tests notice that nothing comes back, and no other fault."""
        verdict = Verdict.FAILED if "return None" in job.code else Verdict.PASSED
        return Outcome(verdict, tests=TestReport(assertions_run=1, assertions_failed=int(verdict != Verdict.PASSED)))

    selection = SelectionSettings(agreement=True, min_agreement=0.5, mutants=3, min_mutation_score=0.5, repeat=2)
    strict = dataclasses.replace(small, selection=selection)
    (story,) = await preview(strict, database, Silent(), 1, engine=RuleEngine(), sandbox=FakeSandbox(run))

    told = story["responses"]
    assert (told["checks"]["stub_failed"], told["checks"]["flaky"]) == (True, False)
    assert (told["checks"]["mutants_killed"], told["checks"]["mutants"]) == (1, 3)
    assert (told["kept"], told["filter"]) == (False, "kills_mutants")
    assert "pair" not in told
    text = shown([story])
    assert "its tests fail on empty functions" in text
    assert "its tests notice 1 of 3 faults" in text
    assert "rejected by kills_mutants: its tests notice fewer than 50% of the faults" in text


async def test_the_build_runs_no_check_again_that_a_preview_ran(small: Recipe, database: Database) -> None:
    selection = SelectionSettings(agreement=True, mutants=3, repeat=2)
    strict = dataclasses.replace(small, selection=selection)
    fresh, after = FakeSandbox(), FakeSandbox()
    await preview(strict, database, Silent(), 2, engine=RuleEngine(), sandbox=fresh)
    with database.reading() as session:
        assert session.scalars(sa.select(models.Check.kind)).all() == []
        assert session.scalars(sa.select(models.Score.response_id)).all() == []

    await build(strict, database, Silent(), engine=RuleEngine(), sandbox=after)

    programs = [(job.code, job.tests, job.repeat, job.limits.cpu_time_ms) for job in fresh.started + after.started]
    assert len(programs) == len(set(programs))
    with database.reading() as session:
        assert set(session.scalars(sa.select(models.Score.complete))) == {True}


async def test_a_preview_shows_the_pair_as_it_is_trained_on(small: Recipe, database: Database) -> None:
    clean = dataclasses.replace(small, dataset=DatasetSettings(sections=("implementation",), assertions_shown=1.0))

    stories = await preview(clean, database, Silent(), 1, engine=RuleEngine(), sandbox=FakeSandbox())

    told = stories[0]["responses"]
    assert told["kept"] is True
    assert told["pair"]["response"].startswith("```python\ndef add(value):")
    assert "Your code should pass the following assertion:" in told["pair"]["instruction"]
    assert "trained on" in shown(stories)


def test_what_a_preview_leaves_out_is_told(small: Recipe) -> None:
    strict = dataclasses.replace(small, selection=SelectionSettings(agreement=True, near_duplicates=0.7))

    assert left_out(strict) == [
        "responses: one sample is drawn, the build draws 3",
        "agreement with the tests of an instruction's other samples: there are none",
        "comparison with all other pairs (one_per_instruction, new_instruction, new_code, near_instruction, near_code)",
        "the snapshot",
    ]


def shown(stories: list[dict[str, object]], *, whole_prompts: bool = False) -> str:
    stream = io.StringIO()
    render(stories, whole_prompts=whole_prompts, console=Console(file=stream, width=200))
    return stream.getvalue()
