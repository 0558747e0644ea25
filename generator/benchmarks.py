"""Text that overlaps a benchmark: what is scored later must not be learnt from.

All problems of all splits count, for a model is scored on them; the original left 72 % of MBPP+ in.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_server.settings import SettingsError

DESCRIPTIONS = ("text", "prompt", "question_content", "description", "instruction")
SOLUTIONS = ("canonical_solution", "code", "reference_code", "solution")
"""What benchmarks call the parts of a problem."""

_PACKAGE = "package:"
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_DOCSTRING = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'', flags=re.DOTALL)


@dataclass(frozen=True, slots=True)
class Kind:
    """How one part of a problem is compared.

    Attributes:
        grams: tokens in a row that count as one piece.
        share: of a problem's pieces that a text may not hold.
        fewest: pieces that a problem must have; shorter ones occur everywhere.
    """

    name: str
    token: re.Pattern[str]
    grams: int
    share: float
    fewest: int


KINDS = (
    Kind("description", _WORD, grams=4, share=0.5, fewest=6),
    Kind("solution", _TOKEN, grams=6, share=0.6, fewest=12),
)


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of which problem a text holds."""

    problem: str
    kind: str
    share: float

    def __str__(self) -> str:
        return f"holds {self.share:.0%} of the {self.kind} of {self.problem}"


class BenchmarkIndex:
    """The pieces of all problems in a folder of benchmark files (`.jsonl`, `.jsonl.gz`, `.json`).

    Args:
        folder: to read; `package:NAME` is the folder `data` of an installed package.
        setting: what named it, for messages.

    Attributes:
        fingerprint: hash of the problems and of how they are compared.
        problems: how many there are.

    Raises:
        SettingsError: the folder is missing or holds no problem.
    """

    def __init__(self, folder: Path, setting: str) -> None:
        self._pieces: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        self._parts: list[tuple[str, str, int]] = []
        digest = hashlib.blake2b(repr(KINDS).encode(), digest_size=8)
        names = set()
        for name, row in _problems(folder, setting):
            names.add(name)
            for kind, texts in (("description", _descriptions(row)), ("solution", _solutions(row))):
                for text in texts:
                    digest.update(f"{name}\0{text}\0".encode())
                    self._add(name, next(each for each in KINDS if each.name == kind), text)
        if not names:
            raise SettingsError(f"{setting}: no problem found in the .jsonl and .json files of {folder}")
        self.problems = len(names)
        self.fingerprint = digest.hexdigest()

    def find(self, text: str) -> Overlap | None:
        """The problem that the text holds most of, if it holds too much of any."""
        worst: Overlap | None = None
        for kind in KINDS:
            held: Counter[int] = Counter()
            for piece in _grams(kind, text):
                held.update(self._pieces.get((kind.name, piece), ()))
            for part, count in held.items():
                name, _, total = self._parts[part]
                share = count / total
                if share >= kind.share and (worst is None or share > worst.share):
                    worst = Overlap(name, kind.name, share)
        return worst

    def _add(self, name: str, kind: Kind, text: str) -> None:
        pieces = _grams(kind, text)
        if len(pieces) < kind.fewest:
            return
        self._parts.append((name, kind.name, len(pieces)))
        for piece in pieces:
            self._pieces.setdefault((kind.name, piece), []).append(len(self._parts) - 1)


def _grams(kind: Kind, text: str) -> set[tuple[str, ...]]:
    tokens = kind.token.findall(text.casefold())
    return set(zip(*(tokens[start:] for start in range(kind.grams)), strict=False))


def _descriptions(row: dict[str, Any]) -> Iterator[str]:
    for text in _strings(row, DESCRIPTIONS):
        # A prompt that is code describes its task in the docstring; examples in it are part of the description.
        found = [first or second for first, second in _DOCSTRING.findall(text)]
        yield from found or [text]


def _solutions(row: dict[str, Any]) -> Iterator[str]:
    yield from _strings(row, SOLUTIONS)


def _strings(row: dict[str, Any], names: Iterable[str]) -> Iterator[str]:
    yield from (row[name] for name in names if isinstance(row.get(name), str))


def _problems(folder: Path, setting: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if str(folder).startswith(_PACKAGE):
        # Found without importing it: the package's own imports are not needed for its data.
        spec = importlib.util.find_spec(str(folder).removeprefix(_PACKAGE))
        if spec is None or spec.origin is None:
            raise SettingsError(f"{setting}: no package {str(folder).removeprefix(_PACKAGE)!r} is installed")
        folder = Path(spec.origin).parent / "data"
    if not folder.is_dir():
        raise SettingsError(f"{setting}: expected a folder of benchmark files, got {str(folder)!r}")
    for file in sorted(folder.iterdir()):
        if not file.name.endswith((".jsonl", ".jsonl.gz", ".json")):
            continue
        try:
            data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            rows = (
                json.loads(data) if file.suffix == ".json" else [json.loads(line) for line in data.splitlines() if line]
            )
        except (OSError, EOFError, ValueError) as error:
            raise SettingsError(f"{setting}: {file} cannot be read: {error}") from error
        for number, row in enumerate(rows if isinstance(rows, list) else [], start=1):
            if isinstance(row, dict) and any(_strings(row, (*DESCRIPTIONS, *SOLUTIONS))):
                task = row.get("task_id", row.get("question_id", number))
                yield f"{file.name.split('.')[0]}/{task}", row
