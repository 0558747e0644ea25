"""What of a pair is trained on: sections left out, assertions shown, comments taken away, as the recipe says.

What is drawn is drawn by hash from the response's key, so that a pair is cleaned up in one way wherever and whenever.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Mapping

from generator import codeblocks
from generator.keys import key_of
from generator.recipe import DatasetSettings
from generator.seeds.extract import parse_quietly

VERSION = 1
"""Raised whenever the same response is cleaned up otherwise."""

MOST_ASSERTIONS = 5
OPTIONAL = frozenset({"reasoning", "explanation"})
"""Sections that an answer can do without."""


_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\"[^\"\n]*\"", flags=re.DOTALL)
_TESTS = re.compile(
    r"\b(?:tests?|test_?cases?|unit_?tests?|doctests?|pytest)\b(?!\s+(?:if|whether)\b)", flags=re.IGNORECASE
)


def asks_for_tests(instruction: str) -> bool:
    """Whether an instruction wants tests: it has one of these words, outside code and double quotes.

    Whole words, in any case: test, tests, testcase(s), unittest(s), doctest(s), pytest. Not where `if` or `whether`
    follows: "test whether a number is prime" asks for no tests. The original looked for the letters, which "shortest"
    and "latest" hold, too.
    """
    return bool(_TESTS.search(_CODE.sub(" ", instruction)))


def sections_read(settings: DatasetSettings) -> tuple[str, ...]:
    """The sections that `response` may need."""
    more = ("tests",) if settings.tests_when_asked and "tests" not in settings.sections else ()
    return (*settings.sections, *more)


def instruction(text: str, test_code: str, response_id: str, settings: DatasetSettings) -> str:
    """The instruction, for some responses with one to five of the assertions that the code should pass.

    An instruction that speaks of tests or gives an example is left alone, and so are tests that are more than
    assertions.
    """
    if _share(response_id, "assertions") >= settings.assertions_shown:
        return text
    if re.search(r"\b(?:assert\w*|tests?|for example)\b", text, flags=re.IGNORECASE):
        return text
    shown = _assertions(test_code)
    if not shown:
        return text
    drawn = sorted(shown, key=lambda line: key_of("assertion", response_id, line))
    count = 1 + int(_share(response_id, "assertion count") * min(MOST_ASSERTIONS, len(shown)))
    chosen = [line for line in shown if line in drawn[:count]]
    # The words of the prompt of MBPP, on which models are scored.
    said = "Your code should pass the following assertion" + ("s:" if len(chosen) > 1 else ":")
    return f"{text.rstrip()}\n\n{said}\n{codeblocks.fence(chr(10).join(chosen))}"


def response(sections: Mapping[str, str], asked: str, response_id: str, settings: DatasetSettings) -> str:
    """The sections that are trained on, in the recipe's order.

    Args:
        sections: texts by name, at least those of `sections_read`.
        asked: the instruction that is answered.
        response_id: what is drawn from.
        settings: what to do.
    """
    kept = [
        name
        for name in settings.sections
        if name not in OPTIONAL or _share(response_id, name) >= settings.sections_dropped
    ]
    tests = sections_read(settings)[len(settings.sections) :] if asks_for_tests(asked) else ()
    texts = [sections[name] for name in (*(kept or settings.sections), *tests)]
    return "\n\n".join(texts if settings.comments else map(without_comments_in_blocks, texts))


def without_comments_in_blocks(markdown: str) -> str:
    """The text with comments taken out of its Python blocks."""
    found: list[str] = []
    for line in codeblocks.code_blocks(markdown):
        if line.language in codeblocks.PYTHON and line.code:
            found.append(line.code)
    for code in found:
        markdown = markdown.replace(code, without_comments(code), 1)
    return markdown


def without_comments(code: str) -> str:
    """The code without comments, and without the lines that held nothing else; unchanged where it is not Python."""
    lines = code.split("\n")
    emptied = set()
    try:
        parse_quietly(code)
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column].rstrip()
                if not lines[row - 1]:
                    emptied.add(row - 1)
    except (SyntaxError, tokenize.TokenError):
        return code
    return "\n".join(line for number, line in enumerate(lines) if number not in emptied)


def _assertions(test_code: str) -> list[str]:
    """The tests as lines, where they are assertions and nothing else."""
    try:
        body = parse_quietly(test_code).body
    except SyntaxError:
        return []
    if not all(isinstance(node, ast.Assert) for node in body):
        return []
    return list(dict.fromkeys(ast.get_source_segment(test_code, node) or "" for node in body))


def _share(response_id: str, purpose: str) -> float:
    """A number from 0 up to 1, drawn for one response and purpose."""
    return int(key_of("clean up", response_id, purpose), 16) / 2**128
