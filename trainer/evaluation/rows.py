"""The rows of an evaluation: `evaluations` and `evaluation_samples`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from generator.keys import key_of
from generator.models import Evaluation, EvaluationSample, Recipe, utc_now


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """One sample with its verdict. `details` holds the first failure or error, counts, assurance and usage."""

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


class EvaluationRows:
    """The stored part of one evaluation. The same causes find the same rows, so a stopped evaluation goes on.

    Args:
        engine: of a database whose schema is up to date.
        benchmark: its name.
        subject: what is scored, for people.
        recipe: everything about benchmark, sandbox and sampling that changes a verdict; JSON-able.
        causes: everything that identifies the subject; JSON-able.
        training_id: the training whose checkpoint is scored, if it is known.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        benchmark: str,
        subject: str,
        recipe: Mapping[str, Any],
        causes: Mapping[str, Any],
        training_id: str | None = None,
    ) -> None:
        self._engine = engine
        recipe_id = key_of("recipe", "evaluation", dict(recipe))
        self.id = key_of("evaluation", recipe_id, dict(causes))
        with Session(engine) as session, session.begin():
            if session.get(Recipe, recipe_id) is None:
                session.add(Recipe(id=recipe_id, stage="evaluation", parameters=dict(recipe)))
                session.flush()
            if session.get(Evaluation, self.id) is None:
                session.add(
                    Evaluation(
                        id=self.id,
                        training_id=training_id,
                        recipe_id=recipe_id,
                        benchmark=benchmark,
                        subject=subject,
                    )
                )

    def finished(self) -> dict[tuple[str, int], ScoredSample]:
        """Samples that have a verdict, by (task_id, sample_index)."""
        with Session(self._engine) as session:
            rows = session.scalars(select(EvaluationSample).where(EvaluationSample.evaluation_id == self.id))
            return {
                (row.task_id, row.sample_index): ScoredSample(
                    row.task_id, row.sample_index, row.completion, row.code, row.verdict, row.details or {}
                )
                for row in rows
            }

    def store(self, sample: ScoredSample) -> None:
        """Store one verdict, for good: its run is not repeated."""
        with Session(self._engine) as session, session.begin():
            session.add(
                EvaluationSample(
                    evaluation_id=self.id,
                    task_id=sample.task_id,
                    sample_index=sample.sample_index,
                    completion=sample.completion,
                    code=sample.code,
                    verdict=sample.verdict,
                    details=sample.details,
                )
            )

    def finish(self, scores: Mapping[str, Any]) -> None:
        """Store the scores once every sample has a verdict."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(Evaluation, self.id)
            row.scores = dict(scores)
            row.finished_at = row.finished_at or utc_now()
