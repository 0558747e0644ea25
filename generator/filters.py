"""What an answered instruction must be to become a pair: two literal tuples of named, versioned entries.

A filter looks at one candidate. Of the candidates that every filter keeps and that are alike in some way only the first
stays, where those come first whose checks came to most. Both are data: changing one judges again, and runs nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from generator import minhash
from generator.alike import Likeness
from generator.benchmarks import BenchmarkIndex
from generator.checks import Score
from generator.clean_up import without_comments
from generator.recipe import SelectionSettings
from generator.seeds.extract import parse_quietly


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response with everything that is known of it.

    Attributes:
        error: why it could not be read; then it has no code.
        verdict: of its program with its own tests; None where there is no program.
        error_type: the exception, signal or system call that ended it.
        score: what its checks came to; None where there were none.
    """

    response_id: str
    instruction_id: str
    instruction: str
    error: str | None
    code: str | None
    verdict: str | None
    error_type: str | None
    score: Score | None = None

    @property
    def id(self) -> str:
        """What judgements call it."""
        return self.response_id

    @property
    def place(self) -> tuple[float, float, str]:
        """Where it comes among those that are alike: more agreement, then more mutants killed, then the key."""
        score = self.score or Score()
        return -(score.agreement or 0.0), -(score.mutation_score or 0.0), self.response_id


@dataclass(frozen=True, slots=True)
class Filter:
    """One requirement. `reason` returns None to keep a candidate; `version` changes with what it answers."""

    name: str
    version: str
    reason: Callable[[Candidate], str | None]


@dataclass(frozen=True, slots=True)
class Rules:
    """What one recipe asks of candidates."""

    filters: tuple[Filter, ...]
    unique: tuple[Likeness[Candidate], ...]

    @property
    def versions(self) -> tuple[tuple[str, str], ...]:
        """What a recipe of selection says of them."""
        filters = ((entry.name, entry.version) for entry in self.filters)
        return (*filters, *((way.name, way.version) for way in self.unique))

    def judge(self, candidate: Candidate) -> tuple[Filter, str] | None:
        """Ask the filters in order; the first objection counts, with its filter."""
        for entry in self.filters:
            if reason := entry.reason(candidate):
                return entry, reason
        return None


def _unread(candidate: Candidate) -> str | None:
    return candidate.error


def _not_passed(candidate: Candidate) -> str | None:
    if candidate.verdict == "PASSED":
        return None
    return f"verdict {candidate.verdict}" + (f": {candidate.error_type}" if candidate.error_type else "")


def _unwritten(candidate: Candidate) -> str | None:
    try:
        tree = parse_quietly(candidate.code or "")
    except SyntaxError:  # the sandbox's Python may know more than ours
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if all(_says_nothing(statement) for statement in body):
                return "a function without a body"
    return None


def _says_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Expr(ast.Constant()):
            return True
        case ast.Raise(exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name(id="NotImplementedError"))):
            return True
    return False


def _letters(text: str) -> str:
    return "".join(text.split()).casefold()


FILTERS: tuple[Filter, ...] = (
    Filter("read", "1", _unread),
    Filter("passed", "1", _not_passed),
    # Decorated functions are left alone: an abstract method and an overload have no body by right.
    Filter("written", "1", _unwritten),
)

UNIQUE: tuple[Likeness[Candidate], ...] = (
    Likeness(
        "one_per_instruction", "1", lambda c: [c.instruction_id], "another response of its instruction was chosen"
    ),
    Likeness("new_instruction", "1", lambda c: [_letters(c.instruction)], "repeats the instruction of a chosen pair"),
    Likeness("new_code", "1", lambda c: ["".join((c.code or "").split())], "repeats the code of a chosen pair"),
)


def rules(settings: SelectionSettings) -> Rules:
    """What a recipe asks for besides `FILTERS` and `UNIQUE`; thresholds are versions.

    Raises:
        SettingsError: the benchmarks cannot be read.
    """
    return Rules((*FILTERS, *_checked(settings), *_overlapping(settings)), (*UNIQUE, *_similar(settings)))


def _checked(settings: SelectionSettings) -> list[Filter]:
    found = []
    if settings.repeat > 1:
        reason = f"not every one of {settings.repeat} runs passed"
        found.append(Filter("stable", str(settings.repeat), lambda c: reason if c.score and c.score.flaky else None))
    if settings.mutants:
        found.append(Filter("tests_tell", "1", _passes_on_a_stub))
    if least := settings.min_mutation_score:

        def kills_too_few(candidate: Candidate) -> str | None:
            share = candidate.score.mutation_score if candidate.score else None
            return (
                f"its tests notice fewer than {least:.0%} of the faults"
                if share is not None and share < least
                else None
            )

        found.append(Filter("kills_mutants", f"{least:g}", kills_too_few))
    if agreed := settings.min_agreement:

        def stands_alone(candidate: Candidate) -> str | None:
            share = candidate.score.agreement if candidate.score else None
            return f"agreement below {agreed:g}" if share is not None and share < agreed else None

        found.append(Filter("agreement", f"{agreed:g}", stands_alone))
    return found


def _passes_on_a_stub(candidate: Candidate) -> str | None:
    return "its tests pass on empty functions" if candidate.score and candidate.score.stub_failed is False else None


def _overlapping(settings: SelectionSettings) -> list[Filter]:
    if not settings.benchmarks:
        return []
    index = BenchmarkIndex(Path(settings.benchmarks), "[selection] benchmarks")

    def overlap(candidate: Candidate) -> str | None:
        found = index.find(candidate.instruction) or index.find(candidate.code or "")
        return str(found) if found else None

    return [Filter("benchmark_overlap", index.fingerprint, overlap)]


def _similar(settings: SelectionSettings) -> list[Likeness[Candidate]]:
    if not settings.near_duplicates:
        return []
    texts: tuple[tuple[str, str, Callable[[Candidate], str]], ...] = (
        ("near_instruction", "much like the instruction of a chosen pair", lambda c: c.instruction),
        ("near_code", "much like the code of a chosen pair", lambda c: without_comments(c.code or "")),
    )
    return [minhash.likeness(name, reason, text, settings.near_duplicates) for name, reason, text in texts]
