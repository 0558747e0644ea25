"""A row's story tells what earlier recipes came to, and which of it is current: what the views show."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from generator.lineage import show
from generator.models import Pipeline
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import Recipe, SelectionSettings
from generator.store import Database
from sandbox_server.jobs import LimitsRequest
from tests.fakes import FakeSandbox
from tests.generator.rules import RuleEngine

Story = dict[str, Any]


async def run(recipe: Recipe, database: Database) -> None:
    await build(recipe, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox())


def story_of(database: Database, id: str) -> Story:
    with database.reading() as session:
        return show(session, id)


def a_response(database: Database) -> str:
    with database.reading() as session:
        return str(session.scalar(sa.text("SELECT min(response_id) FROM pipeline_responses WHERE pipeline = 'small'")))


def current(story: Story, table: str) -> list[list[str]]:
    return [row["current_in"] for row in story[table]]


def with_limits(recipe: Recipe, **limits: int) -> Recipe:
    return dataclasses.replace(recipe, sandbox=dataclasses.replace(recipe.sandbox, limits=LimitsRequest(**limits)))


async def test_a_judgement_is_current_under_the_selection_that_was_built_last(
    small: Recipe, database: Database
) -> None:
    """Also when that is the older one again: what is current comes first."""
    stricter = dataclasses.replace(small, selection=SelectionSettings(near_duplicates=0.9))
    await run(small, database)
    id = a_response(database)
    await run(stricter, database)
    second = story_of(database, id)["judgements"]
    await run(small, database)
    third = story_of(database, id)["judgements"]

    assert [row["current_in"] for row in second] == [row["current_in"] for row in third] == [["small"], []]
    assert [row["recipe_id"] for row in second] == [row["recipe_id"] for row in reversed(third)]


async def test_an_execution_is_current_under_the_limits_that_were_built_last(small: Recipe, database: Database) -> None:
    await run(with_limits(small, cpu_time_ms=2000), database)
    await run(with_limits(small, cpu_time_ms=1000), database)
    story = story_of(database, a_response(database))

    assert current(story, "executions") == [["small"], []]
    assert [row["limits"]["cpu_time_ms"] for row in story["executions"]] == [1000, 2000]
    with database.reading() as session:
        now = session.scalar(sa.text("SELECT executions_recipe_id FROM pipelines"))
    assert story["executions"][0]["recipe_id"] == now
    assert [story_of(database, row["id"])["executions"]["current_in"] for row in story["executions"]] == current(
        story, "executions"
    )


async def test_what_checks_ran_is_current_and_comes_after_the_answers_own_run(
    small: Recipe, database: Database
) -> None:
    fewer = dataclasses.replace(small, selection=SelectionSettings(mutants=1, repeat=2))
    more = dataclasses.replace(small, selection=SelectionSettings(mutants=2, repeat=2))
    await run(fewer, database)
    await run(more, database)

    story = story_of(database, a_response(database))

    assert current(story, "executions") == [["small"], ["small"]]
    with database.reading() as session:
        assert story["executions"][0]["recipe_id"] == session.get_one(Pipeline, "small").executions_recipe_id
    assert current(story, "scores") == [["small"], []]
    # A stub, a repetition and two faults now; one fault under the recipe of checks before.
    assert current(story, "checks") == [["small"]] * 4 + [[]] * 3
    assert {row["recipe_id"] for row in story["checks"][:4]} == {story["scores"][0]["recipe_id"]}


async def test_an_answer_to_another_prompt_is_no_longer_current_and_its_seed_is(
    small: Recipe, database: Database
) -> None:
    await run(small, database)
    id = a_response(database)
    await run(dataclasses.replace(small, responses=dataclasses.replace(small.responses, fewshots=2)), database)

    story = story_of(database, id)

    assert story["responses"]["current_in"] == []
    assert [story[table]["current_in"] for table in ("seeds", "concepts", "instructions")] == [["small"]] * 3
    siblings = story_of(database, story["instructions"]["id"])["responses"]
    assert sorted(row["current_in"] for row in siblings) == [[]] * 3 + [["small"]] * 3


async def test_what_was_made_of_a_seed_goes_with_it(small: Recipe, database: Database) -> None:
    """Every pipeline that has it is named, and one that no longer chooses its seed is not."""
    await run(small, database)
    await run(dataclasses.replace(small, name="all"), database)
    await run(dataclasses.replace(small, seeds=dataclasses.replace(small.seeds, limit=4)), database)
    with database.reading() as session:
        gone = session.scalar(
            sa.text(
                "SELECT min(r.response_id) FROM pipeline_responses r JOIN pipeline_seeds s ON s.seed_id = r.seed_id "
                "WHERE r.pipeline = 'all' AND s.pipeline = 'small' AND NOT s.chosen"
            )
        )

    story = story_of(database, str(gone))

    assert [story[table]["current_in"] for table in ("seeds", "concepts", "instructions", "responses")] == [["all"]] * 4
    assert story_of(database, a_response(database))["responses"]["current_in"] == ["all", "small"]


async def test_a_snapshot_and_a_recipe_say_whose_they_are(small: Recipe, database: Database) -> None:
    await run(with_limits(small, cpu_time_ms=2000), database)
    stricter = dataclasses.replace(small, dataset=dataclasses.replace(small.dataset, sections=("implementation",)))
    await run(stricter, database)
    with database.reading() as session:
        snapshots = [row.id for row in session.execute(sa.text("SELECT id FROM datasets ORDER BY version"))]
        ways = [row.id for row in session.execute(sa.text("SELECT id FROM recipes WHERE stage = 'executions'"))]

    assert [story_of(database, id)["datasets"]["current_in"] for id in snapshots] == [[], ["small"]]
    told = [story_of(database, id)["recipes"]["current_in"] for id in ways]
    assert sorted(told) == [[], ["small"]]
    with database.reading() as session:
        kept = session.scalar(sa.text("SELECT min(response_id) FROM accepted_pairs"))
    assert current(story_of(database, str(kept)), "datasets") == [[], ["small"]]
