"""What a build would do, told before anything runs. Reads only."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from generator import checking, models, work
from generator.causes import Cause
from generator.checks import are_wanted, most
from generator.estimate import Cost, cost
from generator.pipeline import Pipeline
from generator.recipe import SandboxSettings
from generator.seeds import gather, judge
from generator.store import Database


@dataclass(frozen=True, slots=True)
class Step:
    """What one stage has and lacks.

    Attributes:
        done: rows there are.
        to_do: rows that could be made now.
        at_most: rows to make if every row of the stages before turns out usable; `to_do` is part of it.
        cost: of `at_most` rows.
    """

    stage: str
    done: int
    to_do: int
    at_most: int
    cost: Cost = Cost()


def plan(database: Database, pipeline: Pipeline) -> list[Step]:
    """Count the work of every stage.

    A source that was not gathered yet is read, and nothing of it stored.

    Raises:
        SettingsError: the source cannot be read.
    """
    chain = pipeline.chain
    with database.reading() as session:
        row = session.get(models.Pipeline, pipeline.name)
        gathered = row is not None and row.seeds_recipe_id == pipeline.seeds.id
        executed = session.get(models.Recipe, row.executions_recipe_id) if row and row.executions_recipe_id else None
    steps: list[Step] = []
    pending = 0  # rows of the stage above that may yet come
    if not gathered:
        settings = dataclasses.replace(pipeline.recipe.seeds, limit=0)
        kept = sum(judge(record, pipeline.asked_of_seeds) is None for record in gather(settings))
        pending = min(kept, pipeline.recipe.seeds.limit or kept)
        steps.append(Step("seeds", 0, pending, pending))
        chain = dataclasses.replace(chain, pipeline="")  # what an older source left is not this pipeline's
    recipe_id = executed.id if executed and _is_asked_for(executed.parameters, pipeline.recipe.sandbox) else None
    with ThreadPoolExecutor(2) as pool:  # a database uses a processor for each of them
        counting = pool.submit(work.count_down_to, database, chain, "responses")
        programs = pool.submit(
            work.count_programs, database, chain, recipe_id, lambda: counting.result()["responses"].rows
        )
        counts = counting.result()
    for stage, samples in chain.samples.items():
        counted = counts[stage]
        to_do = counted.parents * samples - counted.rows
        pending = to_do + pending * samples
        steps.append(Step(stage, counted.rows, to_do, pending))
    unrun, run = programs.result()
    steps.append(Step("executions", run, unrun, unrun + pending))
    if are_wanted(pipeline.recipe.selection):
        steps.append(_checks(database, pipeline, chain, executed if recipe_id else None, unrun + pending))
    runs = Cause(executed.stage, executed.parameters) if executed and recipe_id else Cause("executions", {})
    by = pipeline.stages | {"executions": runs, "checks": runs}
    with database.reading() as session:
        return [
            dataclasses.replace(step, cost=cost(session, by[step.stage], step.at_most)) if step.stage in by else step
            for step in steps
        ]


def _checks(
    database: Database, pipeline: Pipeline, chain: work.Chain, executed: models.Recipe | None, to_come: int
) -> Step:
    """The programs that are run of answers which pass: each costs up to so many, and some of these are one program."""
    each = most(pipeline.recipe.selection, chain.samples["responses"])
    if executed is None:
        return Step("checks", 0, 0, to_come * each)
    causes = pipeline.checks(Cause(executed.stage, executed.parameters))
    run, unrun, unplanned = checking.count(database, chain, causes[-1].id, executed.id)
    to_do = unrun + unplanned * each
    return Step("checks", run, to_do, to_do + to_come * each)


def _is_asked_for(parameters: dict[str, Any], settings: SandboxSettings) -> bool:
    """Whether earlier executions ran as the settings ask, as far as can be told without the server."""
    limits = parameters["limits"]
    asked = {name: value for name, value in dataclasses.asdict(settings.limits).items() if value is not None}
    return bool(parameters["runtime"] == settings.runtime and limits == limits | asked)


def as_rows(steps: list[Step]) -> list[dict[str, Any]]:
    """Steps as plain values."""
    rows = [dataclasses.asdict(step) for step in steps]
    return [row | row.pop("cost") for row in rows]
