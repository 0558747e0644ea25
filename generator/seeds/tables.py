"""Source code out of tables: JSON Lines, Parquet, and data sets on a hub, such as The Stack.

Rows are streamed, so that memory does not grow with the table.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from generator.recipe import SeedColumns, SeedSettings
from sandbox_server.settings import SettingsError

Row = Mapping[str, Any]

KNOWN_COLUMNS: dict[str, tuple[str, ...]] = {
    "code": ("content", "code", "seed", "original_string", "func_code_string", "source", "text"),
    "licence": ("licence", "license", "licenses", "detected_licenses", "max_stars_repo_licenses"),
    "origin": ("origin", "repo_name", "repository_name", "max_stars_repo_name", "repo"),
    "version": ("version", "revision", "revision_id", "max_stars_repo_head_hexsha", "commit"),
    "path": ("path", "file_path", "max_stars_repo_path", "func_path_in_repository"),
}
"""What published sets of source code call their columns; the first that a table has is taken."""

PARQUET_ROWS = 256
_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.xz")
_OPENERS: dict[str, Callable[..., Any]] = {".bz2": bz2.open, ".gz": gzip.open, ".xz": lzma.open}


@dataclass(frozen=True, slots=True)
class Cell:
    """The source code in one row, and what the row says about it.

    Attributes:
        licences: SPDX expressions that all hold; empty where the row names none.
        licence_column: where they were read; empty where there is no such column.
        place: of the row, for messages.
    """

    code: str
    licences: tuple[str, ...]
    licence_column: str
    origin: str
    version: str
    path: str
    place: str


def read_table(settings: SeedSettings) -> Iterator[Cell]:
    """Stream the file, the folder of files or the data set that the settings name.

    Raises:
        SettingsError: it is not there, cannot be read, or has no column of source code; names the file and the row.
    """
    if settings.source == "hub":
        yield from _cells(_hub(settings), settings, settings.path)
        return
    endings = (".parquet",) if settings.source == "parquet" else _JSONL
    path = Path(settings.path)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.name.endswith(endings))
    if not settings.path or not files:
        raise SettingsError(f"[seeds] path: expected a file or a folder of {endings[0]} files, got {settings.path!r}")
    for file in files:
        rows = _parquet(file, settings.columns) if settings.source == "parquet" else _jsonl(file)
        yield from _cells(rows, settings, str(file))


def _cells(rows: Iterable[Row], settings: SeedSettings, place: str) -> Iterator[Cell]:
    given = asdict(settings.columns)
    for number, row in enumerate(rows, start=1):
        names = {field: _column(row, field, given[field]) for field in KNOWN_COLUMNS}
        if names["code"] is None:
            wanted = given["code"] or ", ".join(KNOWN_COLUMNS["code"])
            raise SettingsError(
                f"{place}, row {number}: no column of source code ({wanted}); it has {', '.join(row)}: "
                "set `code` in [seeds.columns]"
            )
        code = row[names["code"]]
        if not isinstance(code, str):
            raise SettingsError(f"{place}, row {number}: expected text in {names['code']!r}, got {type(code).__name__}")
        rest = {field: _text(row, names[field]) for field in ("origin", "version", "path")}
        yield Cell(
            code=code,
            licences=_licences(row, names["licence"]),
            licence_column=names["licence"] or "",
            place=f"{place}, row {number}",
            **rest,
        )


def _column(row: Row, field: str, given: str) -> str | None:
    return next((name for name in ((given,) if given else KNOWN_COLUMNS[field]) if name in row), None)


def _text(row: Row, name: str | None) -> str:
    value = row[name] if name else None
    return "" if value is None else str(value)


def _licences(row: Row, name: str | None) -> tuple[str, ...]:
    value = row[name] if name else None
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    # A repository with several licences: which one covers a file is not said, so that all have to be permissive.
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()


def _jsonl(file: Path) -> Iterator[Row]:
    number = 0
    try:
        with _OPENERS.get(file.suffix, open)(file, "rb") as lines:
            for line in lines:
                number += 1
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"expected an object, got {type(row).__name__}")
                yield row
    except (EOFError, OSError, ValueError, lzma.LZMAError) as error:
        raise SettingsError(f"{file}:{number or 1}: not JSON Lines: {error}") from error


def _parquet(file: Path, columns: SeedColumns) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SettingsError("[seeds] source: 'parquet' needs pyarrow: pip install 'selfalign[parquet]'") from error
    used = {*asdict(columns).values(), *(name for names in KNOWN_COLUMNS.values() for name in names)}
    try:
        with pq.ParquetFile(file) as table:
            # Only what is read here: tables of source code carry dozens of other columns.
            names = [name for name in table.schema_arrow.names if name in used] or None
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=names):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(f"{file}: not a Parquet file: {' '.join(str(error).split())[:200]}") from error


def _hub(settings: SeedSettings) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise SettingsError("[seeds] source: 'hub' needs datasets: pip install 'selfalign[hub]'") from error
    try:
        yield from datasets.load_dataset(settings.path, settings.subset or None, split=settings.split, streaming=True)
    except Exception as error:  # its errors are those of several libraries
        words = " ".join(str(error).split())[:200]
        raise SettingsError(f"[seeds] path: the data set {settings.path!r} cannot be read: {words}") from error
