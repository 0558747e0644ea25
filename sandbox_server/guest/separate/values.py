"""Values on their way between judge and program: JSON text, in which everything but plain scalars is a tagged list.

JSON's own null, booleans, numbers and strings stand for exactly these types. The other forms, by their tag:

    i hex                      int too long for decimal       y type, header, parts...   mutable, see below
    c real, imaginary          complex                        @ handle                   one that was sent before
    b text                     bytes, as Latin-1              D text   F num, den        Decimal, Fraction
    t items   f items          tuple, frozenset               dt kind, fields...         date, time, datetime, timedelta
    r start, stop, step        range                          tz seconds, name           timezone
    s start, stop, step        slice                          k name                     a type or constant by name
    v kind, items              view of a dict's keys, values or items

A mutable value (list, dict, set, bytearray, deque, Counter, defaultdict, OrderedDict, an instance of a dataclass twin)
is sent once with a handle and from then on exists on both sides. Whoever sends the next message compares those it holds
with what they last held, and sends the changed ones along: so arguments that are mutated in place come back, aliases
stay aliases, and `is` means what it meant.
"""

from __future__ import annotations

import collections
import json
import operator
import sys
from collections.abc import Callable, Iterable
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from json.scanner import c_make_scanner  # type: ignore[attr-defined]
from typing import Any

MAX_DEPTH = 150  # below what the recursion limits of json's C code and of a default interpreter allow
MAX_MESSAGE_BYTES = 64 << 20

_SCALARS = frozenset({int, float, str, bool, type(None)})
_INTS = frozenset({int, bool})
# Longer ones go as hexadecimal digits, which cost no quadratic patience. In decimal these have 617 digits, fewer than
# the least limit that an interpreter can be given, so that limit need not be touched for them.
_LONG_INT_BITS = 2048
_MOST_DIGITS = 4300  # the interpreter's own default: what is decoded must not be parsed in quadratic time
_identical, _bit_length = operator.is_, int.bit_length
# The parts of json's encoder and decoder that are C, made once: the others cost as much again, for each message.
_to_json = c_make_encoder(None, None, encode_basestring, None, ":", ",", False, False, True)
_from_json = c_make_scanner(json.JSONDecoder())


class CannotCross(Exception):
    """This value, or this use of one, has no faithful form on the other side; the message says which."""


class Malformed(Exception):
    """The other side sent what this one would never send."""


class Shape:
    """How a mutable type is taken apart and put together.

    Attributes:
        name: in messages.
        header: what an instance is made from and never changes; a list of values.
        parts: its content, as lists of values.
        make: an empty instance, from the header.
        fill: replace the content of an instance.
        same: does an instance still hold these parts? By identity: what it held is kept alive by them.
        exact: what an instance holds after `fill` are the very items that it was filled with, in their order.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[list[Any]], Any],
        parts: Callable[[Any], tuple[list[Any], ...]],
        fill: Callable[..., None],
        header: Callable[[Any], list[Any]] | None = None,
        same: Callable[[Any, tuple[list[Any], ...]], bool] | None = None,
        exact: bool = False,
    ) -> None:
        self.name, self.make, self.parts, self.fill, self.header = name, make, parts, fill, header
        self.same = same or self._same_parts
        self.exact = exact

    def _same_parts(self, value: Any, held: tuple[list[Any], ...]) -> bool:
        return all(
            len(now) == len(before) and all(map(_identical, now, before))
            for now, before in zip(self.parts(value), held, strict=True)
        )


def _fill_list(value: list[Any], items: list[Any]) -> None:
    value[:] = items


def _fill_dict(value: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    value.clear()
    for key, item in zip(keys, values, strict=True):
        dict.__setitem__(value, key, item)


def _fill_set(value: set[Any], items: list[Any]) -> None:
    value.clear()
    value.update(items)


def _fill_bytearray(value: bytearray, items: list[int]) -> None:
    value[:] = bytes(items)


def _fill_deque(value: collections.deque[Any], items: list[Any]) -> None:
    value.clear()
    value.extend(items)


def _dict_parts(value: dict[Any, Any]) -> tuple[list[Any], ...]:
    return list(value), list(value.values())


def _same_items(value: Any, held: tuple[list[Any], ...]) -> bool:
    items = held[0]
    return len(value) == len(items) and all(map(_identical, value, items))


def _same_dict(value: dict[Any, Any], held: tuple[list[Any], ...]) -> bool:
    keys, values = held
    return (
        len(value) == len(keys) and all(map(_identical, value, keys)) and all(map(_identical, value.values(), values))
    )


SHAPES: dict[type, Shape] = {
    list: Shape("list", lambda header: [], lambda value: (list(value),), _fill_list, same=_same_items, exact=True),
    dict: Shape("dict", lambda header: {}, _dict_parts, _fill_dict, same=_same_dict),
    set: Shape("set", lambda header: set(), lambda value: (list(value),), _fill_set, same=_same_items),
    bytearray: Shape("bytearray", lambda header: bytearray(), lambda value: (list(value),), _fill_bytearray),
    collections.deque: Shape(
        "deque",
        lambda header: collections.deque(maxlen=header[0]),
        lambda value: (list(value),),
        _fill_deque,
        lambda value: [value.maxlen],
    ),
    collections.Counter: Shape("Counter", lambda header: collections.Counter(), _dict_parts, _fill_dict),
    collections.OrderedDict: Shape(
        "OrderedDict", lambda header: collections.OrderedDict(), _dict_parts, lambda v, k, i: _fill_ordered(v, k, i)
    ),
    collections.defaultdict: Shape(
        "defaultdict",
        lambda header: collections.defaultdict(header[0]),
        _dict_parts,
        _fill_dict,
        lambda value: [value.default_factory],
    ),
}


def _fill_ordered(value: collections.OrderedDict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    value.clear()
    value.update(zip(keys, values, strict=True))


SHAPES_BY_NAME = {shape.name: shape for shape in SHAPES.values()}

_TYPES = (
    int, float, str, bool, complex, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice, object, type,
    type(None), memoryview, collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque,
)  # fmt: skip
_NAMED: dict[str, Any] = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in _TYPES}
_NAMED |= {"...": Ellipsis, "NotImplemented": NotImplemented, "None": None}
_NAMES: dict[int, str] = {id(value): name for name, value in _NAMED.items()}
# Types of modules that are imported only where they are used, since importing them costs more than a judgement.
_OF_MODULES = {
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "datetime": ("date", "time", "datetime", "timedelta", "timezone"),
}

_VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


class Mirror:
    """A mutable value that exists on both sides, and what it held when they last agreed."""

    __slots__ = ("handle", "held", "shape", "value")

    def __init__(self, handle: int, value: Any, shape: Shape) -> None:
        self.handle, self.value, self.shape = handle, value, shape
        self.held: tuple[list[Any], ...] = ()


_alone = Mirror(0, object(), SHAPES[list])
_REFERENCES_OF_ONE_ALONE = sys.getrefcount(_alone.value)


class Codec:
    """Encodes and decodes the values of one connection.

    Args:
        first_handle: 1 on one side and 2 on the other, so that handles given by both never meet.
    """

    def __init__(self, first_handle: int) -> None:
        self._next_handle = first_handle
        self._mirrors: dict[int, Mirror] = {}
        self._handles: dict[int, int] = {}  # by id() of a value that `_mirrors` keeps alive
        self.shapes, self.shapes_by_name = SHAPES, SHAPES_BY_NAME  # shared: to be replaced, not changed

    # What values do not cover is the business of the sides, which derive from this class.

    def encode_other(self, value: Any, depth: int) -> list[Any]:
        """Encode a value of no type of this module."""
        raise CannotCross(f"a value of type {type(value).__name__}")

    def decode_other(self, tag: str, node: list[Any]) -> Any:
        """Decode a node with a tag that this module does not know."""
        raise Malformed(f"unknown tag {tag[:20]!r}")

    def new_handle(self) -> int:
        """A number that no other object of the connection has."""
        handle = self._next_handle
        self._next_handle += 2
        return handle

    # Text

    def dumps(self, message: list[Any]) -> bytes:
        """The bytes of a message whose values are encoded."""
        data = "".join(_to_json(message, 0)).encode("utf-8", "surrogatepass")
        if len(data) > MAX_MESSAGE_BYTES:
            raise CannotCross(f"values of more than {MAX_MESSAGE_BYTES >> 20} MiB in one call")
        return data

    def loads(self, data: bytes) -> list[Any]:
        """The message of some bytes; its values are still encoded."""
        limit = sys.get_int_max_str_digits()
        if limit > _MOST_DIGITS or limit == 0:
            sys.set_int_max_str_digits(_MOST_DIGITS)
        try:
            received = data.decode("utf-8", "surrogatepass")
            message, end = _from_json(received, 0)
        except StopIteration:
            raise Malformed("not a message: no value") from None
        except (ValueError, RecursionError) as error:
            raise Malformed(f"not a message: {error}") from None
        finally:
            if limit > _MOST_DIGITS or limit == 0:
                sys.set_int_max_str_digits(limit)
        if end != len(received) or type(message) is not list or not message or type(message[0]) is not str:
            raise Malformed("not a message")
        return message

    # Encoding

    def encode(self, value: Any, depth: int = 0) -> Any:
        """The node of a value."""
        kind = type(value)
        if kind in _SCALARS:
            if kind is int and value.bit_length() > _LONG_INT_BITS:
                return ["i", hex(value)]
            return value
        if depth > MAX_DEPTH:
            raise CannotCross(f"a value that is nested more than {MAX_DEPTH} deep")
        if kind in self.shapes:
            return self._encode_mutable(value, self.shapes[kind], depth)
        encoder = _ENCODERS.get(kind) or _ENCODERS_BY_NAME.get(_name_of_module_type(kind))
        if encoder is not None:
            return encoder(self, value, depth + 1)
        if id(value) in _NAMES:
            return ["k", _NAMES[id(value)]]
        if kind is type and (name := _name_of_module_type(value)):
            return ["k", name]
        return self.encode_other(value, depth + 1)

    def items(self, values: Iterable[Any], depth: int) -> list[Any]:
        """The nodes of several values."""
        values = list(values)
        kinds = set(map(type, values))
        if kinds <= _SCALARS:
            numbers = values if kinds <= _INTS else [value for value in values if type(value) is int]
            if int not in kinds or max(map(_bit_length, numbers)) <= _LONG_INT_BITS:
                return values
        return [self.encode(value, depth) for value in values]

    def _encode_mutable(self, value: Any, shape: Shape, depth: int) -> list[Any]:
        handle = self._handles.get(id(value))
        if handle is not None:
            return ["@", handle]
        mirror = self._register(self.new_handle(), value, shape)
        mirror.held = held = shape.parts(value)
        header = [] if shape.header is None else [self.encode(item, depth + 1) for item in shape.header(value)]
        return ["y", shape.name, mirror.handle, header, *[self.items(part, depth + 1) for part in held]]

    def _register(self, handle: int, value: Any, shape: Shape) -> Mirror:
        mirror = self._mirrors[handle] = Mirror(handle, value, shape)
        self._handles[id(value)] = handle
        return mirror

    # Decoding

    def decode(self, node: Any, depth: int = 0) -> Any:
        """The value of a node.

        Raises:
            Malformed: no `encode` made it.
        """
        kind = type(node)
        if kind is not list:
            if kind in _SCALARS:
                return node
            raise Malformed("not a value")
        if not node or type(node[0]) is not str or depth > 2 * MAX_DEPTH:
            raise Malformed("not a value")
        tag = node[0]
        if tag == "y":
            return self._decode_mutable(node, depth + 1)
        if tag == "@":
            return self._mirror(node[1] if len(node) == 2 else None).value
        decoder = _DECODERS.get(tag)
        if decoder is None:
            return self.decode_other(tag, node)
        try:
            return decoder(self, node, depth + 1)
        except Malformed:
            raise
        except Exception as error:  # whatever the types make of what they are given
            raise Malformed(f"not a value of tag {tag!r}: {error}") from None

    def values(self, nodes: Any, depth: int) -> list[Any]:
        """The values of several nodes."""
        if type(nodes) is not list:
            raise Malformed("not a list of values")
        if set(map(type, nodes)) <= _SCALARS:
            return nodes
        return [self.decode(node, depth) for node in nodes]

    def _decode_mutable(self, node: list[Any], depth: int) -> Any:
        if len(node) < 5 or type(node[1]) is not str or type(node[2]) is not int or node[2] in self._mirrors:
            raise Malformed("not a mutable value")
        if (node[2] - self._next_handle) % 2 == 0:
            raise Malformed("a handle of this side's")
        _, name, handle, header, *parts = node
        shape = self.shapes_by_name.get(name)
        if shape is None:
            raise Malformed(f"unknown type {name[:50]!r}")
        try:
            mirror = self._register(handle, shape.make(self.values(header, depth)), shape)
            self._fill(mirror, parts, depth)
        except Malformed:
            raise
        except Exception as error:
            raise Malformed(f"not a {name}: {error}") from None
        return mirror.value

    def _fill(self, mirror: Mirror, parts: list[Any], depth: int) -> None:
        shape, value = mirror.shape, mirror.value
        held = tuple([self.values(part, depth) for part in parts])
        shape.fill(value, *held)
        mirror.held = held if shape.exact else shape.parts(value)

    def _mirror(self, handle: Any) -> Mirror:
        mirror = self._mirrors.get(handle) if type(handle) is int else None
        if mirror is None:
            raise Malformed("no such handle")
        return mirror

    # Keeping both sides in step

    def changes(self) -> list[Any]:
        """What changed here since the last message, for the other side to `apply`."""
        changed = [
            mirror for mirror in list(self._mirrors.values()) if not mirror.shape.same(mirror.value, mirror.held)
        ]
        for mirror in changed:
            mirror.held = mirror.shape.parts(mirror.value)
        return [[mirror.handle, *[self.items(part, 1) for part in mirror.held]] for mirror in changed]

    def apply(self, changes: Any) -> None:
        """Make the changes that the other side made."""
        if type(changes) is not list:
            raise Malformed("not a list of changes")
        for change in changes:
            if type(change) is not list or len(change) < 2:
                raise Malformed("not a change")
            try:
                self._fill(self._mirror(change[0]), change[1:], 1)
            except Malformed:
                raise
            except Exception as error:
                raise Malformed(f"not a change: {error}") from None

    def sweep(self) -> list[int]:
        """Forget the mutable values that nobody here but this codec holds.

        Returns:
            Their handles, for the other side to `forget`. A value that holds others stands before them, since it was
            registered before, so one pass frees a whole tree.
        """
        gone = []
        for mirror in list(self._mirrors.values()):
            if sys.getrefcount(mirror.value) <= _REFERENCES_OF_ONE_ALONE:
                gone.append(mirror.handle)
                self.forget(mirror.handle)
                mirror.held, mirror.value = (), None  # so that what it held is alone too
        return gone

    def forget(self, handle: int) -> None:
        """Keep a mutable value no longer."""
        mirror = self._mirrors.pop(handle, None)
        if mirror is not None:
            del self._handles[id(mirror.value)]


def _name_of_module_type(kind: type) -> str:
    """The dotted name of one of `_OF_MODULES`, or nothing."""
    module, name = kind.__module__, kind.__name__
    if module in _OF_MODULES and name in _OF_MODULES[module] and getattr(sys.modules.get(module), name, None) is kind:
        return f"{module}.{name}"
    return ""


def _type(name: str) -> Any:
    """The type or constant with this name."""
    module, _, attribute = name.rpartition(".")
    if module in _OF_MODULES and attribute in _OF_MODULES[module]:
        __import__(module)
        return getattr(sys.modules[module], attribute)
    return _NAMED[name]


_TIME = ("hour", "minute", "second", "microsecond")
_DATE = ("year", "month", "day")
_DATETIME_FIELDS = {"date": _DATE, "time": _TIME, "datetime": _DATE + _TIME}


def _encode_datetime(codec: Codec, value: Any, depth: int) -> list[Any]:
    name = type(value).__name__
    fields = [getattr(value, field) for field in _DATETIME_FIELDS[name]]
    zone = None if name == "date" else codec.encode(value.tzinfo, depth)
    return ["dt", name, fields, zone, getattr(value, "fold", 0)]


def _decode_datetime(codec: Codec, node: list[Any], depth: int) -> Any:
    kind = _type(f"datetime.{node[1]}")
    fields = [int(field) for field in node[2]]
    if len(fields) != len(_DATETIME_FIELDS[node[1]]):
        raise ValueError("wrong number of fields")
    if node[1] == "date":
        return kind(*fields)
    return kind(*fields, tzinfo=codec.decode(node[3], depth), fold=node[4])


def _encode_zone(codec: Codec, value: Any, depth: int) -> list[Any]:
    offset, name = value.utcoffset(None), value.tzname(None)
    return ["tz", codec.encode(offset, depth), None if name == type(value)(offset).tzname(None) else name]


def _decode_zone(codec: Codec, node: list[Any], depth: int) -> Any:
    offset = codec.decode(node[1], depth)
    return _type("datetime.timezone")(*([offset] if node[2] is None else [offset, node[2]]))


def text(value: Any) -> str:
    """A string that came where only one may.

    Raises:
        Malformed: it is none.
    """
    if type(value) is not str:
        raise Malformed("not text")
    return value


_ENCODERS: dict[type, Callable[[Codec, Any, int], list[Any]]] = {
    complex: lambda codec, value, depth: ["c", value.real, value.imag],
    bytes: lambda codec, value, depth: ["b", value.decode("latin-1")],
    tuple: lambda codec, value, depth: ["t", codec.items(value, depth)],
    frozenset: lambda codec, value, depth: ["f", codec.items(value, depth)],
    range: lambda codec, value, depth: ["r", *codec.items((value.start, value.stop, value.step), depth)],
    slice: lambda codec, value, depth: ["s", *codec.items((value.start, value.stop, value.step), depth)],
    **{
        kind: lambda codec, value, depth, name=name: ["v", name, codec.items(value, depth)]  # type: ignore[misc]
        for kind, name in _VIEWS.items()
    },
}
_ENCODERS_BY_NAME: dict[str, Callable[[Codec, Any, int], list[Any]]] = {
    "decimal.Decimal": lambda codec, value, depth: ["D", str(value)],
    "fractions.Fraction": lambda codec, value, depth: ["F", *codec.items((value.numerator, value.denominator), depth)],
    "datetime.date": _encode_datetime,
    "datetime.time": _encode_datetime,
    "datetime.datetime": _encode_datetime,
    "datetime.timedelta": lambda codec, value, depth: ["td", value.days, value.seconds, value.microseconds],
    "datetime.timezone": _encode_zone,
}


def _decode_view(codec: Codec, node: list[Any], depth: int) -> Any:
    items = codec.values(node[2], depth)
    match node[1]:
        case "keys":
            return dict.fromkeys(items).keys()
        case "values":
            return dict(enumerate(items)).values()
        case "items":
            return dict(items).items()
    raise Malformed("unknown view")


_DECODERS: dict[str, Callable[[Codec, list[Any], int], Any]] = {
    "i": lambda codec, node, depth: int(text(node[1]), 16),
    "c": lambda codec, node, depth: complex(float(node[1]), float(node[2])),
    "b": lambda codec, node, depth: text(node[1]).encode("latin-1"),
    "t": lambda codec, node, depth: tuple(codec.values(node[1], depth)),
    "f": lambda codec, node, depth: frozenset(codec.values(node[1], depth)),
    "r": lambda codec, node, depth: range(*codec.values(node[1:4], depth)),
    "s": lambda codec, node, depth: slice(*codec.values(node[1:4], depth)),
    "D": lambda codec, node, depth: _type("decimal.Decimal")(text(node[1])),
    "F": lambda codec, node, depth: _type("fractions.Fraction")(*codec.values(node[1:3], depth)),
    "dt": _decode_datetime,
    "td": lambda codec, node, depth: _type("datetime.timedelta")(int(node[1]), int(node[2]), int(node[3])),
    "tz": _decode_zone,
    "k": lambda codec, node, depth: _type(text(node[1])),
    "v": _decode_view,
}
