"""The rows of an evaluation: `evaluations` and `evaluation_samples`, written through the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from generator import store

UNJUDGED = "UNJUDGED"
"""In `evaluation_samples.verdict`: the separate judge cannot judge this program's tests; `details` says why."""


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """One sample with its verdict, a `Verdict` or `UNJUDGED`.

    `details` holds the first failure or error, counts, assurance and usage; or the reason why there is no verdict.
    """

    task_id: str
    sample_index: int
    completion: str
    code: str
    verdict: str
    details: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the sample counts as right."""
        return self.verdict == "PASSED"


def stored_samples(session: Session, evaluation_id: str) -> Iterator[ScoredSample]:
    """The stored samples of an evaluation, by task and sample index."""
    for row in store.evaluation_samples(session, evaluation_id):
        yield ScoredSample(row.task_id, row.sample_index, row.completion, row.code, row.verdict, row.details or {})


class EvaluationRows:
    """The stored part of one evaluation. The same causes find the same rows, so a stopped evaluation goes on.

    Args:
        database: where the rows live.
        benchmark: its name.
        subject: what is scored, with what identifies its content.
        parameters: everything about data, sandbox and sampling that changes a verdict; JSON-able.
        training_id: the training whose checkpoint is scored, if it is one of ours.
    """

    def __init__(
        self,
        database: store.Database,
        *,
        benchmark: str,
        subject: str,
        parameters: Mapping[str, Any],
        training_id: str | None = None,
    ) -> None:
        self._database = database
        with database.writing() as session:
            row = store.add_evaluation(
                session, benchmark=benchmark, subject=subject, parameters=parameters, training_id=training_id
            )
            self.id = row.id
            self._complete = row.scores is not None

    def finished(self) -> dict[tuple[str, int], ScoredSample]:
        """Samples that have a verdict, by (task_id, sample_index)."""
        with self._database.reading() as session:
            return {(sample.task_id, sample.sample_index): sample for sample in stored_samples(session, self.id)}

    def add(self, sample: ScoredSample) -> None:
        """Store one verdict, for good: its run is not repeated."""
        row = {
            "evaluation_id": self.id,
            "task_id": sample.task_id,
            "sample_index": sample.sample_index,
            "completion": store.storable(sample.completion),
            "code": store.storable(sample.code),
            "verdict": sample.verdict,
            "details": sample.details,
        }
        with self._database.writing() as session:
            store.add_evaluation_samples(session, [row])

    def finish(self, scores: Mapping[str, Any]) -> None:
        """Store the scores once every sample has a verdict."""
        if not self._complete:
            with self._database.writing() as session:
                store.finish_evaluation(session, self.id, scores)
