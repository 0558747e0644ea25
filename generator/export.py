"""Snapshots as files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import causes
from generator.models import Concepts, Dataset, DatasetItem, Instruction, Pipeline, Response, Seed
from generator.recipe import Recipe
from generator.records import InstructionInput
from generator.stages import STAGES
from generator.store import BATCH_ROWS
from sandbox_server.settings import SettingsError, parse

Row = dict[str, Any]

COLUMNS: dict[str, Callable[[Row], Row]] = {
    "pairs": lambda row: {key: row[key] for key in ("id", "instruction", "response")},
    # The columns of the data set that StarCoder2-15B-Instruct was trained on.
    "original": lambda row: {
        "fingerprint": row["recipe_id"],
        "sha1": hashlib.sha1(row["seed"].encode(), usedforsecurity=False).hexdigest(),
        "seed": row["seed"],
        "response": row["response"],
        "concepts": row["concepts"],
        "prompt": row["prompt"],
        "instruction": row["instruction"],
        "id": row["position"],
    },
    "trl": lambda row: {"prompt": row["instruction"], "completion": row["response"]},
}
"""How an item is written, by name: what the keys are called."""


def export_jsonl(session: Session, dataset: Dataset, stream: TextIO, columns: str) -> int:
    """Write a snapshot, one JSON object a line, in the order of positions.

    Args:
        session: a reading one.
        dataset: the snapshot.
        stream: text, UTF-8.
        columns: a key of `COLUMNS`.

    Returns:
        How many lines.
    """
    lines = 0
    prompt = _prompter(session)
    for row in _rows(session, dataset):
        row["prompt"] = prompt(row["recipe_id"], row["instruction"]) if columns == "original" else None
        stream.write(json.dumps(COLUMNS[columns](row), ensure_ascii=False) + "\n")
        lines += 1
    return lines


def export_file(session: Session, dataset: Dataset, path: Path, columns: str) -> int:
    """Write a snapshot into a file, which appears only when it is whole; see `export_jsonl`.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8") as stream:
            lines = export_jsonl(session, dataset, stream, columns)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return lines


def _prompter(session: Session) -> Callable[[str, str], str | None]:
    """What makes the prompt of a response again: None where its recipe, or the code that wrote it, is no longer there.

    Prompts are not stored, since each is a function of its recipe and parent; the original's file repeats them in every
    row and is ten times as large for it.
    """
    recipes: dict[str, Recipe] = {}
    for parameters in session.scalars(sa.select(Pipeline.parameters)):
        with contextlib.suppress(SettingsError):  # of a version whose recipes had other keys
            recipe = parse(Recipe, parameters, "pipelines")
            recipes[causes.generation(recipe, STAGES[-1]).id] = recipe

    def prompt(recipe_id: str, instruction: str) -> str | None:
        recipe = recipes.get(recipe_id)
        if recipe is None:
            return None
        parent = InstructionInput(instruction)
        request = STAGES[-1].request(
            parent, id="", sample_index=0, seed=recipe.seed, settings=recipe.responses, mode=recipe.model.mode
        )
        return request.prompt.text or "\n\n".join(message.content for message in request.prompt.messages)

    return prompt


def _rows(session: Session, dataset: Dataset) -> Iterator[Row]:
    query = (
        sa.select(
            *(DatasetItem.position, DatasetItem.response_id.label("id"), DatasetItem.instruction, DatasetItem.response),
            *(Response.recipe_id, Concepts.concepts, Seed.code.label("seed")),
        )
        .join(Response, Response.id == DatasetItem.response_id)
        .join(Instruction, Instruction.id == Response.instruction_id)
        .join(Concepts, Concepts.id == Instruction.concepts_id)
        .join(Seed, Seed.id == Concepts.seed_id)
        .where(DatasetItem.dataset_id == dataset.id)
        .order_by(DatasetItem.position)
        .limit(BATCH_ROWS)
    )
    after = -1
    while page := session.execute(query.where(DatasetItem.position > after)).mappings().all():
        yield from (dict(row) for row in page)
        after = page[-1]["position"]
