"""What crosses between program and judge comes out as it went in, and nothing else comes out at all."""

from __future__ import annotations

import collections
import contextlib
import datetime as dt
import decimal
import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_server.guest.separate.values import MAX_DEPTH, CannotCross, Codec, Malformed


def cross(value: Any) -> Any:
    """Send a value to the other side."""
    here, there = Codec(2), Codec(1)
    return there.decode(there.loads(here.dumps(["=", here.encode(value)]))[1])


def same(left: Any, right: Any) -> bool:
    """Equal in value, in type, and in everything below; NaN equals NaN."""
    if type(left) is not type(right):
        return False
    match left:
        case float():
            return (math.isnan(left) and math.isnan(right)) or (
                left == right and math.copysign(1, left) == math.copysign(1, right)
            )
        case complex():
            return same(left.real, right.real) and same(left.imag, right.imag)
        case list() | tuple() | collections.deque():
            return len(left) == len(right) and all(map(same, left, right))
        case dict():
            return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
        case set() | frozenset():
            return {(type(item), item) for item in left} == {(type(item), item) for item in right}
        case decimal.Decimal():
            return left.as_tuple() == right.as_tuple()
        case dt.datetime() | dt.time():
            return bool(left == right and left.fold == right.fold and left.tzinfo == right.tzinfo)
        case _:
            return bool(left == right)


texts = st.text(st.characters(codec=None))  # lone surrogates among them
zones = st.none() | st.builds(
    dt.timezone, st.timedeltas(min_value=dt.timedelta(hours=-23), max_value=dt.timedelta(hours=23))
)
hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | texts
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.dates()
    | st.times(timezones=zones)
    | st.datetimes(timezones=zones)
    | st.timedeltas()
    | st.builds(range, st.integers(), st.integers(), st.integers().filter(bool))
    | st.sampled_from([..., NotImplemented, int, list, type(None), decimal.Decimal, dt.datetime]),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=10,
)
values = st.recursive(
    hashable
    | st.floats()
    | st.complex_numbers()
    | st.decimals()
    | st.builds(slice, st.integers(), st.none() | st.integers(), st.none()),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(hashable, inner, max_size=5)
        | st.sets(hashable, max_size=5)
        | st.binary().map(bytearray)
        | st.lists(inner, max_size=4).map(lambda items: collections.deque(items, maxlen=9))
        | st.dictionaries(hashable, st.integers(), max_size=4).map(collections.Counter)
        | st.dictionaries(hashable, inner, max_size=4).map(collections.OrderedDict)
        | st.dictionaries(hashable, inner, max_size=4).map(lambda items: collections.defaultdict(list, items))
        | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(values)
def test_every_value_comes_out_as_it_went_in(value: Any) -> None:
    assert same(cross(value), value)


@pytest.mark.parametrize(
    "number", [10**4300, -(10**9000), 2**8192, 2**8191], ids=["power", "negative", "long", "longest"]
)
def test_integers_may_have_any_length(number: int) -> None:
    """Alone, among others, and as a key: Python's own limit on digits is the program's business."""
    assert cross([number, [1, number], {number: number}, (number,)]) == [
        number,
        [1, number],
        {number: number},
        (number,),
    ]


@pytest.mark.parametrize("value", ["\ud83d", "\ud83d" + "\ude00", "\ude00\ud83d", "\0", "\N{GRINNING FACE}"])
def test_surrogates_stay_what_they_are(value: str) -> None:
    """JSON's escapes would join two halves into one character."""
    assert [ord(letter) for letter in cross(value)] == [ord(letter) for letter in value]


def test_views_keep_their_kind() -> None:
    source = {"a": 1, "b": [2]}

    keys, items, counts = cross([source.keys(), source.items(), source.values()])

    assert keys == source.keys()
    assert items == source.items()
    assert list(counts) == [1, [2]]
    assert type(counts) is type(source.values())


def test_a_defaultdict_keeps_its_factory_and_a_deque_its_bound() -> None:
    counts, last = cross((collections.defaultdict(int, a=1), collections.deque([1, 2], maxlen=2)))

    assert (counts["b"], last.maxlen) == (0, 2)


def test_cycles_and_shared_parts_stay_so() -> None:
    inner: list[Any] = [1]
    outer = [inner, inner]
    inner.append(outer)

    copy = cross(outer)

    assert copy[0] is copy[1]
    assert copy[0][1] is copy


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    value: Any = []
    for _ in range(MAX_DEPTH + 1):
        value = [value]

    with pytest.raises(CannotCross, match=f"more than {MAX_DEPTH} deep"):
        cross(value)


@pytest.mark.parametrize("value", [object(), print, lambda: None, ValueError("x"), iter([]), type("Own", (), {})])
def test_what_is_no_value_is_refused(value: Any) -> None:
    with pytest.raises(CannotCross, match="a value of type"):
        Codec(2).encode(value)


@pytest.mark.parametrize("base", [int, str, float, list, dict, tuple, set])
def test_a_subclass_never_passes_for_its_base(base: type) -> None:
    with pytest.raises(CannotCross):
        Codec(2).encode(type("Own", (base,), {"__eq__": lambda self, other: True})())


class Both:
    """Two sides, and messages between them."""

    def __init__(self) -> None:
        self.judge, self.program = Codec(2), Codec(1)

    def send(self, source: Codec, target: Codec, value: Any) -> Any:
        news, node = source.changes(), source.encode(value)
        _, news, node = target.loads(source.dumps(["=", news, node]))
        target.apply(news)
        return target.decode(node)


def test_mutations_travel_both_ways_with_the_next_message() -> None:
    both = Both()
    mine = {"a": [3, 1, 2]}
    theirs = both.send(both.judge, both.program, mine)

    theirs["a"].sort()
    theirs["b"] = {1}
    back = both.send(both.program, both.judge, theirs["a"])
    mine["b"].add(2)
    both.send(both.judge, both.program, None)

    assert mine == {"a": [1, 2, 3], "b": {1, 2}}
    assert back is mine["a"]
    assert theirs == mine


def test_a_change_that_equality_would_not_see_travels_too() -> None:
    both = Both()
    mine: list[Any] = [1, 0.0]
    theirs = both.send(both.judge, both.program, mine)

    theirs[:] = [True, -0.0]
    both.send(both.program, both.judge, None)

    assert same(mine, [True, -0.0])


def test_what_nobody_holds_is_forgotten_parents_first() -> None:
    both = Both()
    both.send(both.judge, both.program, [[1], [[2], {}]])

    gone = both.judge.sweep()

    assert len(gone) == 5
    assert both.judge.sweep() == []


nodes = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(
            lambda tag, rest: [tag, *rest],
            st.sampled_from(
                ["i", "c", "b", "t", "f", "r", "s", "D", "F", "dt", "td", "tz", "k", "v", "y", "@", "o", "X"]
            ),
            st.lists(inner | st.sampled_from(["list", "dict", "deque", "defaultdict", "date", "keys"]), max_size=5),
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(nodes, nodes)
def test_nonsense_is_malformed_and_nothing_else(node: Any, changes: Any) -> None:
    """The other side may send anything: the only exception that leaves the codec is its own."""
    codec = Codec(2)
    codec.encode([1])
    for attempt in (lambda: codec.decode(node), lambda: codec.apply(changes)):
        with contextlib.suppress(Malformed):
            attempt()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | nodes.map(lambda node: json.dumps(node).encode()))
def test_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        message = Codec(2).loads(data)
    except Malformed:
        return
    assert type(message[0]) is str


@pytest.mark.parametrize("limit", [0, 640, 4300, 10**9])
def test_integers_cross_under_any_limit_on_digits_and_none_are_parsed_at_length(limit: int) -> None:
    """Tests and program may both set the interpreter's limit; decimal digits without end cost quadratic time."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(limit)
    try:
        for number in (2**2047, 2**2048, -(2**2048), 2**2049 + 1, 7**9000):
            assert cross([number, (number, None)]) == [number, (number, None)]
        with pytest.raises(Malformed):
            Codec(2).loads(b'["=",null,' + b"9" * 5000 + b"]")
        assert sys.get_int_max_str_digits() == limit
    finally:
        sys.set_int_max_str_digits(before)


@pytest.mark.parametrize(
    "data", [b'["="] ["="]', b'["="]]', b'["=",', b"null", b"{}", b"[]", b"[1]", b'["=" 1]', b"tru"]
)
def test_one_message_is_one_list_and_nothing_follows(data: bytes) -> None:
    with pytest.raises(Malformed):
        Codec(2).loads(data)


@pytest.mark.parametrize(
    "node",
    [
        ["y", "deque", 1, [10**30], []],
        ["y", "list", 1, [], [1], [2]],
        ["y", "dict", 1, [], ["a"], []],
        ["y", "dict", 1, [], [["y", "list", 3, [], []]], [1]],
        ["y", "bytearray", 1, [], [256]],
        ["y", "list", 2, [], []],
        ["y", "list", 1, [], {"a": 1}],
        ["D", "1" * 10 + "x"],
        ["td", 10**30, 0, 0],
        ["r", 1, 2, 0],
    ],
)
def test_parts_that_do_not_fit_are_malformed(node: Any) -> None:
    with pytest.raises(Malformed):
        Codec(2).decode(node)


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=4), st.data())
def test_lists_that_change_on_either_side_stay_the_same_on_both(items: list[Any], data: st.DataObject) -> None:
    both = Both()
    theirs = both.send(both.judge, both.program, items)
    for mine, other, source, target in ((theirs, items, both.program, both.judge),) * 2 + (
        (items, theirs, both.judge, both.program),
    ):
        mine[data.draw(st.integers(0, len(mine))) :] = data.draw(st.lists(values, max_size=3))
        both.send(source, target, None)
        assert same(mine, other)


@pytest.mark.parametrize("data", [b"[" * 200_000, b'["=", ' + b"9" * 100_000 + b"]", b"\xff\xfe", b""])
def test_bytes_that_were_made_to_hurt_do_not(data: bytes) -> None:
    try:
        message = Codec(2).loads(data)
    except Malformed:
        return
    assert message[0] == "="
