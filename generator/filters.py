"""What an answered instruction must be to become a pair: two literal tuples of named, versioned entries.

A filter looks at one candidate. Then candidates are walked in the order of their keys, and of those that are alike in
some way only the first stays. Both are data: changing one judges again, and runs nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass

from generator.seeds.extract import parse_quietly


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response with everything that is known of it.

    Attributes:
        error: why it could not be read; then it has no code.
        verdict: of its program with its own tests; None where there is no program.
        error_type: the exception, signal or system call that ended it.
    """

    response_id: str
    instruction_id: str
    instruction: str
    error: str | None
    code: str | None
    verdict: str | None
    error_type: str | None


@dataclass(frozen=True, slots=True)
class Filter:
    """One requirement. `reason` returns None to keep a candidate; `version` changes with what it answers."""

    name: str
    version: str
    reason: Callable[[Candidate], str | None]


@dataclass(frozen=True, slots=True)
class Unique:
    """One way in which kept candidates must differ: of those with the same key the first in order stays."""

    name: str
    version: str
    key: Callable[[Candidate], str]
    reason: str


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

UNIQUE: tuple[Unique, ...] = (
    Unique("one_per_instruction", "1", lambda c: c.instruction_id, "another response of its instruction was chosen"),
    Unique("new_instruction", "1", lambda c: _letters(c.instruction), "repeats the instruction of a chosen pair"),
    Unique("new_code", "1", lambda c: "".join((c.code or "").split()), "repeats the code of a chosen pair"),
)

VERSIONS: tuple[tuple[str, str], ...] = (
    *((entry.name, entry.version) for entry in FILTERS),
    *((entry.name, entry.version) for entry in UNIQUE),
)
"""What a recipe of selection says of them."""


def judge(candidate: Candidate) -> tuple[Filter, str] | None:
    """Ask the filters in order; the first objection counts, with its filter."""
    for entry in FILTERS:
        if reason := entry.reason(candidate):
            return entry, reason
    return None
