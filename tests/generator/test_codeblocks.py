"""Fenced blocks are found as CommonMark finds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.codeblocks import CodeBlock, code_blocks, fence, python_blocks


def test_blocks_come_in_order_with_their_language() -> None:
    text = "Look:\n```python\na = 1\n```\nand\n~~~ JSON lines\n{}\n~~~\n"
    assert code_blocks(text) == (CodeBlock("python", "a = 1", True), CodeBlock("json", "{}", True))


@pytest.mark.parametrize("word", ["python", "Python", "py", "python3", "python title=x"])
def test_python_has_several_names(word: str) -> None:
    assert [block.code for block in python_blocks(f"```{word}\nx\n```")] == ["x"]


def test_a_block_without_language_is_no_python_block() -> None:
    assert python_blocks("```\nx\n```") == ()


def test_a_block_that_the_text_cuts_off_is_open() -> None:
    assert code_blocks("```python\nx = 1") == (CodeBlock("python", "x = 1", False),)
    assert code_blocks("```python") == (CodeBlock("python", "", False),)


def test_a_longer_fence_holds_shorter_ones() -> None:
    assert code_blocks("````md\n```python\nx\n```\n````")[0].code == "```python\nx\n```"


def test_a_fence_with_words_opens_and_never_closes() -> None:
    assert code_blocks("```python\nx\n```python\ny\n```")[0].code == "x\n```python\ny"


def test_inline_code_opens_nothing() -> None:
    assert code_blocks("```x``` is inline") == ()


def test_line_ends_of_other_systems_are_read() -> None:
    assert code_blocks("```python\r\na\r\nb\r\n```\r\n")[0].code == "a\nb"


@pytest.mark.parametrize("character", ["\x0c", "\x1c", "\u2028", "\x85"])
def test_characters_that_end_no_line_of_python_end_none_here(character: str) -> None:
    code = f"text = 'a{character}b'"
    assert code_blocks(f"```python\n{code}\n```")[0].code == code


@given(st.text(alphabet="`~ ab\n", max_size=60))
def test_what_is_fenced_is_found_unchanged(code: str) -> None:
    assert code_blocks(f"before\n{fence(code)}\nafter") == (CodeBlock("python", code, True),)
