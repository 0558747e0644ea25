"""How much a frozen snapshot holds of what is scored: every pair against every problem of a folder of benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator.benchmarks import BenchmarkIndex, Overlap
from generator.models import Dataset, DatasetItem


@dataclass(frozen=True, slots=True)
class Finding:
    """One pair that holds too much of a problem.

    Attributes:
        place: "instruction" or "response".
        kind: what of the problem it holds: its description or its solution.
        share: how much of that, from 0 to 1.
    """

    position: int
    response_id: str
    place: str
    problem: str
    kind: str
    share: float


def overlaps(session: Session, dataset: Dataset, index: BenchmarkIndex) -> Iterator[Finding]:
    """Yield the pairs of a snapshot that overlap a problem, by position; for each of their texts the worst problem."""
    columns = (DatasetItem.position, DatasetItem.response_id, DatasetItem.instruction, DatasetItem.response)
    query = sa.select(*columns).where(DatasetItem.dataset_id == dataset.id).order_by(DatasetItem.position)
    for position, id, instruction, response in session.execute(query.execution_options(yield_per=500)):
        for place, text in (("instruction", instruction), ("response", response)):
            found: Overlap | None = index.find(text)
            if found:
                yield Finding(position, id, place, found.problem, found.kind, found.share)
