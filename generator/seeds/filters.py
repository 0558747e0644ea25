"""What makes a function a good seed: a literal tuple of filters, each with a name, a version and a reason.

They are those of the StarCoder2-Instruct pipeline, decided on the syntax tree and on tokens, where the original looked
for substrings (there "debug" contains "bug", and "import oscar" imports os).
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator import minhash
from generator.alike import Likeness
from generator.benchmarks import BenchmarkIndex
from generator.privacy import find_private
from generator.recipe import SeedSettings
from generator.records import SeedRecord
from generator.seeds import typecheck
from generator.seeds.extract import FunctionNode, function_of, parsed, undefined_names

MAX_LINES = 150
MIN_DOCSTRING_WORDS = 4
BANNED_IMPORTS = frozenset({"argparse", "distutils", "matplotlib", "os", "seaborn", "setuptools", "subprocess", "sys"})
"""Functions around these act on the machine instead of computing something that a test can look at."""
MARKER_WORDS = re.compile(r"\b(todo|fixme|bug)\b", flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SeedFilter:
    """One reason to leave a seed out. `reason` returns None to keep it; `version` changes with what it answers."""

    name: str
    version: str
    reason: Callable[[SeedRecord], str | None]


@dataclass(frozen=True, slots=True)
class BatchFilter:
    """As a `SeedFilter`, for many seeds at once: `reasons` returns one answer for each."""

    name: str
    version: str
    reasons: Callable[[Sequence[SeedRecord]], list[str | None]]


@dataclass(frozen=True, slots=True)
class Rejection:
    """Which filter left a seed out, and why."""

    filter: SeedFilter | BatchFilter
    reason: str


def _returns_nothing(record: SeedRecord) -> str | None:
    for node in _own_nodes(function_of(record.code)):
        if isinstance(node, ast.Yield | ast.YieldFrom) or (isinstance(node, ast.Return) and node.value):
            return None
    return "returns no value"


def _takes_nothing(record: SeedRecord) -> str | None:
    arguments = function_of(record.code).args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return None if any(given) else "takes no arguments"


def _too_long(record: SeedRecord) -> str | None:
    count = len(record.code.splitlines())
    return f"{count} lines, more than {MAX_LINES}" if count > MAX_LINES else None


def _stub(record: SeedRecord) -> str | None:
    body = function_of(record.code).body[1:]  # after the docstring
    does_nothing = all(
        isinstance(node, ast.Pass | ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in body
    )
    return "has no body" if does_nothing else None


def _short_docstring(record: SeedRecord) -> str | None:
    count = len(record.docstring.split())
    return f"docstring of {count} words, fewer than {MIN_DOCSTRING_WORDS}" if count < MIN_DOCSTRING_WORDS else None


def _is_test(record: SeedRecord) -> str | None:
    return "is a test" if record.name.startswith("test") else None


def _banned_import(record: SeedRecord) -> str | None:
    for node in ast.walk(parsed(record.code)):
        for module in _imported(node):
            if module.split(".")[0] in BANNED_IMPORTS:
                return f"imports {module}"
    return None


def _relative_import(record: SeedRecord) -> str | None:
    for node in ast.walk(parsed(record.code)):
        if isinstance(node, ast.ImportFrom) and node.level:
            return "imports from its own package"
    return None


def _undefined_name(record: SeedRecord) -> str | None:
    names = sorted(undefined_names(record.code))
    return f"needs {', '.join(names[:3])}{', ...' if len(names) > 3 else ''} of its module" if names else None


def _marker_word(record: SeedRecord) -> str | None:
    for token in tokenize.generate_tokens(io.StringIO(record.code).readline):
        if token.type in _TEXT_TOKENS and (match := MARKER_WORDS.search(token.string)):
            return f"says {match[1].lower()!r}"
    return None


def _private(record: SeedRecord) -> str | None:
    kind = find_private(record.code)
    return f"holds {kind}" if kind else None


SEED_FILTERS: tuple[SeedFilter, ...] = (
    SeedFilter("returns_nothing", "1", _returns_nothing),
    SeedFilter("takes_nothing", "1", _takes_nothing),
    SeedFilter("too_long", "1", _too_long),
    SeedFilter("stub", "1", _stub),
    SeedFilter("short_docstring", "1", _short_docstring),
    SeedFilter("is_test", "1", _is_test),
    SeedFilter("banned_import", "1", _banned_import),
    SeedFilter("relative_import", "1", _relative_import),
    SeedFilter("undefined_name", "1", _undefined_name),
    SeedFilter("marker_word", "1", _marker_word),
    SeedFilter("private", "1", _private),
)

# Names are left alone: a function called `bug_report` is no unfinished one. From Python 3.12 on, an f-string's text is
# a token of its own.
_TEXT_TOKENS = frozenset({tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)})


def seed_filters(settings: SeedSettings) -> tuple[SeedFilter, ...]:
    """The filters that a recipe asks for; those that need data come last and have its hash as version.

    Raises:
        SettingsError: the data cannot be read.
    """
    if not settings.benchmarks:
        return SEED_FILTERS
    index = BenchmarkIndex(Path(settings.benchmarks), "[seeds] benchmarks")

    def overlap(record: SeedRecord) -> str | None:
        found = index.find(record.code)
        return str(found) if found else None

    return (*SEED_FILTERS, SeedFilter("benchmark_overlap", index.fingerprint, overlap))


def batch_filters(settings: SeedSettings) -> tuple[BatchFilter, ...]:
    """The filters that are too slow to be asked about one seed; they come last.

    Raises:
        SettingsError: what they need is not installed.
    """
    if not settings.typecheck:
        return ()
    version = hashlib.blake2b(typecheck.version().encode(), digest_size=8).hexdigest()
    return (BatchFilter("typecheck", version, lambda seeds: typecheck.type_errors([seed.code for seed in seeds])),)


def seed_likenesses(settings: SeedSettings) -> tuple[Likeness[Any], ...]:
    """The ways in which seeds must differ; of those that are alike the one with the smallest key stays."""
    if not settings.near_duplicates:
        return ()
    reason = "much like a seed that is kept"
    return (minhash.likeness("near_duplicate", reason, lambda seed: str(seed.code), settings.near_duplicates),)


def judge(record: SeedRecord, filters: tuple[SeedFilter, ...] = SEED_FILTERS) -> Rejection | None:
    """Ask the filters in order; the first objection counts."""
    for seed_filter in filters:
        if reason := seed_filter.reason(record):
            return Rejection(seed_filter, reason)
    return None


def judge_all(
    records: Sequence[SeedRecord], filters: tuple[SeedFilter, ...], batches: tuple[BatchFilter, ...]
) -> list[Rejection | None]:
    """Ask about many; filters for batches are asked about those alone that all before them keep."""
    rejections = [judge(record, filters) for record in records]
    for entry in batches:
        kept = [number for number, rejection in enumerate(rejections) if rejection is None]
        for number, reason in zip(kept, entry.reasons([records[number] for number in kept]), strict=True):
            rejections[number] = Rejection(entry, reason) if reason else None
    return rejections


def _own_nodes(function: FunctionNode) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions and classes inside it."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
