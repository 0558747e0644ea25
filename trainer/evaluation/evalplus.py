"""EvalPlus's rules: which outputs count as right, written anew from its two releases that scores are published with.

The rules belong to a version of the data: scores on HumanEval+ v0.1.9 and MBPP+ v0.1.0 were counted by evalplus 0.2.1,
those on v0.1.10 and v0.2.0 by 0.3.1. Outputs arrive as plain values of exact types (see `calls`), so that comparing
them runs no code of the program's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.evaluation.calls import Opaque, Unreadable, decode_value

_RELATIVE = 1e-7  # numpy.testing.assert_allclose's own
_FLOATS_ABSOLUTE = 1e-6

Oracle = Callable[["Rules", Any, Any, Sequence[Any], float], bool | None]
"""(rules, output, expected, arguments, atol) -> right, wrong, or None: compare as usual."""


@dataclass(frozen=True, slots=True)
class Rules:
    """One release's way of comparing.

    Attributes:
        release: of evalplus.
        lenient: 0.2.1's comparison of numbers, which takes an empty list for a list of floats, a tuple for a list, and
            one number for a whole list of it; 0.3.1 asks for the same type and length first.
        oracles: of functions that have more than one right output, by name.
    """

    release: str
    lenient: bool
    oracles: dict[str, Oracle]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first output that is wrong: the number of its input, and both values, shortened."""

    index: int
    expected: str
    output: str


def kinds_of(expected: Sequence[bytes]) -> str:
    """A letter for each expected output: ``f`` floats or a sequence of floats, ``e`` an empty one, ``-`` all else."""
    return "".join(map(_kind, expected))


def _kind(line: bytes) -> str:
    value = decode_value(line)
    if isinstance(value, float):
        return "f"
    if not isinstance(value, list | tuple) or not all(isinstance(item, float) for item in value):
        return "-"
    return "f" if value else "e"


def floats_from(rules: Rules, kinds: str) -> int:
    """Number of the first input from which on a task without a tolerance has one.

    That is the first whose expected output is floats; it stays for all that follow, whatever they are, since evalplus
    overwrites the task's own tolerance. Equal to ``len(kinds)`` where there is none.
    """
    wanted = "fe" if rules.lenient else "f"
    return next((index for index, kind in enumerate(kinds) if kind in wanted), len(kinds))


def first_mismatch(
    rules: Rules,
    entry_point: str,
    atol: float,
    inputs: Sequence[Sequence[Any]],
    expected: Sequence[bytes],
    outputs: Sequence[bytes],
    floats_at: int,
) -> Mismatch | None:
    """Compare outputs with the expected ones, line by line.

    Args:
        rules: of a release.
        entry_point: name of the function; some have an oracle.
        atol: absolute tolerance of the task; 0 for none.
        inputs: arguments of each call.
        expected: lines of the reference's values.
        outputs: lines of the program's, as many.
        floats_at: see `floats_from`.
    """
    oracle = rules.oracles.get(entry_point)
    for index, (arguments, wanted, given) in enumerate(zip(inputs, expected, outputs, strict=True)):
        if oracle is None and wanted == given and b"NaN" not in wanted and not wanted.startswith(b'["x"'):
            continue  # the same text is the same value, mostly, and needs no decoding
        exp = decode_value(wanted)
        if oracle is None and len(given) > 4 * len(wanted) + 4096:
            return Mismatch(index, shorten(exp), f"<{len(given)} bytes>")
        try:
            out = decode_value(given)
        except Unreadable:
            return Mismatch(index, shorten(exp), "<unreadable>")
        tolerance = atol or (_FLOATS_ABSOLUTE if index >= floats_at else 0.0)
        right = oracle(rules, out, exp, arguments, tolerance) if oracle is not None else None
        if right is None:
            right = _equal(out, exp) or (tolerance != 0 and _close(out, exp, tolerance, rules.lenient))
        if not right:
            return Mismatch(index, shorten(exp), shorten(out))
    return None


def _equal(out: Any, exp: Any) -> bool:
    try:
        return bool(out == exp)
    except RecursionError:  # one of them holds itself
        return False


def _close(out: Any, exp: Any, atol: float, lenient: bool) -> bool:
    """Whether all numbers of two arrays are close: |out - exp| <= atol + 1e-7 |exp|."""
    if not lenient and (type(out) is not type(exp) or (isinstance(exp, list | tuple) and len(out) != len(exp))):
        return False
    try:
        out_shape, outs = _array(out)
        exp_shape, exps = _array(exp)
    except (TypeError, RecursionError):
        return False
    if out_shape != exp_shape:
        if out_shape and exp_shape:
            return False
        # numpy stretches a single number over the other side's shape.
        outs = outs * len(exps) if not out_shape else outs
        exps = exps * len(outs) if not exp_shape else exps
    return all(_close_numbers(a, b, atol, equal_nan=lenient) for a, b in zip(outs, exps, strict=True))


def _array(value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Shape and numbers of what numpy takes for an array of numbers.

    Raises:
        TypeError: it holds something else, or its rows differ in length.
    """
    if isinstance(value, int | float | complex):
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise TypeError("an int that numpy keeps as an object")
        return (), [value]
    if not isinstance(value, list | tuple):
        raise TypeError("not a number")
    parts = [_array(item) for item in value]
    if len({shape for shape, _ in parts}) > 1:
        raise TypeError("ragged")
    inner = parts[0][0] if parts else ()
    return (len(parts), *inner), [number for _, numbers in parts for number in numbers]


def _close_numbers(out: Any, exp: Any, atol: float, *, equal_nan: bool) -> bool:
    if out == exp:
        return True
    if out != out or exp != exp:  # NaN
        return equal_nan and out != out and exp != exp
    if any(isinstance(side, float) and math.isinf(side) for side in (out, exp)):
        return False
    return bool(abs(out - exp) <= atol + _RELATIVE * abs(exp))


def _find_zero(rules: Rules, out: Any, exp: Any, arguments: Sequence[Any], atol: float) -> bool | None:
    """HumanEval/32: any zero of the polynomial will do, but 0.2.1 compares with the reference's as well."""
    try:
        value = sum(coefficient * math.pow(out, power) for power, coefficient in enumerate(arguments[0]))
    except (TypeError, ValueError, OverflowError):
        return False
    if rules.lenient:
        return None if value <= atol else False
    return bool(abs(value) <= atol)


def _anything(rules: Rules, out: Any, exp: Any, arguments: Sequence[Any], atol: float) -> bool | None:
    """Mbpp/164: the task has no one right answer."""
    return True


def _or_zero(rules: Rules, out: Any, exp: Any, arguments: Sequence[Any], atol: float) -> bool | None:
    """Mbpp/295: 0 is right as well."""
    return True if _equal(out, 0) else None


def _not_none(rules: Rules, out: Any, exp: Any, arguments: Sequence[Any], atol: float) -> bool | None:
    """Mbpp tasks about a match: whether there is one, as a bool or as something that is not None."""
    found = exp is not None
    return _equal(out, found) if isinstance(out, bool) else found == (out is not None)


def _set_equal(rules: Rules, out: Any, exp: Any, arguments: Sequence[Any], atol: float) -> bool | None:
    """Tasks whose output's order is free."""
    try:
        return set(out) == set(exp)
    except TypeError:
        return False


def _surface_area(rules: Rules, out: Any, exp: Any, arguments: Sequence[Any], atol: float) -> bool | None:
    """Mbpp/581: the height may be taken for the pyramid's own instead of its sides'."""
    base, height = arguments
    slant = math.sqrt((base / 2) ** 2 + height**2)
    try:
        near = abs(out - round(base**2 + 2 * base * slant)) <= atol
    except TypeError:
        return False
    return True if near else None


def _digit_distance(rules: Rules, out: Any, exp: Any, arguments: Sequence[Any], atol: float) -> bool | None:
    """Mbpp/558: numbers may be padded to the same length and compared digit by digit."""
    texts = [str(number) for number in arguments]
    width = max(map(len, texts))
    pairs = zip(*(text.zfill(width) for text in texts), strict=True)
    return True if _equal(out, sum(abs(int(a) - int(b)) for a, b in pairs)) else None


_MATCHES = ("check_str", "text_match_three", "text_starta_endb")
_FREE_ORDER = (
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum", "intersection_array",
    "find_dissimilar", "Diff",
)  # fmt: skip
_OF_MBPP: dict[str, Oracle] = {
    "are_equivalent": _anything,
    "sum_div": _or_zero,
    **dict.fromkeys(_MATCHES, _not_none),
}
_OF_LATER_MBPP: dict[str, Oracle] = {
    **_OF_MBPP,
    **dict.fromkeys(_FREE_ORDER, _set_equal),
    "surface_Area": _surface_area,
    "digit_distance_nums": _digit_distance,
}

HUMANEVAL_0_2_1 = Rules("0.2.1", lenient=True, oracles={"find_zero": _find_zero})
HUMANEVAL_0_3_1 = Rules("0.3.1", lenient=False, oracles={"find_zero": _find_zero})
MBPP_0_2_1 = Rules("0.2.1", lenient=True, oracles=_OF_MBPP)
MBPP_0_3_1 = Rules("0.3.1", lenient=False, oracles=_OF_LATER_MBPP)


def shorten(value: Any) -> str:
    """repr(), bounded."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of more digits than are shown, or a value that holds itself
        text = f"<{type(value).__name__}>" if not isinstance(value, Opaque) else value.type_name
    return text if len(text) <= 300 else f"{text[:147]} ... {text[-147:]}"


# Inputs of MBPP+ are JSON, which has neither tuples nor sets; these tasks' are made into what their functions expect.

_ROWS_TO_TUPLES = frozenset({
    2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809,
})  # fmt: skip
_ITEMS_TO_TUPLES = frozenset({63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780})
_BOTH_TO_TUPLES = frozenset({259, 401, 445})
_FIRST_ITEMS_TO_TUPLES = frozenset({75, 413, 444, 753})
_SECOND_TO_TUPLE = frozenset({106, 750})
_FIRST_TO_TUPLE = frozenset({250, 307, 405, 446, 617, 720, 763, 808})
_ALL_TO_TUPLES = frozenset({580, 615, 791})


def mbpp_arguments(task: int, given: list[Any]) -> list[Any]:
    """The arguments of one call of MBPP+ task number `task`, from their JSON form."""
    if task in _ROWS_TO_TUPLES:
        return [tuple(item) for item in given]
    if task in _ITEMS_TO_TUPLES:
        return [[tuple(row) for row in argument] for argument in given]
    if task in _BOTH_TO_TUPLES:
        return [tuple(tuple(row) for row in argument) for argument in given]
    if task in _FIRST_ITEMS_TO_TUPLES:
        return [[tuple(row) for row in given[0]], given[1]]
    if task in _SECOND_TO_TUPLE:
        return [given[0], tuple(given[1])]
    if task in _FIRST_TO_TUPLE:
        return [tuple(given[0]), *given[1:]]
    if task in _ALL_TO_TUPLES:
        return [_tuples(argument) for argument in given]
    match task:
        case 115:
            return [[set(item) if isinstance(item, list) and item else {} for item in given[0]]]
        case 124:
            return [float(given[0]), complex(given[1])]
        case 252:
            return [complex(given[0])]
        case 278:
            return [tuple(tuple(item) if isinstance(item, list) else item for item in given[0])]
        case 722:
            return [{key: tuple(value) for key, value in given[0].items()}, *given[1:]]
    return given


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
