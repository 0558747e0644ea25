"""Choosing pairs: judge what is new, keep one of what is alike, freeze the result as a snapshot.

All of it is one transaction: judgements and snapshot agree, whenever one looks and wherever a build is stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import work
from generator.causes import Cause
from generator.filters import UNIQUE, Candidate, judge
from generator.keys import key_of
from generator.models import (
    Dataset,
    DatasetItem,
    Execution,
    Instruction,
    Judgement,
    Pipeline,
    Response,
    utc_now,
)
from generator.store import BATCH_ROWS, Database, batched, ensure_recipe, insert_new, take_turns
from generator.work import Chain, rows_of


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a selection came to.

    Attributes:
        judged: responses judged this time; 0 when nothing had changed.
        size: pairs in the newest snapshot.
        is_new: whether this selection made it.
        version: of the snapshot; None where no pair was ever accepted.
    """

    judged: int
    dataset: str
    size: int
    is_new: bool
    version: int | None


def select(database: Database, chain: Chain, executions: str, selection: Cause, dataset: str) -> Snapshot:
    """Judge the responses of a chain and freeze the accepted pairs.

    Args:
        database: where everything is.
        chain: the pipeline's rows.
        executions: recipe id of the executions that count.
        selection: the recipe of this selection.
        dataset: name of the snapshots.

    Returns:
        The newest snapshot, which is a new one only if its content is.
    """
    if unchanged := _unchanged(database, chain, selection, dataset):
        return unchanged
    with database.writing() as session:
        take_turns(session, f"selection of {dataset}")
        ensure_recipe(session, selection.stage, selection.parameters)
        judged = _judge_new(session, chain, executions, selection.id)
        if _forget_stale(session, chain, selection.id) or judged:
            _keep_one_of_alike(session, selection.id)
        snapshot, dataset_id = _freeze(session, selection, dataset, judged)
        results = {"selection_recipe_id": selection.id, "dataset_id": dataset_id}
        session.execute(sa.update(Pipeline).where(Pipeline.name == chain.pipeline).values(results))
        return snapshot


def _unchanged(database: Database, chain: Chain, selection: Cause, dataset: str) -> Snapshot | None:
    """The newest snapshot, if counting alone shows that selecting again would change nothing; else None.

    Judgements under a recipe are of responses under the one that it names. So if there are as many of the first as of
    the second, all are judged; and if the chain has as many responses, all of those are the chain's.
    """
    judged = sa.select(sa.func.count()).select_from(Judgement).where(Judgement.recipe_id == selection.id)
    responses = sa.select(sa.func.count()).select_from(Response)
    with database.reading() as session:
        newest, last = _newest(session, dataset), session.get_one(Pipeline, chain.pipeline)
        if newest is None or (last.selection_recipe_id, last.dataset_id) != (selection.id, newest.id):
            return None
        count = session.scalar(judged)
        if count != session.scalar(responses.where(Response.recipe_id == chain.recipes["responses"])):
            return None
    if count != work.count(database, chain, "responses").rows:
        return None
    return Snapshot(0, dataset, newest.size, is_new=False, version=newest.version)


def _judge_new(session: Session, chain: Chain, executions: str, recipe_id: str) -> int:
    judged = 0
    for batch in batched(_unjudged(session, chain, executions, recipe_id)):
        rows = []
        for candidate in batch:
            rejection = judge(candidate)
            rows.append(
                {
                    "recipe_id": recipe_id,
                    "subject_id": candidate.response_id,
                    "subject_table": "responses",
                    "kept": rejection is None,
                    "filter": rejection[0].name if rejection else None,
                    "filter_version": rejection[0].version if rejection else None,
                    "reason": rejection[1] if rejection else None,
                }
            )
        judged += insert_new(session, Judgement, rows)
    return judged


def _unjudged(session: Session, chain: Chain, executions: str, recipe_id: str) -> Iterator[Candidate]:
    """The responses that can be judged, because they were executed or never will be, and have not been."""
    judgement = sa.exists().where(Judgement.recipe_id == recipe_id, Judgement.subject_id == Response.id)
    # The ids are taken first: a query must not be read while rows that it looks at are inserted.
    ids = rows_of(chain, "responses").where(
        ~judgement,
        Response.program_key.is_(None)
        | sa.exists().where(Execution.recipe_id == executions, Execution.program_key == Response.program_key),
    )
    for batch in batched(session.scalars(ids).all()):
        yield from _candidates(session, batch, executions)


def _candidates(session: Session, ids: list[str], executions: str) -> list[Candidate]:
    query: Any = (
        sa.select(
            *(Response.id, Response.instruction_id, Instruction.instruction, Response.error, Response.code),
            *(Execution.verdict, Execution.error_type),
        )
        .join_from(Response, Instruction, Instruction.id == Response.instruction_id)
        .outerjoin(Execution, sa.and_(Execution.recipe_id == executions, Execution.program_key == Response.program_key))
        .where(Response.id.in_(ids))
    )
    return [Candidate(*tuple(row)) for row in session.execute(query)]


def _forget_stale(session: Session, chain: Chain, recipe_id: str) -> int:
    """Remove judgements of responses that are no longer the pipeline's, e.g. of a seed that its source lost."""
    current = rows_of(chain, "responses")
    stale = sa.delete(Judgement).where(Judgement.recipe_id == recipe_id, Judgement.subject_id.not_in(current))
    return int(getattr(session.execute(stale), "rowcount", 0))


def _keep_one_of_alike(session: Session, recipe_id: str) -> None:
    """Walk those that passed every filter in the order of their keys, and keep each that is new in every way."""
    names = [unique.name for unique in UNIQUE]
    passed = sa.select(Judgement.subject_id, Judgement.filter).where(
        Judgement.recipe_id == recipe_id, Judgement.kept | Judgement.filter.in_(names)
    )
    before = {row[0]: row[1] for row in session.execute(passed.order_by(Judgement.subject_id))}
    seen: tuple[set[bytes], ...] = tuple(set() for _ in UNIQUE)
    for batch in batched(before):
        changed = []
        for candidate in sorted(_candidates(session, batch, ""), key=lambda found: found.response_id):
            digests = [hashlib.blake2b(unique.key(candidate).encode(), digest_size=16).digest() for unique in UNIQUE]
            repeats = (unique for unique, known, digest in zip(UNIQUE, seen, digests, strict=True) if digest in known)
            repeated = next(repeats, None)
            if repeated is None:
                for known, digest in zip(seen, digests, strict=True):
                    known.add(digest)
            if before[candidate.response_id] != (repeated.name if repeated else None):
                changed.append(
                    {
                        "recipe_id": recipe_id,
                        "subject_id": candidate.response_id,
                        "kept": repeated is None,
                        "filter": repeated.name if repeated else None,
                        "filter_version": repeated.version if repeated else None,
                        "reason": repeated.reason if repeated else None,
                        "created_at": utc_now(),
                    }
                )
        if changed:
            session.execute(sa.update(Judgement), changed)


def _freeze(session: Session, selection: Cause, name: str, judged: int) -> tuple[Snapshot, str | None]:
    """Store the kept pairs as a snapshot, unless the newest one has the same content; tell it and its id."""
    newest = _newest(session, name)
    sections = selection.parameters["sections"]
    content = hashlib.blake2b(digest_size=16)
    size = 0
    for item in _kept(session, selection.id, sections):
        content.update(key_of("item", *item).encode())
        size += 1
    content_key = content.hexdigest()
    if newest is None and not size:
        return Snapshot(judged, name, 0, is_new=False, version=None), None
    if newest is not None and newest.content_key == content_key:
        return Snapshot(judged, name, size, is_new=False, version=newest.version), newest.id
    version = newest.version + 1 if newest else 1
    dataset = Dataset(
        id=key_of("dataset", name, version, content_key),
        name=name,
        version=version,
        content_key=content_key,
        parent_id=newest.id if newest else None,
        recipe_id=selection.id,
        size=size,
    )
    session.add(dataset)
    session.flush()
    columns = ("response_id", "instruction", "response")
    for batch in batched(enumerate(_kept(session, selection.id, sections))):
        rows: list[dict[str, Any]] = [
            {"dataset_id": dataset.id, "position": position, **dict(zip(columns, item, strict=True))}
            for position, item in batch
        ]
        session.execute(sa.insert(DatasetItem), rows)
    return Snapshot(judged, name, size, is_new=True, version=version), dataset.id


def _kept(session: Session, recipe_id: str, sections: list[str]) -> Iterator[tuple[str, str, str]]:
    """Response id, instruction and answer of every kept response, in the order of ids, which are hashes: no order."""
    parts = [getattr(Response, section) for section in sections]
    after = ""
    while True:
        query = (
            sa.select(Response.id, Instruction.instruction, *parts)
            .join_from(Judgement, Response, Response.id == Judgement.subject_id)
            .join(Instruction, Instruction.id == Response.instruction_id)
            .where(Judgement.recipe_id == recipe_id, Judgement.kept, Judgement.subject_id > after)
            .order_by(Judgement.subject_id)
            .limit(BATCH_ROWS)
        )
        page = session.execute(query).all()
        for response_id, instruction, *texts in page:
            yield response_id, instruction, "\n\n".join(texts)
        if len(page) < BATCH_ROWS:
            return
        after = page[-1][0]


def _newest(session: Session, name: str) -> Dataset | None:
    return session.scalars(
        sa.select(Dataset).where(Dataset.name == name).order_by(Dataset.version.desc()).limit(1)
    ).first()
