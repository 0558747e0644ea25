"""Where seeds come from: installed packages, a folder of Python files, or a table of source code."""

from __future__ import annotations

import io
import logging
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from generator.recipe import SeedSettings
from generator.records import SeedRecord
from generator.seeds.extract import Function, functions
from generator.seeds.filters import SEED_FILTERS, SeedFilter, judge
from generator.seeds.licences import Licence, is_permissive, read_licence
from generator.seeds.tables import Cell, read_table
from sandbox_server.settings import SettingsError

log = logging.getLogger(__name__)

# Tests repeat what they test, and vendored code has a licence of its own.
_SKIPPED_PARTS = frozenset({"test", "tests", "testing", "_vendor", "vendor", "_vendored", "site-packages"})


def gather(settings: SeedSettings) -> Iterator[SeedRecord]:
    """Yield every function with a docstring whose licence is permissive, each once, in the source's order.

    Filters and the limit are not applied; see `select`. Of what was yielded only the keys are kept in memory.

    Raises:
        SettingsError: the source is missing, or its licence is not permissive.
    """
    seen: set[str] = set()
    for record in _SOURCES[settings.source](settings):
        if (key := record.key) not in seen:
            seen.add(key)
            yield record


def select(
    records: Iterable[SeedRecord], limit: int, filters: tuple[SeedFilter, ...] = SEED_FILTERS
) -> tuple[SeedRecord, ...]:
    """The seeds that every filter keeps, the first `limit` by key; 0 means all."""
    kept = sorted((record for record in records if judge(record, filters) is None), key=lambda record: record.key)
    return tuple(kept[:limit] if limit else kept)


def _packages(settings: SeedSettings) -> Iterator[SeedRecord]:
    where = Path(settings.path) if settings.path else None
    if where and not where.is_dir():
        raise SettingsError(f"[seeds] path: no such folder: {where}")
    installed = {
        _canonical(name): distribution
        for distribution in (distributions(path=[str(where)]) if where else distributions())
        if (name := distribution.metadata["Name"])
    }
    if not installed:
        raise SettingsError(
            f"[seeds] path: no package is installed in {where}; use `pip install --target {where} NAME`"
        )
    for wanted in settings.packages:
        if _canonical(wanted) not in installed:
            raise SettingsError(f"[seeds] packages: {wanted!r} is not installed{f' in {where}' if where else ''}")
    for name in sorted(map(_canonical, settings.packages) if settings.packages else installed):
        distribution = installed[name]
        licence = read_licence(distribution.metadata)
        if licence and is_permissive(licence.expression):
            yield from _distribution(distribution, licence, infer_imports=settings.infer_imports)
        elif settings.packages:
            known = f"its licence is {licence.expression}" if licence else "its metadata names no known licence"
            raise SettingsError(f"[seeds] packages: {name!r} cannot be used: {known}, which is not permissive")
        else:
            log.info("%s left out: licence %s", name, licence.expression if licence else "unknown")


def _distribution(distribution: Distribution, licence: Licence, *, infer_imports: bool) -> Iterator[SeedRecord]:
    for file in sorted(distribution.files or (), key=str):
        if file.suffix == ".py" and not _SKIPPED_PARTS.intersection(file.parts[:-1]) and ".." not in file.parts:
            yield from _file(
                Path(str(distribution.locate_file(file))),
                path=file.as_posix(),
                origin=distribution.metadata["Name"],
                version=distribution.version,
                licence=licence,
                infer_imports=infer_imports,
            )


def _folder(settings: SeedSettings) -> Iterator[SeedRecord]:
    folder = Path(settings.path)
    if not settings.path or not folder.is_dir():
        raise SettingsError(f"[seeds] path: expected a folder of Python files, got {settings.path!r}")
    if not is_permissive(settings.licence):
        raise SettingsError(
            "[seeds] licence: expected the SPDX expression of a permissive licence, such as 'MIT', "
            f"got {settings.licence!r}"
        )
    licence = Licence(settings.licence, "recipe: [seeds] licence")
    for file in sorted(folder.rglob("*.py")):
        inside = file.relative_to(folder)
        if not _SKIPPED_PARTS.intersection(inside.parts[:-1]) and not any(part[0] == "." for part in inside.parts):
            yield from _file(
                file,
                path=inside.as_posix(),
                origin=folder.resolve().name,
                version="",
                licence=licence,
                infer_imports=settings.infer_imports,
            )


def _table(settings: SeedSettings) -> Iterator[SeedRecord]:
    left_out: Counter[str] = Counter()
    said = Licence(settings.licence, "recipe: [seeds] licence") if settings.licence else None
    if said and not is_permissive(said.expression):
        raise SettingsError(f"[seeds] licence: expected a permissive licence, such as 'MIT', got {said.expression!r}")
    for cell in read_table(settings):
        if not cell.licence_column and not said:
            raise SettingsError(
                f"{cell.place}: nothing says the code's licence: set `licence` in [seeds], or its column's name in "
                "[seeds.columns]"
            )
        licence = _cell_licence(cell) if cell.licence_column else said
        if licence is None or not is_permissive(licence.expression):
            left_out[licence.expression if licence else "none"] += 1
            continue
        source = cell.code.replace("\r\n", "\n").replace("\r", "\n")
        origin = cell.origin or settings.path
        found = _functions(source, cell.place, infer_imports=settings.infer_imports)
        yield from _records(found, cell.path, origin, cell.version, licence)
    for expression, count in left_out.most_common():
        log.info("%d rows left out: licence %s", count, expression)


def _cell_licence(cell: Cell) -> Licence | None:
    if not cell.licences:
        return None
    # Some tables write a list of licences, some one expression.
    several = " AND ".join(f"({licence})" for licence in cell.licences)
    expression = cell.licences[0] if len(cell.licences) == 1 else several
    return Licence(expression, f"column {cell.licence_column}: {', '.join(cell.licences)}")


_SOURCES: dict[str, Callable[[SeedSettings], Iterator[SeedRecord]]] = {
    "packages": _packages,
    "folder": _folder,
    "jsonl": _table,
    "parquet": _table,
    "hub": _table,
}


def _file(
    file: Path, *, path: str, origin: str, version: str, licence: Licence, infer_imports: bool
) -> Iterator[SeedRecord]:
    try:
        data = file.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        # Universal newlines, as Python itself reads source.
        source = io.TextIOWrapper(io.BytesIO(data), encoding=encoding).read()
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        log.info("%s left out: %s", file, error)
        return
    found = _functions(source, str(file), infer_imports=infer_imports)
    yield from _records(found, path, origin, version, licence)


def _functions(source: str, place: str, *, infer_imports: bool) -> tuple[Function, ...]:
    try:
        return tuple(functions(source, infer_imports=infer_imports))
    except SyntaxError as error:
        log.info("%s left out: %s", place, error)
        return ()


def _records(found: Iterable[Function], path: str, origin: str, version: str, licence: Licence) -> Iterator[SeedRecord]:
    for function in found:
        yield SeedRecord(
            name=function.name,
            code=function.code,
            docstring=function.docstring,
            origin=origin,
            version=version,
            path=path,
            line=function.line,
            licence=licence.expression,
            licence_source=licence.source,
        )


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
