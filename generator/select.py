"""Choosing pairs: judge what is new, keep one of what is alike, clean up the rest and freeze it as a snapshot.

All of it is one transaction: judgements and snapshot agree, whenever one looks and wherever a build is stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import clean_up, work
from generator.alike import Keeper
from generator.causes import Cause
from generator.checks import PASSED, Score
from generator.filters import Candidate, Rules, rules
from generator.keys import key_of
from generator.models import (
    Dataset,
    DatasetItem,
    Execution,
    Instruction,
    Judgement,
    Pipeline,
    Response,
)
from generator.models import Score as ScoreRow
from generator.recipe import DatasetSettings, SelectionSettings
from generator.store import BATCH_ROWS, Database, batched, ensure_recipe, insert_new, look_at, take_turns
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


@dataclass(frozen=True, slots=True)
class _Selection:
    """What every step of a selection needs."""

    session: Session
    chain: Chain
    executions: str
    cause: Cause
    rules: Rules

    @property
    def checks(self) -> str | None:
        """Recipe id of the checks that it waits for."""
        return self.cause.parameters.get("checks")

    def load(self, session: Session, ids: Sequence[str]) -> list[Candidate]:
        """Candidates by response id."""
        return load_candidates(session, ids, self.executions, self.checks)

    def keeper(self) -> Keeper[Candidate]:
        """Keeps one of what is alike."""
        return Keeper(self.session, self.cause.id, self.rules.unique, self.load)


_USUAL_RULES = rules(SelectionSettings())
_USUAL_DATASET = DatasetSettings()


def select(
    database: Database,
    chain: Chain,
    executions: str,
    selection: Cause,
    dataset: str,
    rules: Rules = _USUAL_RULES,
    settings: DatasetSettings = _USUAL_DATASET,
    recipe: Mapping[str, Any] | None = None,
    responses: int | None = None,
) -> Snapshot:
    """Judge the responses of a chain and freeze the accepted pairs.

    Args:
        database: where everything is.
        chain: the pipeline's rows.
        executions: recipe id of the executions that count.
        selection: the recipe of this selection.
        dataset: name of the snapshots.
        rules: what pairs must be; `selection` names them.
        settings: how pairs are written; `selection` names that, too.
        recipe: what to keep with a new snapshot as the recipe that made it.
        responses: how many the chain has, from a caller that has just counted them.

    Returns:
        The newest snapshot, which is a new one only if its content is.
    """
    if unchanged := _unchanged(database, chain, selection, dataset, responses):
        return unchanged
    with database.writing() as session:
        take_turns(session, f"judgements of {chain.pipeline}")
        take_turns(session, f"selection of {dataset}")
        ensure_recipe(session, selection.stage, selection.parameters)
        step = _Selection(session, chain, executions, selection, rules)
        step.keeper().remove(_stale(step))
        judged, passed = _judge_new(step)
        if judged:
            look_at(session, Judgement)  # it is asked of every band which judgement it belongs to
        step.keeper().settle(passed)
        snapshot, dataset_id = _freeze(session, selection, dataset, judged, settings, recipe)
        results = {"selection_recipe_id": selection.id, "dataset_id": dataset_id}
        session.execute(sa.update(Pipeline).where(Pipeline.name == chain.pipeline).values(results))
        return snapshot


def _unchanged(
    database: Database, chain: Chain, selection: Cause, dataset: str, responses: int | None
) -> Snapshot | None:
    """The newest snapshot, if counting alone shows that selecting again would change nothing; else None.

    Judgements under a recipe are of responses under the one that it names. So if there are as many of the first as of
    the second, all are judged; and if the chain has as many responses, all of those are the chain's.
    """
    with database.reading() as session:
        newest, last = _newest(session, dataset), session.get_one(Pipeline, chain.pipeline)
        if newest is None or (last.selection_recipe_id, last.dataset_id) != (selection.id, newest.id):
            return None
    recipe_id = chain.recipes["responses"]
    with ThreadPoolExecutor(2) as pool:  # a database uses a processor for each of them
        judged = pool.submit(work.count_of_recipe, database, Judgement, selection.id)
        drawn = pool.submit(work.count_of_recipe, database, Response, recipe_id)
        rows = work.count(database, chain, "responses").rows if responses is None else responses
        if {judged.result(), drawn.result()} != {rows}:
            return None
    return Snapshot(0, dataset, newest.size, is_new=False, version=newest.version)


def _judge_new(step: _Selection) -> tuple[int, list[str]]:
    """Judge what can be judged and was not: how many that was, and those that every filter keeps."""
    judged, passed = 0, []
    for batch in batched(_unjudged(step)):
        rows: list[dict[str, Any]] = []
        for candidate in batch:
            rejection = step.rules.judge(candidate)
            rows.append(
                {
                    "recipe_id": step.cause.id,
                    "subject_id": candidate.response_id,
                    "subject_table": "responses",
                    "kept": rejection is None,
                    "filter": rejection[0].name if rejection else None,
                    "filter_version": rejection[0].version if rejection else None,
                    "reason": rejection[1] if rejection else None,
                }
            )
        passed += [row["subject_id"] for row in rows if row["kept"]]
        judged += insert_new(step.session, Judgement, rows)
    return judged, passed


def _unjudged(step: _Selection) -> Iterator[Candidate]:
    """The responses that can be judged and have not been: executed and checked, or never to be."""
    judgement = sa.exists().where(Judgement.recipe_id == step.cause.id, Judgement.subject_id == Response.id)
    run: Any = sa.exists().where(work.ran(Response, step.executions))
    if step.checks:
        scored = sa.exists().where(
            ScoreRow.recipe_id == step.checks, ScoreRow.response_id == Response.id, ScoreRow.complete
        )
        run = run.where(Execution.verdict != PASSED) | scored
    # The ids are taken first: a query must not be read while rows that it looks at are inserted.
    ids = rows_of(step.chain, "responses").where(~judgement, Response.program_key.is_(None) | run)
    for batch in batched(step.session.scalars(ids).all()):
        yield from step.load(step.session, batch)


def load_candidates(session: Session, ids: Sequence[str], executions: str, checks: str | None) -> list[Candidate]:
    """Read responses as filters see them.

    Args:
        session: a reading one.
        ids: of the responses.
        executions: recipe id of the runs with their own tests.
        checks: recipe id of the checks; None where there are none.
    """
    columns = [getattr(ScoreRow, item.name) for item in dataclasses.fields(Score)]
    query: Any = (
        sa.select(
            *(Response.id, Response.instruction_id, Instruction.instruction, Response.error, Response.code),
            *(Execution.verdict, Execution.error_type),
            ScoreRow.response_id,
            *columns,
        )
        .join_from(Response, Instruction, Instruction.id == Response.instruction_id)
        .outerjoin(Execution, work.ran(Response, executions))
        .outerjoin(ScoreRow, sa.and_(ScoreRow.recipe_id == checks, ScoreRow.response_id == Response.id))
        .where(Response.id.in_(ids))
    )
    rows: list[tuple[Any, ...]] = [tuple(row) for row in session.execute(query)]
    return [dataclasses.replace(Candidate(*row[:7]), score=Score(*row[8:]) if row[7] else None) for row in rows]


def _stale(step: _Selection) -> list[str]:
    """Judgements to take back: of responses that are no longer the pipeline's, and of those with a newer score."""
    current = rows_of(step.chain, "responses")
    mine = sa.select(Judgement.subject_id).where(Judgement.recipe_id == step.cause.id)
    # Not NOT IN: what does not fit into its memory, PostgreSQL would go through again for every judgement.
    stale = list(step.session.scalars(sa.except_(mine, current)))
    if step.checks:
        newer = sa.and_(ScoreRow.response_id == Judgement.subject_id, ScoreRow.created_at > Judgement.created_at)
        rescored = mine.join(ScoreRow, newer).where(ScoreRow.recipe_id == step.checks)
        stale += set(step.session.scalars(rescored)).difference(stale)
    return stale


def _freeze(
    session: Session,
    selection: Cause,
    name: str,
    judged: int,
    settings: DatasetSettings,
    recipe: Mapping[str, Any] | None,
) -> tuple[Snapshot, str | None]:
    """Store the kept pairs as a snapshot, unless the newest one has the same content; tell it and its id."""
    newest = _newest(session, name)
    content = hashlib.blake2b(digest_size=16)
    size = 0
    for item in _kept(session, selection.id, settings):
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
        settings=None if recipe is None else dict(recipe),
        size=size,
    )
    session.add(dataset)
    session.flush()
    columns = ("response_id", "instruction", "response")
    for batch in batched(enumerate(_kept(session, selection.id, settings))):
        rows: list[dict[str, Any]] = [
            {"dataset_id": dataset.id, "position": position, **dict(zip(columns, item, strict=True))}
            for position, item in batch
        ]
        session.execute(sa.insert(DatasetItem), rows)
    return Snapshot(judged, name, size, is_new=True, version=version), dataset.id


def _kept(session: Session, recipe_id: str, settings: DatasetSettings) -> Iterator[tuple[str, str, str]]:
    """Response id, instruction and answer of every kept response, in the order of ids, which are hashes: no order."""
    names = clean_up.sections_read(settings)
    parts = [getattr(Response, section) for section in names]
    after = ""
    while True:
        query = (
            sa.select(Response.id, Instruction.instruction, Response.test_code, *parts)
            .join_from(Judgement, Response, Response.id == Judgement.subject_id)
            .join(Instruction, Instruction.id == Response.instruction_id)
            .where(Judgement.recipe_id == recipe_id, Judgement.kept, Judgement.subject_id > after)
            .order_by(Judgement.subject_id)
            .limit(BATCH_ROWS)
        )
        page = session.execute(query).all()
        for id, instruction, test_code, *texts in page:
            asked = clean_up.instruction(instruction, test_code or "", id, settings)
            yield id, asked, clean_up.response(dict(zip(names, texts, strict=True)), instruction, id, settings)
        if len(page) < BATCH_ROWS:
            return
        after = page[-1][0]


def _newest(session: Session, name: str) -> Dataset | None:
    return session.scalars(
        sa.select(Dataset).where(Dataset.name == name).order_by(Dataset.version.desc()).limit(1)
    ).first()
