"""Everything that is known of one row: what it was made from and by, what came of it, and why it was kept or not."""

from __future__ import annotations

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
    Recipe,
    Response,
    Score,
    Seed,
    Training,
)

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
        By table name, from the seed down to the data sets, one row (a mapping) or several (a list of mappings).

    Raises:
        UnknownRow: there is none, or there are several.
    """
    row = _find(session, prefix)
    story: dict[str, Any] = {}
    match row:
        case Seed() | Opinion() | Concepts() | Instruction() | Response():
            for ancestor in (*_ancestors(session, row), row):
                story[ancestor.__tablename__] = _plain(ancestor)
                if isinstance(ancestor, Seed) and (opinions := _opinions(session, ancestor)):
                    story["opinions"] = opinions
            story |= _children(session, row)
            story["judgements"] = _judgements(session, row.id)
            if isinstance(row, Response):
                story |= _fate(session, row)
        case Execution():
            story["executions"] = _plain(row)
            recipes = sa.select(Recipe.id).where(Recipe.stage == "responses")  # the index begins with the recipe
            responses = sa.select(Response).where(
                Response.recipe_id.in_(recipes), Response.program_key == row.program_key
            )
            story["responses"] = _listed(session, responses)
        case _:
            story[row.__tablename__] = _plain(row)
    recipe_id = getattr(row, "recipe_id", None)
    if recipe_id is not None:
        story["recipes"] = _plain(session.get_one(Recipe, recipe_id))
    return story


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


def _ancestors(session: Session, row: Any) -> list[Any]:
    match row:
        case Response():
            parent: Any = session.get_one(Instruction, row.instruction_id)
        case Instruction():
            parent = session.get_one(Concepts, row.concepts_id)
        case Concepts() | Opinion():
            parent = session.get_one(Seed, row.seed_id)
        case _:
            return []
    return [*_ancestors(session, parent), parent]


def _children(session: Session, row: Any) -> dict[str, Any]:
    queries: dict[type[Base], Any] = {
        Seed: sa.select(Concepts).where(Concepts.seed_id == row.id),
        Concepts: sa.select(Instruction).where(Instruction.concepts_id == row.id),
        Instruction: sa.select(Response).where(Response.instruction_id == row.id).order_by(Response.sample_index),
    }
    query = queries.get(type(row))
    if query is None:
        return {}
    children = _listed(session, query)
    return {children[0]["table"]: children} if children else {}


def _fate(session: Session, response: Response) -> dict[str, Any]:
    executions = sa.select(Execution).where(Execution.program_key == response.program_key)
    items = (
        sa.select(Dataset.name, Dataset.version, DatasetItem.position)
        .join(Dataset, Dataset.id == DatasetItem.dataset_id)
        .where(DatasetItem.response_id == response.id)
        .order_by(Dataset.name, Dataset.version)
    )
    check = sa.and_(Execution.recipe_id == Check.executions_recipe_id, Execution.program_key == Check.program_key)
    checks = (
        sa.select(Check.kind, Check.number, Check.other_id, Check.label, Execution.verdict)
        .outerjoin(Execution, check)
        .where(Check.recipe_id == Score.recipe_id, Check.response_id == Score.response_id)
    )
    scores = sa.select(Score).where(Score.response_id == response.id).order_by(Score.created_at)
    mine = checks.join(Score, sa.true()).where(Score.response_id == response.id).order_by(Check.kind, Check.number)
    return {
        "executions": [_plain(execution) for execution in session.scalars(executions)],
        "scores": [_plain(score) for score in session.scalars(scores)],
        "checks": [dict(row) for row in session.execute(mine.distinct()).mappings()],
        "datasets": [dict(row) for row in session.execute(items).mappings()],
    }


def _opinions(session: Session, seed: Seed) -> list[dict[str, Any]]:
    query = sa.select(Opinion).where(Opinion.seed_id == seed.id).order_by(Opinion.created_at)
    return [_plain(opinion) for opinion in session.scalars(query)]


def _judgements(session: Session, id: str) -> list[dict[str, Any]]:
    query = sa.select(Judgement).where(Judgement.subject_id == id).order_by(Judgement.created_at)
    return [_plain(judgement) for judgement in session.scalars(query)]


def _listed(session: Session, query: Any) -> list[dict[str, Any]]:
    """Rows in short: enough to choose the next one to look at."""
    return [
        {"table": row.__tablename__, "id": row.id, "sample_index": row.sample_index, "error": row.error}
        for row in session.scalars(query.limit(_MOST_LISTED))
    ]


def _plain(row: Base) -> dict[str, Any]:
    values = {column.key: getattr(row, column.key) for column in row.__table__.columns}
    return {key: _plain_value(value) for key, value in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
