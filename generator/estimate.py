"""What rows that are not there yet will cost, judged by those that are: tokens, and time at the rate of earlier builds.

Nothing is made up: where too few rows were stored there is no estimate.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator.causes import Cause
from generator.models import Execution, Pipeline, Recipe
from generator.work import LEVELS

SAMPLED_ROWS = 1000
LEAST_ROWS = 10
"""Fewer tell too little."""

_SELECTIONS = sa.select(Recipe.parameters).where(Recipe.stage == "selection")
_PAUSE_GAPS = 20
_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What some rows will cost. None: there is nothing to judge by.

    Attributes:
        prompt_tokens: that a model reads.
        completion_tokens: that it writes.
        time_s: at the rate of the builds that made the rows judged by.
        judged_by: in words, which rows those were.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    time_s: float | None = None
    judged_by: str | None = None


def cost(session: Session, cause: Cause, rows: int) -> Cost:
    """Estimate what `rows` rows of a recipe cost.

    Rows of the recipe itself are judged by; where it has too few, those of the newest other recipe of its stage, which
    for completions must be of the same model.
    """
    table: Any = LEVELS[cause.stage].table if cause.stage in LEVELS else Execution
    tokens: list[Any] = [] if table is Execution else [table.prompt_tokens, table.completion_tokens]
    if rows == 0:
        return Cost(0, 0, 0.0)
    for recipe_id, whose in _judges(session, cause):
        mine = table.recipe_id == recipe_id
        # Keys are hashes, so the first rows of an index are as good as any.
        sample = session.execute(sa.select(table.created_at, *tokens).where(mine).limit(SAMPLED_ROWS)).all()
        if len(sample) >= LEAST_ROWS:
            stored = session.scalar(sa.select(sa.func.count()).select_from(table).where(mine)) or 0
            means = [_mean([row[1 + place] for row in sample]) for place in range(len(tokens))] or [0.0, 0.0]
            prompt, completion = (None if mean is None else round(mean * rows) for mean in means)
            active_s = _active_s([row[0].timestamp() for row in sample])
            return Cost(prompt, completion, active_s / stored * rows, f"{len(sample)} rows of {whose}")
    return Cost()


def runs_of_answers(session: Session) -> list[Recipe]:
    """The recipes under which answers ran with their own tests, newest first; other executions are of checks."""
    named = [*session.scalars(sa.select(Pipeline.executions_recipe_id))]
    named += [told.get("executions") for told in session.scalars(_SELECTIONS)]
    mine = Recipe.id.in_({id for id in named if id})
    return list(session.scalars(sa.select(Recipe).where(mine).order_by(Recipe.created_at.desc())))


def _judges(session: Session, cause: Cause) -> list[tuple[str, str]]:
    model: Any = cause.parameters.get("model")
    newest = sa.select(Recipe).where(Recipe.stage == cause.stage).order_by(Recipe.created_at.desc()).limit(20)
    recipes = session.scalars(newest) if cause.stage in LEVELS else runs_of_answers(session)
    others = [row for row in recipes if row.id != cause.id and row.parameters.get("model") == model]
    return [(cause.id, "this recipe"), *((row.id, "an earlier recipe") for row in others)]


def _mean(values: Sequence[Any]) -> float | None:
    """Of what is known: a server need not count tokens."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _active_s(times_s: list[float]) -> float:
    """How long rows were being stored, without the pauses between builds: gaps far longer than is usual."""
    times_s = sorted(times_s)
    gaps = [later - earlier for earlier, later in pairwise(times_s)]
    usual = max(_PAUSE_S, _PAUSE_GAPS * statistics.median(gaps))
    return sum(gap for gap in gaps if gap <= usual)
