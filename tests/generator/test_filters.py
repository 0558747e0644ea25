from __future__ import annotations

import pytest

from generator.filters import FILTERS, UNIQUE, Candidate, Filter, rules
from generator.recipe import SelectionSettings

USUAL = rules(SelectionSettings())


def judge(asked: Candidate) -> tuple[Filter, str] | None:
    return USUAL.judge(asked)


def candidate(
    code: str = "def f():\n    return 1", verdict: str | None = "PASSED", error: str | None = None
) -> Candidate:
    return Candidate("r", "i", "Write f.", error, code, verdict, None)


def test_a_response_that_passed_is_kept() -> None:
    assert judge(candidate()) is None


@pytest.mark.parametrize("verdict", ["FAILED", "NO_TESTS", "INCOMPLETE", "EXITED", "REFUSED", "TIME_LIMIT"])
def test_every_other_verdict_is_the_reason(verdict: str) -> None:
    rejection = judge(candidate(verdict=verdict))

    assert rejection is not None
    assert (rejection[0].name, rejection[1]) == ("passed", f"verdict {verdict}")


def test_a_response_that_cannot_be_read_says_why_first() -> None:
    rejection = judge(Candidate("r", "i", "Write f.", "no part Tests", None, None, None))

    assert rejection is not None
    assert (rejection[0].name, rejection[1]) == ("read", "no part Tests")


@pytest.mark.parametrize(
    "body",
    [
        "pass",
        "...",
        "raise NotImplementedError",
        "raise NotImplementedError('later')",
        '"""Doc."""',
        '"""Doc."""\n    pass',
    ],
)
def test_a_function_without_a_body_is_rejected(body: str) -> None:
    rejection = judge(candidate(f"def f():\n    return 1\n\ndef g():\n    {body}"))

    assert rejection is not None
    assert rejection[0].name == "written"


@pytest.mark.parametrize(
    "code",
    [
        "class TodoList:\n    def add(self, todo):\n        self.todos.append(todo)",
        "from abc import abstractmethod\nclass A:\n    @abstractmethod\n    def f(self): ...",
        "def f(x):\n    # your code here is fine\n    return NotImplemented",
        "def f(x):\n    if x:\n        raise NotImplementedError\n    return 1",
    ],
)
def test_words_alone_reject_nothing(code: str) -> None:
    """The original looked for substrings and lost every to-do list and every abstract method."""
    assert judge(candidate(code)) is None


def test_code_that_only_a_newer_python_reads_is_kept() -> None:
    assert judge(candidate("def f(:")) is None


def test_names_are_unique_and_versions_say_them_in_order() -> None:
    names = [entry.name for entry in (*FILTERS, *UNIQUE)]

    assert len(set(names)) == len(names)
    assert [name for name, _ in USUAL.versions] == names
