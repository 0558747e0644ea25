"""Everything that is known of one row: what it was made from and by, what came of it, and why it was kept or not.

The database keeps what earlier recipes came to, and a row's story tells all of it. `current_in` names the pipelines
that mean it now, as they were last built: none, where another prompt, limit, filter or choice of seeds took its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator.models import (
    Base,
    Check,
    Concepts,
    Dataset,
    DatasetItem,
    Evaluation,
    Execution,
    Instruction,
    Judgement,
    Opinion,
    Pipeline,
    PipelineSeed,
    Recipe,
    Response,
    Score,
    Seed,
    Training,
)
from generator.work import ran

MIN_PREFIX = 4
_TABLES: tuple[type[Base], ...] = (
    *(Response, Instruction, Concepts, Opinion, Seed, Execution, Recipe, Dataset, Training, Evaluation),
)
_MOST_LISTED = 20


class UnknownRow(LookupError):
    """No row, or more than one, has an id that begins so."""


def show(session: Session, prefix: str) -> dict[str, Any]:
    """Find the row whose id begins with `prefix` and tell its whole story.

    Returns:
        By table name, from the seed down to the data sets, one row (a mapping) or several (a list of mappings, what is
        current before what is not).

    Raises:
        UnknownRow: there is none, or there are several.
    """
    row = _find(session, prefix)
    now = _Now(session)
    story: dict[str, Any] = {}
    match row:
        case Seed() | Opinion() | Concepts() | Instruction() | Response():
            for ancestor in (*_ancestors(session, row), row):
                story[ancestor.__tablename__] = _plain(ancestor) | {"current_in": now.of_chain(ancestor)}
                if isinstance(ancestor, Seed) and (opinions := _opinions(session, now, ancestor)):
                    story["opinions"] = opinions
            story |= _children(session, now, row)
            judgements = sa.select(Judgement).where(Judgement.subject_id == row.id).order_by(Judgement.created_at)
            story["judgements"] = now.sorted(_plain(judgement) for judgement in session.scalars(judgements))
            if isinstance(row, Response):
                story |= _fate(session, now, row)
        case Execution():
            story["executions"] = _plain(row) | {"current_in": now.of_recipe(row.recipe_id)}
            recipes = sa.select(Recipe.id).where(Recipe.stage == "responses")  # the index begins with the recipe
            responses = sa.select(Response).where(
                Response.recipe_id.in_(recipes), Response.program_key == row.program_key
            )
            story["responses"] = _listed(session, now, responses)
        case Recipe():
            story["recipes"] = _plain(row) | {"current_in": now.of_recipe(row.id)}
        case Dataset():
            story["datasets"] = _plain(row) | {"current_in": now.of_dataset(row.id)}
        case _:
            story[row.__tablename__] = _plain(row)
    recipe_id = getattr(row, "recipe_id", None)
    if recipe_id is not None:
        story["recipes"] = _plain(session.get_one(Recipe, recipe_id))
    return story


class _Now:
    """What pipelines mean now, as they were last built: what the views show of them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pipelines = session.scalars(sa.select(Pipeline).order_by(Pipeline.name)).all()
        self._named = {row.name: self._recipes(row) for row in self._pipelines}

    def of_recipe(self, recipe_id: str) -> list[str]:
        """The pipelines that make or judge rows under a recipe."""
        return [name for name, recipes in self._named.items() if recipe_id in recipes]

    def of_dataset(self, dataset_id: str) -> list[str]:
        """The pipelines whose newest snapshot it is."""
        return [row.name for row in self._pipelines if row.dataset_id == dataset_id]

    def of_chain(self, row: Any) -> list[str]:
        """The pipelines that a seed, or what a model wrote, belongs to: with all that it was made from."""
        return [pipeline.name for pipeline in self._pipelines if self._has(pipeline, row)]

    def sorted(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of recipes, told which are current, and those first."""
        told = [row | {"current_in": self.of_recipe(row["recipe_id"])} for row in rows]
        # A program can have been run by a check as well: how it ended as an answer comes first.
        answers = {pipeline.executions_recipe_id for pipeline in self._pipelines}
        return sorted(told, key=lambda row: (not row["current_in"], row["recipe_id"] not in answers))

    def _has(self, pipeline: Pipeline, row: Any) -> bool:
        session, table = self._session, row.__tablename__
        if isinstance(row, Seed):
            member = session.get(PipelineSeed, (pipeline.name, row.id))
            return member is not None and member.chosen
        judge = pipeline.judge_recipe_id
        if isinstance(row, Opinion):
            mine = row.recipe_id == judge
        else:
            samples = getattr(pipeline, f"{table}_samples")
            mine = row.recipe_id == getattr(pipeline, f"{table}_recipe_id") and row.sample_index < samples
        if mine and isinstance(row, Concepts) and judge:
            worth = sa.select(Opinion.worth).where(Opinion.recipe_id == judge, Opinion.seed_id == row.seed_id)
            mine = bool(session.scalar(worth.where(Opinion.sample_index == 0)))
        parent = _parent(session, row) if mine else None
        return mine and getattr(parent, "error", None) is None and self._has(pipeline, parent)

    def _recipes(self, pipeline: Pipeline) -> set[str]:
        names = [column.key for column in Pipeline.__table__.columns if column.key.endswith("_recipe_id")]
        named = {getattr(pipeline, name) for name in names}
        if pipeline.checks_recipe_id:  # its programs run in ways of their own
            checks = self._session.get_one(Recipe, pipeline.checks_recipe_id).parameters
            named |= {checks.get("mutant_executions"), checks.get("repeat_executions")}
        return named - {None}


def _find(session: Session, prefix: str) -> Any:
    prefix = prefix.lower()
    if len(prefix) < MIN_PREFIX or set(prefix) - set("0123456789abcdef"):
        raise UnknownRow(f"{prefix!r}: expected an id, or at least its first {MIN_PREFIX} hexadecimal digits")
    found: list[Any] = []
    for table in _TABLES:
        id = table.__table__.c.id
        # A range, not LIKE: only that is sure to be looked up in the index.
        query = sa.select(table).where(id >= prefix, id <= prefix + "g").order_by(id).limit(_MOST_LISTED)
        found += session.scalars(query)
    if not found:
        raise UnknownRow(f"no row has an id that begins with {prefix}")
    if len(found) > 1:
        listed = ", ".join(f"{row.id} ({row.__tablename__})" for row in found[:5])
        raise UnknownRow(
            f"several rows have an id that begins with {prefix}: {listed}{' ...' if len(found) > 5 else ''}"
        )
    return found[0]


def _parent(session: Session, row: Any) -> Any:
    match row:
        case Response():
            return session.get_one(Instruction, row.instruction_id)
        case Instruction():
            return session.get_one(Concepts, row.concepts_id)
        case Concepts() | Opinion():
            return session.get_one(Seed, row.seed_id)
        case _:
            return None


def _ancestors(session: Session, row: Any) -> list[Any]:
    parent = _parent(session, row)
    return [] if parent is None else [*_ancestors(session, parent), parent]


def _children(session: Session, now: _Now, row: Any) -> dict[str, Any]:
    queries: dict[type[Base], Any] = {
        Seed: sa.select(Concepts).where(Concepts.seed_id == row.id),
        Concepts: sa.select(Instruction).where(Instruction.concepts_id == row.id),
        Instruction: sa.select(Response).where(Response.instruction_id == row.id).order_by(Response.sample_index),
    }
    query = queries.get(type(row))
    if query is None:
        return {}
    children = _listed(session, now, query)
    return {children[0]["table"]: children} if children else {}


def _fate(session: Session, now: _Now, response: Response) -> dict[str, Any]:
    executions = (
        sa.select(Execution, Recipe.parameters)
        .join(Recipe, Recipe.id == Execution.recipe_id)
        .where(Execution.program_key == response.program_key)
        .order_by(Execution.created_at)
    )
    items = (
        sa.select(Dataset.id.label("dataset_id"), Dataset.name, Dataset.version, DatasetItem.position)
        .join(Dataset, Dataset.id == DatasetItem.dataset_id)
        .where(DatasetItem.response_id == response.id)
        .order_by(Dataset.name, Dataset.version)
    )
    checks = (
        sa.select(Check.recipe_id, Check.kind, Check.number, Check.other_id, Check.label, Execution.verdict)
        .join(Score, sa.and_(Score.recipe_id == Check.recipe_id, Score.response_id == Check.response_id))
        .outerjoin(Execution, ran(Check, Check.executions_recipe_id))
        .where(Check.response_id == response.id)
        .order_by(Score.created_at, Check.recipe_id, Check.kind, Check.number)
    )
    scores = sa.select(Score).where(Score.response_id == response.id).order_by(Score.created_at)
    frozen = [dict(row) for row in session.execute(items).mappings()]
    return {
        "executions": now.sorted(
            _plain(execution) | {"limits": how["limits"]} for execution, how in session.execute(executions)
        ),
        "scores": now.sorted(map(_plain, session.scalars(scores))),
        "checks": now.sorted(dict(row) for row in session.execute(checks).mappings()),
        "datasets": [row | {"current_in": now.of_dataset(row.pop("dataset_id"))} for row in frozen],
    }


def _opinions(session: Session, now: _Now, seed: Seed) -> list[dict[str, Any]]:
    query = sa.select(Opinion).where(Opinion.seed_id == seed.id).order_by(Opinion.created_at)
    return now.sorted(_plain(opinion) for opinion in session.scalars(query))


def _listed(session: Session, now: _Now, query: Any) -> list[dict[str, Any]]:
    """Rows in short: enough to choose the next one to look at."""
    return [
        {"table": row.__tablename__, "id": row.id, "sample_index": row.sample_index, "error": row.error}
        | {"current_in": now.of_chain(row)}
        for row in session.scalars(query.limit(_MOST_LISTED))
    ]


def _plain(row: Base) -> dict[str, Any]:
    values = {column.key: getattr(row, column.key) for column in row.__table__.columns}
    return {key: _plain_value(value) for key, value in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
