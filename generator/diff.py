"""What changed from one snapshot to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from generator.models import Dataset, DatasetItem, Judgement


@dataclass(frozen=True, slots=True)
class Change:
    """One pair that is not the same in both.

    Attributes:
        kind: "added", "removed", or "changed" where the response is in both with another text.
        reason: why the selection of the snapshot that lacks it rejected it, with the filter's name; None where it has
            not judged the response, or took that back since the response is no longer its pipeline's.
    """

    kind: str
    response_id: str
    instruction: str
    reason: str | None = None


def diff(session: Session, old: Dataset, new: Dataset) -> Iterator[Change]:
    """Yield what was added to `old`, removed from it and changed in it to make `new`, each by response id."""
    for kind, query in (("added", _only_in(new, old)), ("removed", _only_in(old, new))):
        for id, instruction, name, reason in session.execute(query):
            yield Change(kind, id, instruction, f"{name}: {reason}" if name else None)
    before, after = aliased(DatasetItem), aliased(DatasetItem)
    changed = (
        sa.select(after.response_id, after.instruction)
        .join(before, before.response_id == after.response_id)
        .where(before.dataset_id == old.id, after.dataset_id == new.id)
        .where((before.instruction != after.instruction) | (before.response != after.response))
        .order_by(after.response_id)
    )
    yield from (Change("changed", *row) for row in session.execute(changed))


def _only_in(one: Dataset, other: Dataset) -> sa.Select[str, str, str | None, str | None]:
    here, there = aliased(DatasetItem), aliased(DatasetItem)
    known = sa.exists().where(there.dataset_id == other.id, there.response_id == here.response_id)
    judged = sa.and_(Judgement.recipe_id == other.recipe_id, Judgement.subject_id == here.response_id)
    query = sa.select(here.response_id, here.instruction, Judgement.filter, Judgement.reason)
    query = query.outerjoin(Judgement, judged).where(here.dataset_id == one.id, ~known)
    return query.order_by(here.response_id)
