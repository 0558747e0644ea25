"""Text that others wrote, as people see it."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.visible import visible, visible_in


def test_escape_sequences_and_direction_marks_are_shown_not_obeyed() -> None:
    assert visible("\x1b[2Jx\x07\r") == "\u241b[2Jx\u2407\u240d"
    assert visible("admin\u202e # nimda") == "admin\u27e8U+202E\u27e9 # nimda"
    assert visible("a\u200bb\x9b31m") == "a\u27e8U+200B\u27e9b\u27e8U+009B\u27e931m"


def test_words_of_every_language_lines_and_tabs_stay() -> None:
    for text in ("def f():\n\treturn 1\n", "naïve 日本語 עברית العربية", "👩‍🔬 é"):
        assert visible(text) == text
    assert visible("one\r\ntwo\r\n") == "one\ntwo\n"


@given(st.text())
def test_nothing_is_left_that_steers_or_hides(text: str) -> None:
    """What remains of the categories Cc and Cf is tabs, line ends, joiners of emoji and marks of single scripts."""
    left = {c for c in visible(text) if unicodedata.category(c) == "Cc"}
    assert left <= {"\n", "\t"}
    assert not {c for c in visible(text) if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF")}
    assert not {c for c in visible(text) if unicodedata.bidirectional(c) in ("LRI", "RLI", "FSI", "PDI")}
    assert visible(visible(text)) == visible(text)


def test_texts_deep_in_a_document_are_made_visible_and_nothing_else_is_touched() -> None:
    assert visible_in({"a": ["\x1b", 1, None], "b": {"c": "\u2066"}}) == {
        "a": ["\u241b", 1, None],
        "b": {"c": "\u27e8U+2066\u27e9"},
    }
