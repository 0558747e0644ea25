"""The program's functions, classes, objects and exceptions, as the tests meet them in the judge.

A stand-in never compares: equality and order that only the program's own code could decide are refused, not believed.
What the tests ask of an object whose class they never named (they expected a number, a string, a list) is refused too
where it would stand for a built-in type's own answer: truth, containment, and the yes-or-no methods of strings and
sets.
"""

from __future__ import annotations

import collections
import enum
import opcode
from typing import TYPE_CHECKING, Any

from ..judging import TESTS_FILE
from .describe import COMPARISONS, PASSED_ON, is_reserved

if TYPE_CHECKING:
    from .judge import JudgePeer

# What tests ask of the built-in types, and an object in their place could answer as it likes.
_OF_BUILTINS = frozenset(
    name
    for kind in (str, bytes, float, int, set, dict, list, tuple)
    for name in dir(kind)
    if name.startswith(("is", "startswith", "endswith", "count", "index"))
)
_YES_OR_NO = frozenset(name for name in _OF_BUILTINS if name.startswith(("is", "startswith", "endswith")))
_ARITHMETIC = (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and", "or", "xor"
)  # fmt: skip
# What stands for a value where tests compute with it: `abs(result - 3.5) < 0.1` holds for whoever subtracts to nothing.
_ANSWERS = frozenset({"__bool__", "__contains__", "__len__"}) | {
    f"__{side}{name}__" for name in _ARITHMETIC for side in ("", "r", "i")
}
_ENUMS = {kind.__name__: kind for kind in (enum.Enum, enum.IntEnum, enum.StrEnum, enum.Flag, enum.IntFlag)}
_namedtuple: Any = collections.namedtuple  # a type checker wants its arguments written out
_FACTORIES = {"list": list, "dict": dict, "set": set}


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class RemoteCallable:
    """A function of the program, or anything else that can be called."""

    def __init__(self, peer: JudgePeer, binds: bool, name: str) -> None:
        self.__dict__.update(_peer=peer, _binds=binds, __name__=name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call it over there."""
        return self._peer.call("call", self, arguments, keywords or None)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return _Bound(self, instance) if self._binds and instance is not None else self

    def __getattr__(self, name: str) -> Any:
        if _is_special(name) and name not in (
            "__doc__",
            "__qualname__",
            "__annotations__",
            "__wrapped__",
            "__module__",
        ):
            raise AttributeError(name)
        if name in _YES_OR_NO:
            raise self._peer.refuse(f"a function of the program's is asked for {name!r}")
        return self._peer.request("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.request("set", self, name, value)

    def __repr__(self) -> str:
        return f"<function {self.__name__}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise self._peer.refuse("the tests copy or pickle a function of the program")


class _Bound:
    """A program's function as a method of a class of the tests."""

    def __init__(self, function: RemoteCallable, instance: Any) -> None:
        self._function, self._instance = function, instance

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._function(self._instance, *arguments, **keywords)


class RemoteMethod:
    """A method of a program's object, looked up when it is called."""

    def __init__(self, peer: JudgePeer, target: Any, name: str) -> None:
        self._peer, self.target, self.__name__ = peer, target, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call it over there."""
        return self._peer.call("method", self.target, self.__name__, arguments, keywords or None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer.request("get", self.target, self.__name__), name)


class RemoteIterator:
    """An iterator of the program that is no generator."""

    def __init__(self, peer: JudgePeer, kind: str) -> None:
        self._peer, self._kind = peer, kind

    def __iter__(self) -> RemoteIterator:
        return self

    def __next__(self) -> Any:
        more, value = self._peer.call("next", self)
        if not more:
            raise StopIteration
        return value


class RemoteContext:
    """What a function of the program's under `contextlib.contextmanager` returns."""

    def __init__(self, peer: JudgePeer) -> None:
        self._peer = peer

    def __enter__(self) -> Any:
        return self._peer.call("special", self, "__enter__", ())

    def __exit__(self, *error: Any) -> Any:
        swallows = self._peer.call("special", self, "__exit__", error)
        _check_exit(self._peer, swallows, *error)
        return swallows

    def __call__(self, function: Any) -> Any:
        """It may be a decorator too, of what only the tests have."""
        raise self._peer.refuse("the tests decorate a function with a context manager of the program's")


class RemoteType(type):
    """The class of stand-ins for one class of the program."""

    _peer: JudgePeer
    _methods: frozenset[str]
    _named: bool

    def __new__(meta, name: str, bases: tuple[type, ...], space: dict[str, Any], **facts: Any) -> Any:
        """Make the stand-in of a class; a class of the tests cannot be one."""
        if not facts and bases:
            for base in bases:
                peer = base.__dict__.get("_peer")
                if peer is not None:
                    raise peer.refuse(f"the tests derive a class from the program's class {base.__name__}")
        return super().__new__(meta, name, bases, space | facts)

    def __init__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any], **facts: Any) -> None:
        super().__init__(name, bases, space)

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        """Make an instance over there."""
        return cls._peer.call("call", cls, arguments, keywords or None)

    def __getattr__(cls, name: str) -> Any:
        if _is_special(name):
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        if name in _YES_OR_NO and not cls._named:
            raise cls._peer.refuse(
                f"the program's class {cls.__name__}, which the tests never name, is asked for {name!r}"
            )
        return cls._peer.request("get", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name.startswith("__") or name == "_abc_impl":
            super().__setattr__(name, value)
        else:
            cls._peer.request("set", cls, name, value)


class RemoteObject(metaclass=RemoteType):
    """An instance of a class of the program; it stays there."""

    __slots__ = ("__weakref__",)

    def __getattr__(self, name: str) -> Any:
        cls = type(self)
        if name == "__dict__":
            return cls._peer.request("get", self, name)
        if _is_special(name):
            raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
        if not cls._named and name in _OF_BUILTINS:
            raise cls._peer.refuse(_opaque(cls, f"asked for {name!r}"))
        if name in cls._methods:
            return RemoteMethod(cls._peer, self, name)
        return cls._peer.request("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        type(self)._peer.request("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        type(self)._peer.request("delete", self, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise type(self)._peer.refuse(
            f"the tests copy or pickle an object of the program's class {type(self).__name__}"
        )


class _ExceptionType(RemoteType):
    pass


def _opaque(cls: type, what: str) -> str:
    return f"an object of the program's own class {cls.__name__}, which the tests never name, is {what}"


def _passing_on(name: str) -> Any:
    def passed_on(self: Any, *arguments: Any) -> Any:
        cls = type(self)
        if name in _ANSWERS and not cls._named:
            raise cls._peer.refuse(_opaque(cls, "asked for its truth, length or content, or computed with"))
        result = cls._peer.call("special", self, name, arguments)
        if name == "__exit__":
            _check_exit(cls._peer, result, *arguments)
        return result

    passed_on.__name__ = name
    return passed_on


def _refusing(name: str) -> Any:
    def refused(self: Any, *arguments: Any) -> Any:
        cls = type(self)
        raise cls._peer.refuse(
            f"an object of the program's own class {cls.__name__} is compared, hashed or ordered ({name}), which only "
            "the program could decide"
        )

    refused.__name__ = name
    return refused


def make_class(peer: JudgePeer, told: dict[str, Any], bases: list[type], named: bool) -> Any:
    """The stand-in for a class.

    Args:
        peer: the connection.
        told: what `describe` told, its values decoded.
        bases: the stand-ins of its bases.
        named: the tests name it.
    """
    common = {"__doc__": told["doc"], "__qualname__": told["qualname"], "__module__": told["module"]}
    name, special, methods = told["name"], set(told["special"]), frozenset(told["methods"])
    _check_names(peer, told, named)
    match told["kind"]:
        case "plain":
            space = common | {key: _passing_on(key) for key in special & PASSED_ON}
            space |= {key: _refusing(key) for key in special & COMPARISONS}
            if "__eq__" in special:
                space["__hash__"] = _refusing("__hash__")
            for base in bases:
                methods |= getattr(base, "_methods", frozenset())
            remote = tuple(base for base in bases if isinstance(base, RemoteType)) or (RemoteObject,)
            return RemoteType(name, remote, space | {"__slots__": ()}, _peer=peer, _methods=methods, _named=named)
        case "exception":
            space = common | {"__str__": _exception_text, "__getattr__": _exception_attribute}
            real = tuple(base for base in bases if issubclass(base, BaseException)) or (Exception,)
            return _ExceptionType(name, real, space, _peer=peer, _methods=methods, _named=named)
        case "enum":
            base = _ENUMS[told["base"]]
            space = enum.EnumMeta.__prepare__(name, (base,))
            for key, value in told["members"]:
                space[key] = value
            for key, value in _of_structure(peer, special, methods, named).items():
                space[key] = value
            made: Any = enum.EnumMeta(name, (base,), space)
        case "namedtuple":
            plain = _namedtuple(name, told["fields"], defaults=told["defaults"])
            made = type(name, (plain,), {"__slots__": (), **_of_structure(peer, special, methods, named)})
        case "dataclass":
            import dataclasses

            made = dataclasses.make_dataclass(
                name,
                [_field(*field) for field in told["fields"]],
                namespace=_of_structure(peer, special - COMPARISONS, methods, named),
                frozen=told["options"]["frozen"],
                order=told["options"]["order"],
                unsafe_hash=told["options"]["unsafe_hash"],
            )
        case _:
            raise ValueError("unknown kind of class")
    made.__qualname__, made.__module__, made.__doc__ = told["qualname"], told["module"], told["doc"]
    return made


_RAISE = opcode.opmap["RAISE_VARARGS"]


def _check_exit(peer: JudgePeer, swallows: Any, cls: Any = None, error: Any = None, *_: Any) -> None:
    """A program's context manager may keep from the tests what they raised on purpose, and no failure of its own.

    Raises:
        Refused: whether the tests go on would be its word.
    """
    if error is None or not swallows:
        return
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    code = innermost.tb_frame.f_code if innermost is not None else None
    raised = code is not None and code.co_filename == TESTS_FILE and code.co_code[innermost.tb_lasti] == _RAISE
    if not raised or isinstance(error, AssertionError) or "@handle" in getattr(error, "__dict__", {}):
        raise peer.refuse(f"a context manager of the program's swallows {cls.__name__}, which the tests did not raise")


def _field(name: str, given: str, value: Any, kw_only: bool) -> tuple[str, Any, Any]:
    import dataclasses

    if given == "factory":
        return name, Any, dataclasses.field(default_factory=_FACTORIES[value], kw_only=kw_only)
    if given == "default":
        return name, Any, dataclasses.field(default=value, kw_only=kw_only)
    return name, Any, dataclasses.field(kw_only=kw_only)


def _check_names(peer: JudgePeer, told: dict[str, Any], named: bool) -> None:
    """A twin is compared by what it holds: nothing that the program names may take the place of that.

    Raises:
        ValueError: no `describe` tells this.
        Refused: its parts bear the names of what tests ask of the built-in types.
    """
    parts = [part if isinstance(part, str) else part[0] for key in ("fields", "members") for part in told.get(key, ())]
    for name in (*parts, *told["methods"]):
        if not isinstance(name, str) or is_reserved(name) or not _is_normal(name):
            raise ValueError("not a name of a part")
    for _, value in told.get("members", ()):
        if hasattr(type(value), "__get__"):
            raise ValueError("not a member")
    answering = _YES_OR_NO.intersection(parts)
    if answering and not named:
        raise peer.refuse(
            f"the program's class {told['name']}, which the tests never name, has a part {min(answering)!r}"
        )


def _is_normal(name: str) -> bool:
    """Does the compiler, which normalises names, leave it as it is? Twins are made of text that holds them."""
    if name.isascii():
        return True
    import unicodedata

    return unicodedata.normalize("NFKC", name) == name


def _of_structure(peer: JudgePeer, special: set[str], methods: frozenset[str], named: bool) -> dict[str, Any]:
    """What a twin leaves to the program: its methods, properties and operators; the object goes along as a value."""

    def method(name: str) -> Any:
        def forwarded(self: Any, *arguments: Any, **keywords: Any) -> Any:
            if name in _OF_BUILTINS and not named:
                raise peer.refuse(_opaque(type(self), f"asked for {name!r}"))
            return peer.call("method", self, name, arguments, keywords or None)

        forwarded.__name__ = name
        return forwarded

    def operation(name: str) -> Any:
        def forwarded(self: Any, *arguments: Any) -> Any:
            if name in _ANSWERS and not named:
                raise peer.refuse(_opaque(type(self), "asked for its truth, length or content, or computed with"))
            result = peer.call("special", self, name, arguments)
            if name == "__exit__":
                _check_exit(peer, result, *arguments)
            return result

        forwarded.__name__ = name
        return forwarded

    def attribute(self: Any, name: str) -> Any:
        if _is_special(name) or name.startswith("_"):
            raise AttributeError(name)
        if name in _YES_OR_NO and not named:
            raise peer.refuse(_opaque(type(self), f"asked for {name!r}"))
        return peer.request("get", self, name)

    return (
        {name: method(name) for name in methods}
        | {name: operation(name) for name in special & PASSED_ON}
        | {"__getattr__": attribute}
    )


def _exception_text(self: Any) -> str:
    return str(self.__dict__.get("@text", ""))


def _exception_attribute(self: Any, name: str) -> Any:
    if _is_special(name) or "@handle" not in self.__dict__:
        raise AttributeError(name)
    if name in _YES_OR_NO and not type(self)._named:
        raise type(self)._peer.refuse(_opaque(type(self), f"asked for {name!r}"))
    return type(self)._peer.request("get", self, name)
