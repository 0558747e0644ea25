"""Fenced code blocks of Markdown, by CommonMark's rules for fences at the start of a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>.*?)[ \t]*$")
PYTHON = frozenset({"python", "python3", "py"})


@dataclass(frozen=True, slots=True)
class Line:
    """One line of Markdown. `block` numbers the fenced block that it belongs to, fences included; None is prose."""

    text: str
    block: int | None
    is_fence: bool = False


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """One fenced block. `closed` is False where the text ended first, as in a truncated answer."""

    language: str
    code: str
    closed: bool


def lines(markdown: str) -> Iterator[Line]:
    """Tell prose from code, line by line."""
    opener: str | None = None
    number = -1
    # Not splitlines(): a form feed or U+2028 inside a string literal ends no line of Markdown or Python.
    for text in markdown.replace("\r\n", "\n").split("\n"):
        match = _FENCE.match(text) if "```" in text or "~~~" in text else None
        if opener is None:
            # A backtick fence's info string holds no backtick, else it is inline code.
            if match and not (match["fence"][0] == "`" and "`" in match["info"]):
                opener, number = match["fence"], number + 1
                yield Line(text, number, is_fence=True)
            else:
                yield Line(text, None)
        elif match and match["fence"].startswith(opener) and not match["info"]:
            opener = None
            yield Line(text, number, is_fence=True)
        else:
            yield Line(text, number)


def code_blocks(markdown: str) -> tuple[CodeBlock, ...]:
    """All fenced blocks, in order. The language is the info string's first word, in lower case."""
    members: dict[int, list[Line]] = {}
    for line in lines(markdown):
        if line.block is not None:
            members.setdefault(line.block, []).append(line)
    return tuple(map(_block, members.values()))


def python_blocks(markdown: str) -> tuple[CodeBlock, ...]:
    """The blocks marked as Python."""
    return tuple(block for block in code_blocks(markdown) if block.language in PYTHON)


def fence(code: str, language: str = "python") -> str:
    """Put code into a fence that it cannot close."""
    longest = max((len(run) for run in re.findall(r"^ {0,3}(`{3,})", code, flags=re.MULTILINE)), default=2)
    ticks = "`" * (longest + 1)
    return f"{ticks}{language}\n{code}\n{ticks}"


def _block(members: list[Line]) -> CodeBlock:
    match = _FENCE.match(members[0].text)
    words = match["info"].lower().split() if match else []
    closed = len(members) > 1 and members[-1].is_fence
    code = "\n".join(line.text for line in members[1 : -1 if closed else None])
    return CodeBlock(words[0] if words else "", code, closed)
