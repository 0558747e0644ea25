from __future__ import annotations

import ast

import pytest

from generator.mutants import entry_names, mutants, stub


def codes(code: str, count: int = 99) -> set[str]:
    return {mutant.code for mutant in mutants(code, count)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a < b", "a <= b"),
        ("a >= b", "a > b"),
        ("a == b", "a != b"),
        ("a is  not b", "a is b"),
        ("a not in b", "a in b"),
        ("(a) in (b)", "(a) not in (b)"),
        ("a + b", "a - b"),
        ("a // b", "a * b"),
        ("a ** b", "a * b"),
        ("a and b", "a or b"),
        ("not a", "a"),
        ("f(3)", "f(4)"),
        ("f(0.5)", "f(1.5)"),
        ("f(True)", "f(False)"),
        ("f('x')", "f('')"),
        ("f('')", "f('mutant')"),
        ("a if b else c", None),
    ],
)
def test_each_operator_has_one_neighbour(before: str, after: str | None) -> None:
    wanted = set() if after is None else {f"x = {after}"}

    assert codes(f"x = {before}") == wanted


def test_what_a_function_returns_becomes_none() -> None:
    assert codes("def f(a):\n    return a\n") == {"def f(a):\n    return None\n"}


@pytest.mark.parametrize(
    "code",
    [
        'def f():\n    """1 < 2."""\n',
        "def f(a: 'x' = None) -> 'y': ...\n",
        "from a import b\n",
        "x = f'{a}'\n",
        "x: 'int'\n",
        "if __name__ == '__main__':\n    main()\n",
        "assert a\n",
        "def f(:",
    ],
)
def test_what_no_test_can_notice_is_left_alone(code: str) -> None:
    assert codes(code) == set()


def test_a_comment_between_operands_is_no_operator() -> None:
    assert codes("x = (a  # < b\n     < b)") == {"x = (a  # < b\n     <= b)"}


def test_columns_are_counted_in_bytes() -> None:
    assert "x = 'é' + a - b" in codes("x = 'é' + a + b")


def test_few_of_many_are_the_same_every_time_and_each_is_python() -> None:
    code = "def f(a, b):\n    return [a + b < 3, a - b > 4, a * b == 5, not a, 'x' in b]\n"

    few = mutants(code, 4)

    assert few == mutants(code, 4) == mutants(code, 99)[:4]
    assert len({mutant.code for mutant in few}) == 4
    for mutant in few:
        ast.parse(mutant.code)
        assert mutant.label.startswith("line 2: ")


def test_a_stub_keeps_docstrings_signatures_and_what_is_outside_functions() -> None:
    code = (
        "import math\n\nLIMIT = 3\n\ndef f(a, b=2):\n    '''Doc.'''\n    # why\n    return a\n\n"
        "class A(Base):\n    size = 1\n\n    def g(self): return 1\n\n    async def h(self):\n        @wrap\n"
        "        def inner(): return 2\n        return inner\n"
    )

    assert stub(code) == (
        "import math\n\nLIMIT = 3\n\ndef f(a, b=2):\n    '''Doc.'''\n    # why\n    return None\n\n"
        "class A(Base):\n    size = 1\n\n    def g(self): return None\n\n    async def h(self):\n        return None\n"
    )


@pytest.mark.parametrize("code", ["x = 1\n", "def f():\n    return None\n", "def f(:"])
def test_without_a_function_that_does_something_there_is_no_stub(code: str) -> None:
    assert stub(code) is None


def test_entry_names_are_those_of_the_top_level() -> None:
    assert entry_names("def f():\n    def g(): ...\nclass A:\n    def h(self): ...\nx = 1\n") == {"f", "A"}
