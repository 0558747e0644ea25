"""EvalPlus's rules, on outputs as the sandbox's side writes them."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox_server.guest.separate.values import Codec
from trainer.evaluation.evalplus import (
    HUMANEVAL_0_2_1,
    HUMANEVAL_0_3_1,
    MBPP_0_2_1,
    MBPP_0_3_1,
    Rules,
    first_mismatch,
    floats_from,
    kinds_of,
    mbpp_arguments,
)

OLD, NEW = HUMANEVAL_0_2_1, HUMANEVAL_0_3_1


def line(value: Any) -> bytes:
    codec = Codec(2)
    return codec.dumps(["=", codec.encode(value)])


def right(
    output: Any, expected: Any, *, rules: Rules = OLD, atol: float = 0, name: str = "f", arguments: Any = ()
) -> bool:
    wanted = [line(expected)]
    given = output if isinstance(output, bytes) else line(output)
    at = floats_from(rules, kinds_of(wanted)) if atol == 0 else 0
    return first_mismatch(rules, name, atol, [arguments], wanted, [given], at) is None


@pytest.mark.parametrize("value", [1, "a", None, True, 1.5, [1, [2]], (1,), {"a": 1}, {1, 2}, 1j, [], float("inf")])
def test_a_value_equals_itself(value: Any) -> None:
    assert right(value, value)
    assert right(value, value, rules=NEW)


@pytest.mark.parametrize(
    ("output", "expected"), [(1, True), (1.0, 1), ([1.0], [1]), ({2, 1}, {1, 2}), (frozenset({1}), {1})]
)
def test_equality_is_pythons(output: Any, expected: Any) -> None:
    assert right(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [((1,), [1]), ("1", 1), (None, 0), ([1, 2], [2, 1]), ([[1]], [1]), (None, float("nan"))],
)
def test_what_differs_is_wrong(output: Any, expected: Any) -> None:
    assert not right(output, expected)
    assert not right(output, expected, rules=NEW)


def test_floats_have_a_tolerance_that_nobody_asked_for() -> None:
    assert right(0.1 + 0.2, 0.3)
    assert right([0.1 + 0.2, 1.0], [0.3, 1.0])
    assert not right(0.3001, 0.3)
    assert right(0.3001, 0.3, atol=1e-3)
    assert not right([[0.1 + 0.2]], [[0.3]]), "a nested list of floats is none"


def test_the_tolerance_stays_for_the_inputs_that_follow() -> None:
    """In 0.2.1 an empty list counts as a list of floats, after which a tuple passes for a list; in 0.3.1 neither."""
    wanted = [line([]), line([1, 2])]
    given = [line([]), line((1, 2))]

    for rules, mistakes in ((OLD, 0), (NEW, 1)):
        at = floats_from(rules, kinds_of(wanted))
        found = first_mismatch(rules, "f", 0, [[], []], wanted, given, at)
        assert (found is not None) == bool(mistakes)
    assert found is not None
    assert (found.index, found.expected, found.output) == (1, "[1, 2]", "(1, 2)")


def test_the_old_comparison_of_numbers_is_numpys() -> None:
    """One number stands for a whole list of it, NaN equals NaN, and big ints are no numbers."""
    assert right([2.0, 2.0], 2.0)
    assert not right([2.0, 2.0], 2.0, rules=NEW)
    assert right(float("nan"), float("nan"))
    assert not right(float("nan"), float("nan"), rules=NEW)
    assert not right(2**70 + 1, 2**70, atol=1.0)
    assert not right([1.0, [2.0]], [1.0, 2.0])
    assert not right(float("-inf"), float("inf"))


def test_close_numbers_agree_with_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    sides = [
        0,
        1,
        True,
        -1.5,
        1e-9,
        1e9,
        1e9 + 1,
        2j,
        float("inf"),
        float("nan"),
        [1, 2],
        (1.0, 2.0),
        [[1.0]],
        [],
        [1, 2 + 1e-7],
    ]
    for out in sides:
        for exp in sides:
            try:
                numpy.testing.assert_allclose(out, exp, atol=1e-6)
                agrees = True
            except (AssertionError, TypeError, ValueError):
                agrees = False
            assert right(out, exp, atol=1e-6) == agrees, (out, exp)


def test_what_cannot_leave_its_interpreter_is_unequal_even_to_its_like() -> None:
    wanted = [b'["x","generator"]']

    assert first_mismatch(OLD, "f", 0, [[]], wanted, wanted, 1) is not None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[",
        b'["="]',
        b'["=",["t"]]',
        b'["=",["y","list",2,[]]]',
        b'["=",["@",7]]',
        b'["?",1]',
        b"\xff" * 9,
        b"[" * 5000,
    ],
)
def test_nonsense_is_wrong_and_no_error(text: bytes) -> None:
    assert not right(text, [1])


def test_a_value_that_holds_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)

    assert not right(loop, [[[]]])
    assert not right(line(loop) + b" ", loop)


def test_a_line_far_longer_than_the_expected_is_not_even_read() -> None:
    wanted = [line([1])]

    found = first_mismatch(OLD, "f", 0, [[]], wanted, [line(list(range(10_000)))], 1)

    assert found is not None
    assert "bytes" in found.output


def test_a_long_value_is_compared_by_its_hash() -> None:
    wanted = [b'["#","aa",9]']

    assert first_mismatch(OLD, "f", 0, [[]], wanted, wanted, 1) is None
    assert first_mismatch(OLD, "f", 0, [[]], wanted, [b'["#","ab",9]'], 1) is not None


def test_any_zero_of_the_polynomial_will_do() -> None:
    """HumanEval/32. 0.2.1 wants the reference's own zero too, and takes any x where the value is negative for one."""
    coefficients = [[-6.0, 11.0, -6.0, 1.0]]

    assert right(2.0, 1.0, rules=NEW, name="find_zero", atol=1e-4, arguments=coefficients)
    assert not right(2.5, 1.0, rules=NEW, name="find_zero", atol=1e-4, arguments=coefficients)
    assert not right(2.0, 1.0, rules=OLD, name="find_zero", atol=1e-4, arguments=coefficients)
    assert right(1.0 + 1e-6, 1.0, rules=OLD, name="find_zero", atol=1e-4, arguments=coefficients)
    assert not right(None, 1.0, rules=NEW, name="find_zero", atol=1e-4, arguments=coefficients)


def test_mbpp_tasks_with_more_than_one_right_answer() -> None:
    assert right(False, True, rules=MBPP_0_2_1, name="are_equivalent")
    assert right(0, 7, rules=MBPP_0_2_1, name="sum_div")
    assert not right(1, 7, rules=MBPP_0_2_1, name="sum_div")
    assert right("a match", True, rules=MBPP_0_2_1, name="check_str")
    assert right(b'["x","Match"]', "Matched!", rules=MBPP_0_2_1, name="text_match_three")
    assert not right(False, "Matched!", rules=MBPP_0_2_1, name="text_match_three")
    assert right(None, None, rules=MBPP_0_2_1, name="text_starta_endb")
    assert not right([2, 1], [1, 2], rules=MBPP_0_2_1, name="Diff")
    assert right([2, 1], [1, 2], rules=MBPP_0_3_1, name="Diff")
    assert not right([[2], 1], [1, 2], rules=MBPP_0_3_1, name="Diff")
    assert right(5, 6, rules=MBPP_0_3_1, name="digit_distance_nums", arguments=[1, 105])
    assert right(35, 0, rules=MBPP_0_3_1, name="surface_Area", arguments=[3, 4], atol=1.0)


@pytest.mark.parametrize(
    ("task", "given", "made"),
    [
        (2, [[1, 2], [3]], [(1, 2), (3,)]),
        (63, [[[1, 2]]], [[(1, 2)]]),
        (259, [[[1]], [[2]]], [((1,),), ((2,),)]),
        (75, [[[1]], 2], [[(1,)], 2]),
        (106, [[1], [2]], [[1], (2,)]),
        (307, [[1], 2, 3], [(1,), 2, 3]),
        (580, [[1, [2]]], [(1, (2,))]),
        (115, [[[1, 1], [], 5]], [[{1}, {}, {}]]),
        (124, ["1.5", "2j"], [1.5, 2j]),
        (252, ["1+2j"], [1 + 2j]),
        (278, [[1, [2]]], [(1, (2,))]),
        (722, [{"a": [1]}, 2], [{"a": (1,)}, 2]),
        (6, [1, [2]], [1, [2]]),
    ],
)
def test_arguments_become_what_the_functions_expect(task: int, given: list[Any], made: list[Any]) -> None:
    assert mbpp_arguments(task, given) == made
    assert [type(item) for item in mbpp_arguments(task, given)] == [type(item) for item in made]
