from __future__ import annotations

import dataclasses
import io

import sqlalchemy as sa
from rich.console import Console

from generator import models
from generator.pipeline import build
from generator.preview import preview
from generator.progress import Silent
from generator.recipe import Recipe
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


def shown(stories: list[dict[str, object]], *, whole_prompts: bool = False) -> str:
    stream = io.StringIO()
    render(stories, whole_prompts=whole_prompts, console=Console(file=stream, width=200))
    return stream.getvalue()
