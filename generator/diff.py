"""What changed from one snapshot to another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from generator.models import Dataset, DatasetItem


@dataclass(frozen=True, slots=True)
class Change:
    """One pair that is not the same in both.

    Attributes:
        kind: "added", "removed", or "changed" where the response is in both with another text.
    """

    kind: str
    response_id: str
    instruction: str


def diff(session: Session, old: Dataset, new: Dataset) -> Iterator[Change]:
    """Yield what was added to `old`, removed from it and changed in it to make `new`, each by response id."""
    yield from (Change("added", *row) for row in session.execute(_only_in(new, old)))
    yield from (Change("removed", *row) for row in session.execute(_only_in(old, new)))
    before, after = aliased(DatasetItem), aliased(DatasetItem)
    changed = (
        sa.select(after.response_id, after.instruction)
        .join(before, before.response_id == after.response_id)
        .where(before.dataset_id == old.id, after.dataset_id == new.id)
        .where((before.instruction != after.instruction) | (before.response != after.response))
        .order_by(after.response_id)
    )
    yield from (Change("changed", *row) for row in session.execute(changed))


def _only_in(one: Dataset, other: Dataset) -> sa.Select[str, str]:
    here, there = aliased(DatasetItem), aliased(DatasetItem)
    known = sa.exists().where(there.dataset_id == other.id, there.response_id == here.response_id)
    query = sa.select(here.response_id, here.instruction).where(here.dataset_id == one.id, ~known)
    return query.order_by(here.response_id)
