"""What a build would do, told before anything runs. Reads only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import checking, models, work
from generator.causes import Cause, runs_as_asked
from generator.checks import are_wanted
from generator.estimate import Cost, cost, runs_of_answers
from generator.pipeline import Pipeline, choice_of_seeds
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
        gone: seeds that were chosen and will not be, and responses that were selected from and are no longer the
            pipeline's; what was made of them stays, and counts no longer.
        cost: of `at_most` rows.
    """

    stage: str
    done: int
    to_do: int
    at_most: int
    gone: int = 0
    cost: Cost = Cost()


def plan(database: Database, pipeline: Pipeline, say: Callable[[str], None] = lambda _: None) -> list[Step]:
    """Count the work of every stage.

    A source that was not gathered yet is read, and nothing of it stored; that takes a while, so it is said.

    Raises:
        SettingsError: the source cannot be read.
    """
    chain, _ = pipeline.chain, pipeline.rules  # the build would stop where these cannot be had
    with database.reading() as session:
        row = session.get(models.Pipeline, pipeline.name)
        gathered = row is not None and row.seeds_recipe_id == pipeline.seeds.id
        executed = _executed(session, row, pipeline.recipe.sandbox)
    runs = Cause(executed.stage, executed.parameters) if executed else Cause("executions", {})
    selection = pipeline.selection(runs).id if executed else None
    if not gathered:
        chain = dataclasses.replace(chain, pipeline="")  # what an older source left is not this pipeline's
    with ThreadPoolExecutor(2) as pool:  # a database uses a processor for each of them
        counting = pool.submit(work.count_down_to, database, chain, "responses")
        programs = pool.submit(
            work.count_programs,
            database,
            chain,
            executed.id if executed else None,
            lambda: counting.result()["responses"].rows,
        )
        seeds = choice_of_seeds(database, pipeline) if gathered else (0, _count_source(pipeline, say), 0)
        judged = _count_judged(database, row, selection) if gathered else 0
        counts = counting.result()
        unrun, all_programs, is_whole = programs.result()
    left = 0
    if judged and not (is_whole and judged == counts["responses"].rows):  # some may have left, and others come
        stayed = work.count_judged(database, chain, selection or "")
        judged, left = stayed, judged - stayed
    stay, pending, gone = seeds  # of these so many rows of the stage below may yet come
    steps = [Step("seeds", stay, pending, pending, gone=gone)] if pending or gone or not gathered else []
    for stage, samples in chain.samples.items():
        counted = counts[stage]
        to_do = counted.parents * samples - counted.rows
        pending = to_do + pending * samples
        steps.append(Step(stage, counted.rows, to_do, pending))
    steps.append(Step("executions", all_programs - unrun, unrun, unrun + pending))
    if are_wanted(pipeline.recipe.selection):
        steps.append(_checks(database, pipeline, chain, executed, counts["responses"], pending))
    by = pipeline.stages | {"executions": runs, "checks": runs}
    waits = any(step.to_do for step in steps)
    unjudged = max(0, counts["responses"].rows - judged)
    # Selection comes last: it has nothing to do now where anything is to be drawn or run.
    steps.append(Step("selection", judged, 0 if waits else unjudged, unjudged + pending, gone=left))
    with database.reading() as session:
        return [
            dataclasses.replace(
                step,
                cost=cost(session, by[step.stage], step.at_most)
                if step.stage in by
                else Cost(0, 0, None if step.at_most else 0.0),
            )
            for step in steps
        ]


def _executed(session: Session, row: models.Pipeline | None, settings: SandboxSettings) -> models.Recipe | None:
    """How answers ran when they last ran as the settings ask: the pipeline's own way first, then the newest."""
    last = row.executions_recipe_id if row else None
    default_limits = _default_limits(session, row, settings)
    ways = sorted(runs_of_answers(session), key=lambda recipe: recipe.id != last)
    return next((recipe for recipe in ways if runs_as_asked(recipe.parameters, settings, default_limits)), None)


def _default_limits(session: Session, row: models.Pipeline | None, settings: SandboxSettings) -> dict[str, Any] | None:
    """What the sandbox gives programs that ask for nothing, as a build last heard of it: this pipeline's or another."""
    if row is not None and row.default_limits is not None:
        return row.default_limits
    told = sa.select(models.Pipeline).where(models.Pipeline.default_limits.is_not(None))
    for other in session.scalars(told.order_by(models.Pipeline.updated_at.desc())):
        if other.parameters.get("sandbox", {}).get("address", settings.address) == settings.address:
            return other.default_limits
    return None


def _checks(
    database: Database,
    pipeline: Pipeline,
    chain: work.Chain,
    executed: models.Recipe | None,
    responses: work.Count,
    to_come: int,
) -> Step:
    """The programs that are run of answers which pass; `to_come` responses are to be drawn at most."""
    # Where nothing ran yet, under limits that nothing runs under.
    unknown = {"limits": {"cpu_time_ms": pipeline.recipe.selection.mutant_cpu_time_ms + 1}}
    how = Cause("executions", executed.parameters if executed else unknown)
    asked = checking.plan_of(pipeline.checks(how)[-1])
    counted = checking.count(database, chain, asked, responses, to_come)
    return Step("checks", counted.run, counted.to_do, counted.at_most)


def _count_source(pipeline: Pipeline, say: Callable[[str], None]) -> int:
    """The seeds that a build would choose of a source that was not gathered yet."""
    say("reading the source of seeds, which no build has read yet")
    settings = dataclasses.replace(pipeline.recipe.seeds, limit=0)
    kept = sum(judge(record, pipeline.asked_of_seeds) is None for record in gather(settings))
    return min(kept, pipeline.recipe.seeds.limit or kept)


def _count_judged(database: Database, row: models.Pipeline | None, selection: str | None) -> int:
    """The responses that a selection has gone through; `selection` is its recipe id."""
    # What was selected so before the last build was not frozen last: it is gone through again.
    if row is None or selection is None or row.selection_recipe_id != selection:
        return 0
    return work.count_of_recipe(database, models.Judgement, selection)


def as_rows(steps: list[Step]) -> list[dict[str, Any]]:
    """Steps as plain values."""
    rows = [dataclasses.asdict(step) for step in steps]
    return [row | row.pop("cost") for row in rows]
