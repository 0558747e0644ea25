"""Benchmark data: where it is looked for, and how it is known to be the right version."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.evaluation.problems import Problem

DATA_VARIABLE = "SELFALIGN_BENCHMARK_DATA"


class DataUnfit(Exception):
    """Benchmark data is missing or is not the version that is scored; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a benchmark's data file is called, how it is recognised, read, and obtained.

    Attributes:
        files: names that it is looked for under, the first being its usual one.
        read: makes a problem of a row, given the version; raises KeyError, TypeError or ValueError on a malformed one.
        obtain: where to get it, for messages.
        versions: MD5 of the uncompressed file -> version. Empty where publishers add to their data and no list of
            versions is known: then any file of the right form is taken, and its hash is part of the evaluation.
        parameters: version -> what else changes a verdict.
        package: an installed package that carries the file in its folder `data`.
    """

    files: tuple[str, ...]
    read: Callable[[dict[str, Any], str], Problem]
    obtain: str
    versions: Mapping[str, str] = field(default_factory=dict)
    parameters: Callable[[str], Mapping[str, Any]] = lambda version: {}
    package: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """A data file that was found.

    Attributes:
        md5: of the uncompressed file.
        version: whose rules count; empty where no versions are known.
        published: the file is the one that was published as this version.
    """

    path: Path
    md5: str
    version: str
    data: bytes
    published: bool = True

    def rows(self) -> Iterator[dict[str, Any]]:
        """The objects of its lines, or of the one array that it is.

        Raises:
            DataUnfit: it is neither.
        """
        try:
            if self.data.lstrip()[:1] == b"[":
                yield from json.loads(self.data)
            else:
                yield from (json.loads(line) for line in self.data.split(b"\n") if line.strip())
        except (ValueError, RecursionError) as error:
            raise DataUnfit(f"{self.path}: not JSON: {error}") from None


def find_data(name: str, source: Source, data: Path | None, version: str = "") -> Content:
    """Find and read a benchmark's file.

    Args:
        name: the benchmark's, for messages.
        source: what to look for.
        data: the file, or a folder that holds it. None: the folder named by the environment variable
            SELFALIGN_BENCHMARK_DATA, then `shared/data` beside the checkout, then an installed package.
        version: take the file for this one, although it is not the one that was published as it.

    Raises:
        DataUnfit: nothing found, unreadable, or another version.
    """
    if version and version not in source.versions.values():
        known = ", ".join(source.versions.values()) or "none"
        raise DataUnfit(f"{name} has no version {version!r}; versions known: {known}")
    path = _find(name, source, data)
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataUnfit(f"{path}: cannot be read: {error}") from error
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()  # names a version, as its publishers do
    found = source.versions.get(md5, "")
    if version and found != version:
        if found:
            raise DataUnfit(f"{path}: this is {name} {found}, not {version}: its MD5 is {md5}")
        return Content(path, md5, version, content, published=False)
    if source.versions and not found:
        known = " or ".join(f"{expected} ({label})" for expected, label in source.versions.items())
        raise DataUnfit(
            f"{path}: not the {name} data whose scores are published: MD5 {md5} of the uncompressed file, "
            f"expected {known}. Get {source.obtain}; or, if you know this file, have it scored by a version's rules "
            f"with --data-version {list(source.versions.values())[-1]}"
        )
    return Content(path, md5, found, content)


def _find(name: str, source: Source, data: Path | None) -> Path:
    if data is not None:
        folders: Sequence[Path] = [data]
        if data.is_file():
            return data
        if not data.is_dir():
            raise DataUnfit(f"{data}: no such file or folder. It should hold {source.files[0]}: get {source.obtain}")
    else:
        folders = _folders(source)
    for folder in folders:
        for file in source.files:
            if (folder / file).is_file():
                return folder / file
    looked = ", ".join(str(folder) for folder in folders)
    raise DataUnfit(
        f"no data for {name}: looked for {source.files[0]} in {looked or 'no folder'}. Get {source.obtain}, "
        f"and give its path with --data or its folder in {DATA_VARIABLE}"
    )


def _folders(source: Source) -> list[Path]:
    folders = []
    if os.environ.get(DATA_VARIABLE):
        folders.append(Path(os.environ[DATA_VARIABLE]))
    folders.append(Path(__file__).resolve().parents[3] / "shared" / "data")
    # Found without importing it: the package's own imports are not needed for its data.
    spec = importlib.util.find_spec(source.package) if source.package else None
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "data")
    return folders
