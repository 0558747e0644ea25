"""What the pages show, read from the database. Every query here is bounded, however many rows there are."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator.diff import diff
from generator.lineage import show
from generator.models import (
    Dataset,
    DatasetItem,
    Evaluation,
    EvaluationSample,
    Pipeline,
    Recipe,
    Response,
    Training,
)
from generator.store import Database, storable

PAGE_ROWS = 25
SAMPLES_ROWS = 400
_WINDOW_ROWS = 2000
_BUDGET_S = 1.0
_RARE_ROWS = 5000
_MOST_CHANGES = 10_000
_EXCERPT = 600
_MOST_LOG_BYTES = 64 * 2**20

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which pairs to list; an empty string or None leaves everything in."""

    verdict: str = ""
    kept: bool | None = None
    filter: str = ""
    reason: str = ""

    def admits(self, row: Row) -> bool:
        """Whether a row of `pairs_after` or `pairs_by_id` is wanted."""
        return (
            self.verdict in ("", row["verdict"])
            and self.kept in (None, None if row["kept"] is None else bool(row["kept"]))
            and self.filter in ("", row["filter"])
            and self.reason in ("", row["reason"])
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Some pairs, and where to go on: None at the end."""

    rows: list[Row]
    after: str | None
    looked_at: int


def pipelines(session: Session) -> list[str]:
    """Names, in order."""
    return list(session.scalars(sa.select(Pipeline.name).order_by(Pipeline.name)))


# Pairs. `w` is a window of responses; what it is joined to is looked up by key: `|| ''` leaves no index by recipe to be
# used, along which SQLite, asked for a few hundred responses, would read every instruction instead.
_PAIRS = """
SELECT w.id, w.instruction_id, w.sample_index, substr(i.instruction, 1, {excerpt}) AS instruction, i.category,
    i.difficulty, w.error, e.verdict, e.error_type, e.assertions_run, j.kept, j.filter, j.reason{more}
FROM ({window}) w
JOIN pipelines p ON p.name = :pipeline
JOIN instructions i ON i.id = w.instruction_id AND i.recipe_id || '' = p.instructions_recipe_id
JOIN concepts c ON c.id = i.concepts_id AND c.recipe_id || '' = p.concepts_recipe_id
JOIN pipeline_seeds s ON s.pipeline = p.name AND s.seed_id = c.seed_id AND s.chosen
    AND (p.judge_recipe_id IS NULL OR EXISTS (SELECT 1 FROM opinions o
        WHERE o.recipe_id = p.judge_recipe_id AND o.seed_id = s.seed_id AND o.sample_index = 0 AND o.worth))
LEFT JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = w.program_key
LEFT JOIN judgements j ON j.recipe_id = p.selection_recipe_id AND j.subject_id = w.id
ORDER BY w.instruction_id, w.sample_index
"""
_COLUMNS = "r.id, r.instruction_id, r.sample_index, r.program_key, r.error"
_OF_PIPELINE = """
JOIN pipelines q ON q.name = :pipeline AND r.recipe_id || '' = q.responses_recipe_id
    AND r.sample_index < q.responses_samples
"""
_AFTER = "r.instruction_id >= :parent AND (r.instruction_id, r.sample_index) > (:parent, :sample)"
_ORDER = "ORDER BY r.instruction_id, r.sample_index LIMIT :window"
_IN_ORDER = f"""
SELECT {_COLUMNS} FROM responses r
WHERE r.recipe_id = :recipe AND r.sample_index < :samples AND {_AFTER} {_ORDER}
"""  # noqa: S608  # constants
# CROSS JOIN is SQLite's word for "in this order": from the few executions to their responses, which `|| ''` keeps it
# from reading along the other index.
_OF_VERDICT = f"""
SELECT {_COLUMNS} FROM executions x CROSS JOIN responses r
WHERE x.verdict = :verdict AND x.recipe_id = :executions AND r.program_key = x.program_key AND r.recipe_id = :recipe
    AND r.sample_index < :samples AND (r.instruction_id || '', r.sample_index) > (:parent, :sample)
ORDER BY r.instruction_id || '', r.sample_index LIMIT :window
"""  # noqa: S608  # constants
# Few rows are asked for by id: `|| ''` above leaves only that index to be used, and the limit keeps SQLite from
# beginning with the hundreds of thousands of rows that these are joined to.
_BY_ID = f"SELECT {_COLUMNS}, r.text FROM responses r {_OF_PIPELINE} WHERE r.id IN :ids LIMIT 10000"  # noqa: S608  # constants
_HOW_RARE = "SELECT count(*) FROM (SELECT 1 FROM executions WHERE verdict = :verdict LIMIT :most) x"


def pairs_after(session: Session, pipeline: str, filters: Filters, after: str = "", rows: int = PAGE_ROWS) -> Page:
    """List pairs in the order of their instructions.

    Rows are looked at in windows, and after a second what was found is the answer: the caller goes on from `after`.

    Args:
        session: a reading one.
        pipeline: whose responses.
        filters: which of them.
        after: `Page.after` of the page before.
        rows: how many at most.
    """
    give_up = time.monotonic() + _BUDGET_S
    of_pipeline = session.get(Pipeline, pipeline)
    if of_pipeline is None or of_pipeline.responses_recipe_id is None:
        return Page([], None, 0)
    inner = _IN_ORDER
    if filters.verdict:
        how_rare = session.scalar(sa.text(_HOW_RARE), {"verdict": filters.verdict, "most": _RARE_ROWS + 1})
        if (how_rare or 0) <= _RARE_ROWS:
            inner = _OF_VERDICT
    query = sa.text(_PAIRS.format(excerpt=_EXCERPT, window=inner, more=""))
    edge = sa.text(f"SELECT w.instruction_id, w.sample_index FROM ({inner}) w ORDER BY 1 DESC, 2 DESC LIMIT 1")  # noqa: S608
    parent, _, sample = after.partition("-")
    place = {"parent": parent, "sample": int(sample) if sample.isdecimal() and len(sample) < 10 else -1}
    values: dict[str, Any] = {
        "pipeline": pipeline,
        "verdict": filters.verdict,
        "recipe": of_pipeline.responses_recipe_id,
        "executions": of_pipeline.executions_recipe_id,
        "samples": of_pipeline.responses_samples,
    }
    found: list[Row] = []
    looked_at, window = 0, rows if filters == Filters() else _WINDOW_ROWS
    while True:
        values |= place | {"window": window}
        last = session.execute(edge, values).first()
        if last is None:
            return Page(found, None, looked_at)
        looked_at += window
        for row in session.execute(query, values).mappings():
            if filters.admits(dict(row)):
                found.append(dict(row))
                if len(found) == rows:
                    return Page(found, f"{row['instruction_id']}-{row['sample_index']}", looked_at)
        place = {"parent": last[0], "sample": last[1]}
        if time.monotonic() > give_up:
            return Page(found, f"{last[0]}-{last[1]}", looked_at)


def pairs_by_id(session: Session, pipeline: str, ids: Sequence[str]) -> list[Row]:
    """The pairs of these response ids that are the pipeline's, in the order of `ids`, with the answer's `text`."""
    query = sa.text(_PAIRS.format(excerpt=100_000, window=_BY_ID, more=", w.text"))
    query = query.bindparams(sa.bindparam("ids", expanding=True, type_=sa.String))
    rows = {row["id"]: dict(row) for row in session.execute(query, {"pipeline": pipeline, "ids": list(ids)}).mappings()}
    return [rows[id] for id in ids if id in rows]


def pair(session: Session, response_id: str) -> Row:
    """One response with its whole story, as `generator.lineage.show` tells it, the other answers and all recipes.

    Raises:
        UnknownRow: there is none.
    """
    story = show(session, response_id)
    response = story["responses"]
    by_stage = {
        story[table]["recipe_id"]: table for table in ("concepts", "instructions", "responses") if table in story
    }
    used = set(by_stage)
    used |= {row["recipe_id"] for table in ("executions", "judgements") for row in story.get(table, [])}
    recipes = {row.id: row for row in session.scalars(sa.select(Recipe).where(Recipe.id.in_(used)))}
    story["causes"] = {id: {"stage": row.stage, "parameters": row.parameters} for id, row in recipes.items()}
    siblings = (
        sa.select(Response.id, Response.sample_index, Response.error, Response.program_key)
        .where(Response.instruction_id == response["instruction_id"], Response.recipe_id == response["recipe_id"])
        .order_by(Response.sample_index)
        .limit(100)
    )
    story["siblings"] = [dict(row) for row in session.execute(siblings).mappings()]
    verdicts = _verdicts_of(session, [row["program_key"] for row in story["siblings"]])
    for row in story["siblings"]:
        row["verdict"] = verdicts.get(row["program_key"])
    return story


def named(story: Row) -> Row:
    """A pair's story under the names that the templates know."""
    return {
        "seed": story.get("seeds"),
        "concepts": story.get("concepts"),
        "instruction": story["instructions"],
        "response": story["responses"],
        **{key: story.get(key, []) for key in ("executions", "judgements", "datasets", "siblings")},
        "causes": story["causes"],
    }


def _verdicts_of(session: Session, keys: Sequence[str | None]) -> dict[str, str]:
    query = sa.text(
        "SELECT e.program_key, e.verdict FROM executions e "
        "WHERE e.program_key IN :keys AND e.recipe_id IN (SELECT executions_recipe_id FROM pipelines)"
    ).bindparams(sa.bindparam("keys", expanding=True, type_=sa.String))
    return {row[0]: row[1] for row in session.execute(query, {"keys": [key for key in keys if key]})}


# Snapshots


def snapshots(session: Session) -> list[Row]:
    """All of them, newest first, each with how many there were in the one before."""
    parent = sa.orm.aliased(Dataset)
    query = (
        sa.select(Dataset, parent.version, parent.size)
        .outerjoin(parent, parent.id == Dataset.parent_id)
        .order_by(Dataset.name, Dataset.version.desc())
    )
    return [
        {
            **{key: getattr(dataset, key) for key in ("id", "name", "version", "size", "created_at", "parent_id")},
            "label": f"{dataset.name} v{dataset.version}",
            "parent_version": version,
            "grew_by": None if size is None else dataset.size - size,
        }
        for dataset, version, size in session.execute(query)
    ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed between two snapshots: counts, and (kind, response id before, after), None where there is none."""

    counts: dict[str, int]
    changes: list[tuple[str, str | None, str | None]]
    left_out: int


def compare(session: Session, old: Dataset, new: Dataset) -> Comparison:
    """Compare two snapshots; an answer that gave way to another of the same instruction counts as replaced."""
    kinds: dict[str, list[tuple[str, str]]] = {"added": [], "removed": [], "changed": []}
    for change in diff(session, old, new):
        kinds[change.kind].append((change.response_id, change.instruction))
    gone: dict[str, list[str]] = {}
    for id, instruction in kinds["removed"]:
        gone.setdefault(instruction, []).append(id)
    replaced, added = [], []
    for id, instruction in kinds["added"]:
        before = gone.get(instruction)
        if before:
            replaced.append(("replaced", before.pop(0), id))
        else:
            added.append(("added", None, id))
    removed = [("removed", id, None) for ids in gone.values() for id in ids]
    changed = [("changed", id, id) for id, _ in kinds["changed"]]
    groups: dict[str, list[tuple[str, str | None, str | None]]] = {
        "changed": [*changed],
        "replaced": [*replaced],
        "added": [*added],
        "removed": [*removed],
    }
    changes = [change for group in groups.values() for change in group]
    counts = {kind: len(group) for kind, group in groups.items()}
    return Comparison(counts, changes[:_MOST_CHANGES], max(0, len(changes) - _MOST_CHANGES))


def items_by_response(session: Session, dataset_id: str, ids: Sequence[str | None]) -> dict[str, Row]:
    """The items of a snapshot by response id."""
    item = DatasetItem
    query = sa.select(item.response_id, item.instruction, item.response).where(
        item.response_id.in_([id for id in ids if id]), item.dataset_id == dataset_id
    )
    return {row["response_id"]: dict(row) for row in session.execute(query).mappings()}


# Trainings and evaluations


def trainings(session: Session) -> list[Row]:
    """All of them, newest first."""
    query = (
        sa.select(Training, Dataset.name, Dataset.version, Dataset.size)
        .join(Dataset, Dataset.id == Training.dataset_id)
        .order_by(Training.started_at.desc())
        .limit(200)
    )
    return [_training(*row) for row in session.execute(query)]


def training(session: Session, id: str) -> Row | None:
    """One training, its settings included; None where there is none."""
    found = session.get(Training, id)
    if found is None:
        return None
    dataset = session.get_one(Dataset, found.dataset_id)
    recipe = session.get_one(Recipe, found.recipe_id)
    return _training(found, dataset.name, dataset.version, dataset.size) | {"parameters": recipe.parameters}


def _training(row: Training, name: str, version: int, size: int) -> Row:
    values = {key: getattr(row, key) for key in ("id", "dataset_id", "status", "output", "started_at", "finished_at")}
    return values | {
        "metrics": row.metrics or {},
        "dataset": f"{name} v{version}",
        "pairs": size,
        "name": Path(row.output).name,
    }


def curves(output: str, database: Database) -> dict[str, list[tuple[float, float]]]:
    """What a training logged, by name, as (step, value); empty where its folder is not here.

    Args:
        output: the training's folder as recorded; where that is relative it is also looked for beside the database.
        database: the one that recorded it.
    """
    folders = [Path(output)]
    if database.engine.dialect.name == "sqlite":
        folders.append(Path(database.engine.url.database or "").parent / Path(output).name)
    for folder in folders:
        states = [folder / "trainer_state.json", *_newest_first(folder)]
        for state in states:
            if logged := _logged(state):
                return logged
    return {}


def _newest_first(folder: Path) -> Iterator[Path]:
    """The checkpoints' states: what there is while it runs."""
    steps = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    for path in sorted(steps, key=lambda path: -int(path.name.rpartition("-")[2])):
        yield path / "trainer_state.json"


def _logged(path: Path) -> dict[str, list[tuple[float, float]]]:
    try:
        if path.stat().st_size > _MOST_LOG_BYTES:
            return {}
        entries = json.loads(path.read_text(encoding="utf-8"))["log_history"]
        found: dict[str, list[tuple[float, float]]] = {}
        for entry in entries:
            for key, value in entry.items():
                if key not in ("step", "epoch") and isinstance(value, int | float):
                    found.setdefault(key, []).append((float(entry["step"]), float(value)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # not there, still being written, or somebody else's: the page says that there is no log
    return dict(sorted(found.items(), key=lambda item: ("loss" not in item[0], item[0])))  # what one looks for first


def evaluations(session: Session, training_id: str | None = None) -> list[Row]:
    """All of them, or a training's, by benchmark, the best first."""
    query = sa.select(Evaluation).order_by(Evaluation.benchmark, Evaluation.created_at.desc()).limit(500)
    if training_id is not None:
        query = query.where(Evaluation.training_id == training_id)
    return [_evaluation(row) for row in session.scalars(query)]


def evaluation(session: Session, id: str) -> Row | None:
    """One evaluation, its settings and samples included; None where there is none."""
    found = session.get(Evaluation, id)
    if found is None:
        return None
    sample = EvaluationSample
    samples = session.scalars(
        sa.select(sample)
        .where(sample.evaluation_id == id)
        .order_by(sample.task_id, sample.sample_index)
        .limit(SAMPLES_ROWS)
    )
    return _evaluation(found) | {
        "parameters": session.get_one(Recipe, found.recipe_id).parameters,
        "rows": [
            {key: getattr(row, key) for key in ("task_id", "sample_index", "code", "verdict")}
            | {"details": row.details or {}}
            for row in samples
        ],
    }


def _evaluation(row: Evaluation) -> Row:
    scores = row.scores or {}
    at_k = sorted((key for key in scores if key.startswith("pass@")), key=lambda key: int(key[5:]))
    return {
        **{key: getattr(row, key) for key in ("id", "benchmark", "subject", "training_id", "created_at")},
        "scores": scores,
        "pass_at": {key: (scores[key], (scores.get("intervals") or {}).get(key)) for key in at_k},
    }


def readable_time(value: Any) -> str:
    """A stored time in minutes, in UTC; SQLite gives it without a zone."""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M") if value.tzinfo else f"{value:%Y-%m-%d %H:%M}"
    return storable(str(value or ""))[:16]
