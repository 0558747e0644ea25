"""Two evaluations side by side: which problems changed, and whether that is more than chance."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from generator import models, store
from trainer.evaluation.paired import Counts, difference_interval, exact_p_value
from trainer.evaluation.rows import UNJUDGED, ScoredSample, stored_samples


class NoSuchEvaluation(LookupError):
    """No evaluation, or more than one, answers to this name; the message lists some."""


class Incomparable(Exception):
    """The two are not of the same problems."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An evaluation as it lies in the database."""

    id: str
    benchmark: str
    subject: str
    scores: dict[str, object] | None
    parameters: dict[str, object]
    training_id: str | None
    samples: tuple[ScoredSample, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A problem whose share of right samples differs."""

    task_id: str
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from the first evaluation to the second.

    Attributes:
        gained: problems with a greater share of right samples in the second.
        lost: those with a smaller one.
        problems: how many both have, and every sample of which was judged in both.
        unjudged: problems that are left out, since the separate judge could not judge a sample of theirs.
        difference: of the mean shares of right samples (pass@1) on those problems, the second's less the first's.
        interval: of the difference, 95 %, see `difference_interval`.
        p_value: see `exact_p_value`.
        differing: parameters that are not the same, with both values.
    """

    first: str
    second: str
    gained: tuple[Change, ...]
    lost: tuple[Change, ...]
    problems: int
    difference: float
    interval: list[float]
    p_value: float
    differing: dict[str, tuple[object, object]]
    unjudged: int = 0


def compare(first: Stored, second: Stored) -> Comparison:
    """Compare two evaluations of the same problems.

    Raises:
        Incomparable: they are of other problems, or one is unfinished.
    """
    for one in (first, second):
        if one.scores is None:
            raise Incomparable(f"evaluation {one.id} is not finished; run `selfalign eval` as before and it goes on")
    before, after = _counts(first.samples), _counts(second.samples)
    if before.keys() != after.keys():
        missing = sorted(before.keys() ^ after.keys())
        raise Incomparable(
            f"{first.id} ({first.benchmark}) and {second.id} ({second.benchmark}) are not of the same problems: "
            f"{len(missing)} are in one of them only, {missing[0]} for example"
        )
    unjudged = {sample.task_id for sample in (*first.samples, *second.samples) if sample.verdict == UNJUDGED}
    counts = {task_id: Counts(*before[task_id], *after[task_id]) for task_id in before if task_id not in unjudged}
    changes = [
        Change(task_id, one.first_right / one.first, one.second_right / one.second) for task_id, one in counts.items()
    ]
    differences = [change.second - change.first for change in changes]
    gained = tuple(change for change in changes if change.second > change.first)
    lost = tuple(change for change in changes if change.second < change.first)
    names = sorted(first.parameters.keys() | second.parameters.keys())
    pairs = {name: (first.parameters.get(name), second.parameters.get(name)) for name in names}
    return Comparison(
        first.id,
        second.id,
        gained,
        lost,
        len(counts),
        math.fsum(differences) / max(1, len(differences)),
        difference_interval(differences),
        exact_p_value(list(counts.values())),
        {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        len(unjudged),
    )


def _counts(samples: tuple[ScoredSample, ...]) -> dict[str, tuple[int, int]]:
    """Samples and right ones of each problem."""
    drawn = Counter(sample.task_id for sample in samples)
    passed = Counter(sample.task_id for sample in samples if sample.passed)
    return {task_id: (number, passed[task_id]) for task_id, number in drawn.items()}


def find_evaluation(database: store.Database, name: str) -> Stored:
    """Find an evaluation by its id, by the beginning of it, or by ``last`` (the newest), ``last~1`` (the one before).

    Raises:
        NoSuchEvaluation: none, or several.
    """
    table = models.Evaluation
    newest = sa.select(table).order_by(table.created_at.desc(), table.id)
    with database.reading() as session:
        if name == "last" or name.startswith("last~"):
            back = name.removeprefix("last").removeprefix("~") or "0"
            if not back.isdigit():
                raise NoSuchEvaluation(f"{name}: expected last, or last~1 for the one before")
            found = list(session.scalars(newest.offset(int(back)).limit(1)))
        else:
            found = list(session.scalars(newest.where(table.id.startswith(name, autoescape=True)).limit(3)))
        if len(found) != 1:
            known = [f"{row.id[:12]} ({row.benchmark}, {row.subject})" for row in session.scalars(newest.limit(5))]
            told = "; ".join(known) or "none"
            what = f"several evaluations begin with {name!r}" if found else f"no evaluation {name!r}"
            raise NoSuchEvaluation(f"{what} in {database.name}; the newest there: {told}")
        row = found[0]
        recipe = session.get_one(models.Recipe, row.recipe_id)
        return Stored(
            row.id,
            row.benchmark,
            row.subject,
            row.scores,
            dict(recipe.parameters),
            row.training_id,
            tuple(stored_samples(session, row.id)),
        )
