"""A plan says what each change would cost before anything runs, and its figures are those of the build that follows."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from generator.estimate import Cost
from generator.models import Pipeline as Pipelines
from generator.models import PipelineSeed
from generator.pipeline import Pipeline, Report, build, declare, gather_seeds
from generator.plan import Step, plan
from generator.progress import Silent
from generator.recipe import Recipe, SelectionSettings
from generator.store import Database
from sandbox_server.jobs import LimitsRequest
from tests.fakes import LIMITS, FakeSandbox
from tests.generator.conftest import SQLITE_ONLY
from tests.generator.rules import RuleEngine


async def run(recipe: Recipe, database: Database) -> Report:
    return await build(recipe, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox())


def steps(recipe: Recipe, database: Database) -> dict[str, tuple[int, int, int]]:
    """What every stage has, can make now, and would make at most."""
    return {step.stage: (step.done, step.to_do, step.at_most) for step in plan(database, Pipeline(recipe))}


def limited(recipe: Recipe, limit: int) -> Recipe:
    return dataclasses.replace(recipe, seeds=dataclasses.replace(recipe.seeds, limit=limit))


def with_cpu_time(recipe: Recipe, cpu_time_ms: int) -> Recipe:
    limits = LimitsRequest(cpu_time_ms=cpu_time_ms)
    return dataclasses.replace(recipe, sandbox=dataclasses.replace(recipe.sandbox, limits=limits))


async def test_a_changed_filter_selects_anew_and_nothing_else(small: Recipe, database: Database) -> None:
    await run(small, database)
    assert steps(small, database)["selection"] == (15, 0, 0)

    changed = dataclasses.replace(small, selection=SelectionSettings(near_duplicates=0.5))
    planned = steps(changed, database)
    report = await run(changed, database)

    assert planned.pop("selection") == (0, 15, 15)
    assert {to_do for _, to_do, at_most in planned.values()} == {0}
    assert report.snapshot is not None
    assert (report.completions_drawn, report.programs_run, report.snapshot.judged) == (0, 0, 15)


async def test_one_seed_more_is_the_calls_of_one_seed(small: Recipe, database: Database) -> None:
    """The seed that a higher limit lets in is planned for, though the choice is made by the build."""
    await run(limited(small, 4), database)

    planned = steps(limited(small, 5), database)
    report = await run(limited(small, 5), database)

    assert (planned["seeds"], planned["concepts"], planned["responses"]) == ((4, 1, 1), (4, 0, 1), (12, 0, 3))
    assert planned["selection"] == (12, 0, 3)
    assert report.drawn == {"concepts": 1, "instructions": 1, "responses": 3}


@SQLITE_ONLY
async def test_seeds_that_leave_are_told(small: Recipe, database: Database) -> None:
    await run(small, database)

    first, *others = plan(database, Pipeline(limited(small, 3)))

    assert first == Step("seeds", 3, 0, 0, gone=2, cost=Cost(0, 0, 0.0))
    assert {step.at_most for step in others} == {0}


@SQLITE_ONLY
async def test_filters_of_seeds_are_asked_before_the_build_asks_them(small: Recipe, database: Database) -> None:
    """Another filter, which no seed was judged by yet: its objections are counted, and nothing is stored."""
    await run(limited(small, 2), database)
    changed = limited(small, 3)
    changed = dataclasses.replace(changed, seeds=dataclasses.replace(changed.seeds, near_duplicates=0.99))

    assert steps(changed, database)["seeds"] == (2, 1, 1)
    assert steps(changed, database)["seeds"] == (2, 1, 1)
    assert "seeds" not in steps(limited(small, 2), database)


async def test_limits_that_were_in_force_before_cost_nothing(small: Recipe, database: Database) -> None:
    """Programs that ran under the same limits two builds ago are not planned again."""
    await run(with_cpu_time(small, 2000), database)
    programs = steps(with_cpu_time(small, 2000), database)["executions"][0]
    changed = steps(with_cpu_time(small, 1000), database)
    await run(with_cpu_time(small, 1000), database)

    again = steps(with_cpu_time(small, 2000), database)
    report = await run(with_cpu_time(small, 2000), database)

    assert changed["executions"] == (0, programs, programs)
    assert changed["selection"] == (0, 0, 15)
    assert again["executions"] == (programs, 0, 0)
    assert report.programs_run == 0


async def test_responses_that_leave_are_told(small: Recipe, database: Database) -> None:
    await run(small, database)

    *_, selection = plan(
        database, Pipeline(dataclasses.replace(small, responses=dataclasses.replace(small.responses, samples=2)))
    )

    assert (selection.done, selection.to_do, selection.at_most, selection.gone) == (10, 0, 0, 5)


async def test_responses_that_leave_are_told_where_as_many_come(small: Recipe, database: Database) -> None:
    """Of a seed that was chosen before; both were drawn, so that numbers alone show no change."""
    await run(small, database)
    await run(limited(small, 4), database)
    with database.writing() as session:
        first, *_, last = session.scalars(sa.select(PipelineSeed).order_by(PipelineSeed.seed_id))
        first.chosen, last.chosen = False, True

    selection = next(step for step in plan(database, Pipeline(limited(small, 4))) if step.stage == "selection")

    assert (selection.done, selection.gone) == (9, 3)


async def test_a_new_pipeline_takes_the_sandbox_to_give_what_it_gives_others(small: Recipe, database: Database) -> None:
    """What ran under limits that another pipeline asks for runs again under those that nobody asks for."""
    await run(with_cpu_time(small, 2 * LIMITS.cpu_time_ms), database)
    other = dataclasses.replace(small, name="other")
    declare(database, Pipeline(other))
    gather_seeds(database, Pipeline(other), Silent())

    planned = steps(other, database)["executions"]
    report = await run(other, database)

    assert planned == (0, report.programs_run, report.programs_run)


async def test_a_limit_that_is_no_longer_set_is_the_sandboxs_own_again(small: Recipe, database: Database) -> None:
    """And one that is set to what the sandbox gives anyway changes nothing, nor does taking that away."""
    usual = LIMITS.cpu_time_ms
    await run(with_cpu_time(small, 2 * usual), database)

    removed = steps(small, database)
    report = await run(small, database)
    same = [steps(with_cpu_time(small, usual), database)["executions"]]
    await run(with_cpu_time(small, usual), database)
    same.append(steps(small, database)["executions"])

    programs = report.programs_run
    assert programs > 0
    assert removed["executions"] == (0, programs, programs)
    assert same == [(programs, 0, 0)] * 2


@SQLITE_ONLY
async def test_what_a_sandbox_gives_is_taken_to_be_as_it_was_where_nobody_asked_it(
    small: Recipe, database: Database
) -> None:
    """A database that was last built before this was kept."""
    await run(small, database)
    with database.writing() as session:
        session.get_one(Pipelines, small.name).default_limits = None

    assert steps(small, database)["executions"][1] == 0
    assert steps(with_cpu_time(small, 2 * LIMITS.cpu_time_ms), database)["executions"][1] > 0


async def test_programs_of_checks_are_no_executions_of_answers(small: Recipe, database: Database) -> None:
    """Samples that are run with each other's tests run as answers do, and are counted under checks alone."""
    await run(small, database)
    before = steps(small, database)["executions"]
    checked = dataclasses.replace(small, selection=SelectionSettings(agreement=True, repeat=2))

    await run(checked, database)

    assert steps(checked, database)["executions"] == before
    assert steps(checked, database)["checks"][0] > 0
