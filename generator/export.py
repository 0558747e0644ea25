"""Snapshots as files: JSON lines, Parquet, or a folder that `datasets.load_dataset` reads, with a card.

What is written appears under its name only when it is whole. Memory does not grow with the snapshot.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import sqlalchemy as sa
from sqlalchemy.orm import Session

from generator import causes, clean_up
from generator.card import dataset_card
from generator.models import Concepts, Dataset, DatasetItem, Execution, Instruction, Pipeline, Response, Seed
from generator.models import Recipe as RecipeRow
from generator.recipe import DatasetSettings, Recipe
from generator.records import InstructionInput
from generator.stages import STAGES
from generator.store import BATCH_ROWS, batched
from sandbox_server.settings import SettingsError, parse

ROWS_PER_FILE = 100_000
"""Of a folder's Parquet files."""

_OURS = frozenset({"README.md", "data"})
"""What a folder that is exported to holds; with anything else in it, it is somebody's."""

Row = dict[str, Any]


class ExportError(Exception):
    """The snapshot cannot be written there, or in this form; the message is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the items of a snapshot are written.

    Attributes:
        fields: name and type of each key, in order; types are Arrow's.
        rows: yields the items, in the order of positions.
        what: what an item is called.
    """

    fields: dict[str, str]
    rows: Callable[[Session, Dataset], Iterator[Row]]
    what: str = "pairs"


def _pairs(session: Session, dataset: Dataset) -> Iterator[Row]:
    for row in _items(session, dataset):
        yield {"id": row.response_id, "instruction": row.instruction, "response": row.response}


def _prompt_completion(session: Session, dataset: Dataset) -> Iterator[Row]:
    for row in _items(session, dataset):
        yield {"prompt": row.instruction, "completion": row.response}


def _original(session: Session, dataset: Dataset) -> Iterator[Row]:
    prompt = _prompter(session)
    columns = (Response.recipe_id, Instruction.instruction.label("asked"), Concepts.concepts, Seed.code)
    for row in _items(session, dataset, *columns):
        yield {
            "fingerprint": row.recipe_id,
            "sha1": hashlib.sha1(row.code.encode(), usedforsecurity=False).hexdigest(),
            "seed": row.code,
            "response": row.response,
            "concepts": row.concepts,
            "prompt": prompt(row.recipe_id, row.asked),
            "instruction": row.instruction,
            "id": row.position,
        }


def _preference(session: Session, dataset: Dataset) -> Iterator[Row]:
    """Each pair beside every answer to the same instruction that failed, cleaned up as the pair was."""
    selection = session.get_one(RecipeRow, dataset.recipe_id).parameters
    changed = {name: value for name, value in selection.get("clean_up", {}).items() if name != "version"}
    settings = DatasetSettings(sections=tuple(selection["sections"]), **changed)
    bad = sa.orm.aliased(Response)
    names = clean_up.sections_read(settings)
    sections = [getattr(bad, name) for name in names]
    failed = (
        sa.select(DatasetItem.position, bad.id, Execution.verdict, *sections)
        .join(Response, Response.id == DatasetItem.response_id)
        .join(bad, sa.and_(bad.instruction_id == Response.instruction_id, bad.recipe_id == Response.recipe_id))
        .join(Execution, Execution.program_key == bad.program_key)
        .where(DatasetItem.dataset_id == dataset.id, Execution.recipe_id == selection["executions"])
        .where(Execution.verdict.not_in(("PASSED", "NO_TESTS", "REFUSED")))
        .order_by(DatasetItem.position, bad.sample_index)
    )
    if wanted := (dataset.settings or {}).get("responses", {}).get("samples"):
        failed = failed.where(bad.sample_index < wanted)  # what was drawn later is no part of this snapshot
    for page in batched(_items(session, dataset, Instruction.instruction.label("asked"))):
        pairs = {row.position: row for row in page}
        for position, _, verdict, *texts in session.execute(failed.where(DatasetItem.position.in_(pairs))):
            pair = pairs[position]
            parts = dict(zip(names, texts, strict=True))
            rejected = clean_up.response(parts, pair.asked, pair.response_id, settings)
            yield {
                "prompt": pair.instruction,
                "chosen": pair.response,
                "rejected": rejected,
                "rejected_verdict": verdict,
            }


LAYOUTS: dict[str, Layout] = {
    "pairs": Layout({"id": "string", "instruction": "string", "response": "string"}, _pairs),
    # The columns of the data set that StarCoder2-15B-Instruct was trained on.
    "original": Layout(
        {
            "fingerprint": "string",
            "sha1": "string",
            "seed": "string",
            "response": "string",
            "concepts": "list<string>",
            "prompt": "string",
            "instruction": "string",
            "id": "int64",
        },
        _original,
    ),
    "trl": Layout({"prompt": "string", "completion": "string"}, _prompt_completion),
    "preference": Layout(
        {"prompt": "string", "chosen": "string", "rejected": "string", "rejected_verdict": "string"},
        _preference,
        "preference pairs",
    ),
}
"""What an item is written as, by name."""


def export_jsonl(session: Session, dataset: Dataset, stream: TextIO, layout: Layout) -> int:
    """Write a snapshot, one JSON object a line, in the order of positions.

    Args:
        session: a reading one.
        dataset: the snapshot.
        stream: text, UTF-8.
        layout: one of `LAYOUTS`.

    Returns:
        How many lines.
    """
    lines = 0
    for row in layout.rows(session, dataset):
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        lines += 1
    return lines


def export(session: Session, dataset: Dataset, path: Path, form: str, layout: Layout, *, replace: bool = False) -> int:
    """Write a snapshot under a name of its own.

    Args:
        session: a reading one.
        dataset: the snapshot.
        path: of the file or folder.
        form: a key of `FORMS`.
        layout: one of `LAYOUTS`.
        replace: whether what is there may be replaced.

    Returns:
        How many items.

    Raises:
        ExportError: something is there, or a package is missing.
        OSError: it cannot be written; nothing is left behind.
    """
    if path.exists() and not replace:
        raise ExportError(f"{path}: exists; give another --output, or --force to replace it")
    if path.exists() and path.is_dir() != (form == "folder"):
        raise ExportError(f"{path}: is {'a folder' if path.is_dir() else 'a file'}; give another --output")
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise ExportError(f"{path}: is neither a file nor a folder; give another --output")
    if others := sorted(file.name for file in path.iterdir() if file.name not in _OURS) if path.is_dir() else []:
        raise ExportError(f"{path}: holds {others[0]}, which is no part of an export; give another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        count = FORMS[form](session, dataset, part, layout)
        if part.is_dir() and path.exists():
            old = part.with_name(part.name + ".old")
            path.replace(old)  # a folder cannot be put in another's place in one step
            part.replace(path)
            shutil.rmtree(old)
        else:
            part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
    return count


def _to_jsonl(session: Session, dataset: Dataset, path: Path, layout: Layout) -> int:
    with path.open("w", encoding="utf-8") as stream:
        lines = export_jsonl(session, dataset, stream, layout)
        stream.flush()
        os.fsync(stream.fileno())
    return lines


def _to_parquet(session: Session, dataset: Dataset, path: Path, layout: Layout) -> int:
    return _write_parquet(path, layout, layout.rows(session, dataset))[0]


def _to_folder(session: Session, dataset: Dataset, path: Path, layout: Layout) -> int:
    data = path / "data"
    data.mkdir(parents=True)
    parts: list[Path] = []
    items = size_bytes = 0
    for rows in _pieces(layout.rows(session, dataset), ROWS_PER_FILE):
        parts.append(data / f"{len(parts)}.parquet")
        count, raw_bytes = _write_parquet(parts[-1], layout, rows)
        items += count
        size_bytes += raw_bytes
    for number, part in enumerate(parts):
        part.replace(data / f"train-{number:05}-of-{len(parts):05}.parquet")
    download_bytes = sum(file.stat().st_size for file in data.iterdir())
    card = dataset_card(
        session,
        dataset,
        layout.fields,
        items=items,
        what=layout.what,
        size_bytes=size_bytes,
        download_bytes=download_bytes,
    )
    (path / "README.md").write_text(card, encoding="utf-8")
    return items


FORMS: dict[str, Callable[[Session, Dataset, Path, Layout], int]] = {
    "jsonl": _to_jsonl,
    "parquet": _to_parquet,
    "folder": _to_folder,
}
"""How a snapshot is written, by name."""


def _write_parquet(path: Path, layout: Layout, rows: Iterator[Row]) -> tuple[int, int]:
    """Write rows into a file.

    Returns:
        How many, and their size in memory in bytes.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ExportError("Parquet needs pyarrow: pip install 'selfalign[parquet]'") from None
    types = {"string": pa.string(), "int64": pa.int64(), "list<string>": pa.list_(pa.string())}
    schema = pa.schema([(name, types[kind]) for name, kind in layout.fields.items()])
    count = size_bytes = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batched(rows, 10 * BATCH_ROWS):
            table = pa.Table.from_pylist(batch, schema=schema)
            writer.write_table(table)
            count += len(batch)
            size_bytes += table.nbytes
    return count, size_bytes


def _pieces(rows: Iterator[Row], size: int) -> Iterator[Iterator[Row]]:
    """Cut rows into runs of `size`, each to be read before the next; at least one, if empty."""
    while True:
        taken = 0

        def piece() -> Iterator[Row]:
            nonlocal taken
            for row in rows:
                taken += 1
                yield row
                if taken == size:
                    return

        yield piece()
        if taken < size:
            return


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


def _items(session: Session, dataset: Dataset, *columns: Any) -> Iterator[Any]:
    """The items in order, page by page, with columns of the rows that they grew out of."""
    item = DatasetItem
    query = sa.select(item.position, item.response_id, item.instruction, item.response, *columns)
    if columns:
        query = (
            query.join(Response, Response.id == item.response_id)
            .join(Instruction, Instruction.id == Response.instruction_id)
            .join(Concepts, Concepts.id == Instruction.concepts_id)
            .join(Seed, Seed.id == Concepts.seed_id)
        )
    query = query.where(item.dataset_id == dataset.id).order_by(item.position).limit(BATCH_ROWS)
    after = -1
    while page := session.execute(query.where(item.position > after)).all():
        yield from page
        after = page[-1].position
