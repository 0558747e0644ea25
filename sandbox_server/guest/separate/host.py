"""The program's side: run it, then do what the judge asks of its functions, classes and objects.

Nothing here is trusted by the judge, and nothing needs to be: what this process answers is what the program answers.
"""

from __future__ import annotations

import builtins
import collections.abc
import contextlib
import enum
import io
import linecache
import opcode
import os
import sys
import types
from typing import Any

from .. import judging
from .describe import describe, is_of_library, kind_of
from .fitness import definition
from .peer import Gone, Peer
from .values import SHAPES_BY_NAME, CannotCross, Malformed, Shape

_getpid, _exit = os.getpid, os._exit


def _new_dataclass(header: list[Any]) -> Any:
    cls = header[0]
    if not (isinstance(cls, type) and "__dataclass_fields__" in cls.__dict__):
        raise ValueError("not a dataclass")
    return object.__new__(cls)


def _dataclass_parts(value: Any) -> tuple[list[Any], ...]:
    return ([getattr(value, name) for name in type(value).__dataclass_fields__],)


def _fill_dataclass(value: Any, items: list[Any]) -> None:
    for name, item in zip(type(value).__dataclass_fields__, items, strict=True):
        object.__setattr__(value, name, item)


_NO_BASES = (object, tuple)
_DATA = (int, float, str, bytes, list, tuple, dict, set, frozenset, bytearray)


def _is_abstract(base: type) -> bool:
    """A base of the library that says something about a class, and gives it nothing."""
    return base.__module__ in ("abc", "typing", "collections.abc")


DATACLASS = Shape("dataclass", _new_dataclass, _dataclass_parts, _fill_dataclass, lambda value: [type(value)])
WITH_DATACLASS = {**SHAPES_BY_NAME, DATACLASS.name: DATACLASS}


class Host(Peer):
    """Serves one judge.

    Args:
        fd: the connection.
        run: executes the program; answers the facts of how it ended and its namespace.
    """

    def __init__(self, fd: int, run: Any) -> None:
        super().__init__(fd, first_handle=1)
        self._run = run
        self._namespace: dict[str, Any] = {}
        self._exports: dict[int, Any] = {}
        self._export_handles: dict[int, int] = {}  # by id() of what `_exports` keeps alive
        self._kinds: dict[type, str] = {}
        self._told: set[int] = set()  # handles of classes that the judge knows
        self._foreign: dict[int, tuple[Any, int]] = {}  # what stands here for objects of the tests, by id()
        self._foreign_types: dict[int, type] = {}
        self._loop: Any = None
        self._me = _getpid()
        self.shapes_by_name = WITH_DATACLASS

    def serve(self) -> None:
        """Until the judge is done."""
        try:
            while True:
                self.serve_one()
        except Gone:
            pass

    # What the judge may ask

    def answer(self, operation: str, arguments: list[Any]) -> Any:
        """Look the operation up and do it."""
        if operation == "call":  # before all others, since tests do little else
            target, positional, keywords = arguments
            result = target(*positional, **keywords) if keywords else target(*positional)
        else:
            method = getattr(self, f"_do_{operation}", None)
            if method is None:
                raise Malformed(f"unknown operation {operation!r}")
            result = method(*arguments)
        if _getpid() != self._me:  # a fork of the program that came back: only its parent speaks
            _exit(0)
        return result

    def _do_start(self) -> Any:
        facts, self._namespace, used, stored = self._run()
        functions = [
            name
            for name, value in self._namespace.items()
            if isinstance(value, types.FunctionType) and value.__module__ == "__main__"
        ]
        # Not lists: those would be kept in step from now on.
        return facts, *map(tuple, (sorted(self._namespace), functions, sorted(used), sorted(stored)))

    def _do_traceback(self, target: Any) -> Any:
        """Where an exception was raised: line and traceback."""
        told = judging.describe(target, judging.own_frames(target.__traceback__))
        return told["line"], told["traceback"]

    def _do_name(self, name: str) -> Any:
        """What a name of the program's namespace means."""
        if name not in self._namespace:
            return ("missing",)
        value = self._namespace[name]
        if isinstance(value, types.ModuleType):
            return ("module", value.__name__)
        module = getattr(value, "__module__", None)
        if type(module) is str and module.partition(".")[0] in sys.stdlib_module_names and module != "__main__":
            origin = getattr(sys.modules.get(module), name, None)
            if origin is value and not isinstance(value, int | float | str):
                return ("library", module)
        return ("value", value)

    def _do_define(self, name: str, value: Any) -> None:
        self._namespace[name] = value

    def _do_definition(self, name: str) -> str:
        return definition("".join(linecache.getlines(judging.CODE_FILE)), name)

    def _do_method(self, target: Any, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any] | None) -> Any:
        return getattr(target, name)(*arguments, **keywords or {})

    def _do_special(self, target: Any, name: str, arguments: tuple[Any, ...]) -> Any:
        """An operator: looked up on the type, as the interpreter does."""
        return getattr(type(target), name)(target, *arguments)

    def _do_get(self, target: Any, name: str) -> Any:
        return getattr(target, name)

    def _do_set(self, target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)

    def _do_delete(self, target: Any, name: str) -> None:
        delattr(target, name)

    def _do_next(self, target: Any) -> Any:
        try:
            return (True, next(target))
        except StopIteration as stop:
            return (False, stop.value)

    def _do_send(self, target: Any, value: Any) -> Any:
        try:
            return (True, target.send(value))
        except StopIteration as stop:
            return (False, stop.value)

    def _do_throw(self, target: Any, error: Any) -> Any:
        try:
            return (True, target.throw(error))
        except StopIteration as stop:
            return (False, stop.value)

    def _do_await(self, target: Any) -> Any:
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(target)

    def _do_capture(self) -> None:
        """From now on the program's prints are the judge's to place."""
        sys.stdout = io.StringIO()

    def _do_printed(self) -> str:
        text = sys.stdout.getvalue() if isinstance(sys.stdout, io.StringIO) else ""
        sys.stdout = sys.__stdout__
        return text

    def _do_seed(self, value: Any) -> None:
        import random

        random.seed(value)

    # Encoding what only the program has

    def encode_other(self, value: Any, depth: int) -> list[Any]:
        """References, classes and structures."""
        foreign = self._foreign.get(id(value))
        if foreign is not None:
            return ["p", foreign[1]]
        if isinstance(value, type):
            return self._encode_class(value)
        if isinstance(value, BaseException):
            return list(self.encode_exception(value))
        if isinstance(value, types.ModuleType):
            raise CannotCross(f"the module {value.__name__}")
        cls = type(value)
        if isinstance(value, types.GeneratorType):
            return ["ge", self._export(value)]
        if isinstance(value, types.CoroutineType):
            return ["co", self._export(value)]
        if isinstance(value, types.AsyncGeneratorType):
            raise CannotCross("an asynchronous generator")
        if is_of_library(cls) or cls.__module__ == "builtins":
            return self._encode_of_library(value, cls)
        kind = self._kind(cls)
        if kind == "dataclass":
            self.shapes = {**self.shapes, cls: DATACLASS}
            return self._encode_mutable(value, DATACLASS, depth)
        if kind == "namedtuple":
            return ["n", self._encode_class(cls), self.items(value, depth)]
        if kind == "enum":
            name = value.name if value.name in cls.__members__ else None
            return ["e", self._encode_class(cls), name, None if name else self.encode(value.value, depth)]
        if issubclass(cls, _DATA):
            raise CannotCross(f"an instance of {cls.__name__}, which derives from a built-in type")
        if isinstance(value, types.FunctionType | types.MethodType):
            return self._encode_callable(value)
        return ["o", self._export(value), self._encode_class(cls)]

    def _encode_of_library(self, value: Any, cls: type) -> list[Any]:
        if isinstance(value, contextlib.ContextDecorator):
            return ["cm", self._export(value)]  # what @contextmanager makes
        if callable(value):
            return self._encode_callable(value)
        if isinstance(value, collections.abc.Iterator):
            return ["it", self._export(value), cls.__name__]
        raise CannotCross(f"an object of type {cls.__module__}.{cls.__qualname__}")

    def _encode_callable(self, value: Any) -> list[Any]:
        name = getattr(value, "__name__", type(value).__name__)
        return ["fn", self._export(value), isinstance(value, types.FunctionType), str(name)]

    def _kind(self, cls: type) -> str:
        kind = self._kinds.get(cls)
        if kind is None:
            kind = self._kinds[cls] = kind_of(cls)
        return kind

    def _encode_class(self, cls: type) -> list[Any]:
        if is_of_library(cls) or cls.__module__ == "builtins":
            if issubclass(cls, BaseException):
                return ["kx", f"{cls.__module__}.{cls.__qualname__}"]
            raise CannotCross(f"the class {cls.__module__}.{cls.__qualname__}")
        if issubclass(cls, _DATA) and self._kind(cls) == "plain":
            raise CannotCross(f"the class {cls.__name__}, which derives from a built-in type")
        handle = self._export(cls)
        if handle in self._told:
            return ["T", handle]
        self._told.add(handle)
        kind = self._kind(cls)
        if kind == "plain" and issubclass(cls, enum.Enum):
            raise CannotCross(f"the enumeration {cls.__name__}, which is more than a list of members")
        told = describe(cls, kind)
        for key in ("members", "fields", "defaults"):
            if key in told:
                told[key] = self.encode(tuple(map(self._plainly, told[key])))
        bases = cls.__bases__ if kind in ("exception", "plain") else ()
        told["bases"] = [self._encode_class(base) for base in bases if base not in _NO_BASES and not _is_abstract(base)]
        return ["T", handle, told]

    @staticmethod
    def _plainly(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    def encode_exception(self, error: BaseException) -> Any:
        """Class, arguments, text, and what else it carries."""
        foreign = self._foreign.get(id(error))
        if foreign is not None:
            return ["p", foreign[1]]
        try:
            text = str(error)
        except BaseException as problem:
            text = f"<its __str__ raised {type(problem).__name__}>"
        try:
            arguments = self.items(error.args, 1)
        except CannotCross:
            arguments = [text]
        cause = None if error.__cause__ is None else self._shallow(error.__cause__)
        return ["X", self._exception_class(type(error)), arguments, text[:100_000], self._export(error), cause]

    def _shallow(self, error: BaseException) -> Any:
        text = str(error)[:1000]
        return ["X", self._exception_class(type(error)), [text], text, self._export(error), None]

    def _exception_class(self, cls: type) -> list[Any]:
        try:
            return self._encode_class(cls)
        except CannotCross:
            base = next(base for base in cls.__mro__ if base.__module__ == "builtins")
            return ["kx", f"builtins.{base.__name__}"]

    def _export(self, value: Any) -> int:
        handle = self._export_handles.get(id(value))
        if handle is None:
            handle = self.new_handle()
            self._exports[handle] = value
            self._export_handles[id(value)] = handle
        return handle

    def release(self, handles: Any) -> None:
        """The judge holds these no longer."""
        for handle in handles:
            self.forget(handle)

    # Decoding what the judge sends

    def decode_other(self, tag: str, node: list[Any]) -> Any:
        """References to what is here, and stand-ins for what the tests pass."""
        if tag == "^":
            return self._exports[node[1]]
        match tag, node:
            case "^m", [_, int(handle), str(name)]:
                return getattr(self._exports[handle], name)
            case "p", [_, int(handle), spec]:
                return self._remember(handle, _callback(self, handle, spec))
            case "pi", [_, int(handle)]:
                return self._remember(handle, _TestsIterator(self, handle))
            case "n", [_, cls, items]:
                return tuple.__new__(self.decode(cls), self.values(items, 1))
            case "e", [_, cls, name, value]:
                kind: Any = self.decode(cls)
                return kind[name] if name is not None else kind(self.decode(value))
            case "kx", [_, str(name)]:
                return library(name)
            case "mod", [_, str(name)]:
                __import__(name)
                return sys.modules[name]
            case "X", _:
                return self.decode_exception(node)
        raise Malformed(f"unknown tag {tag!r}")

    def decode_exception(self, node: Any) -> BaseException:
        """An exception that the tests raised in a callback, or pass."""
        match node:
            case ["^", int(handle)]:
                return self._exports[handle]  # type: ignore[no-any-return]
            case ["X", ["kx", str(name)], arguments, _]:
                return remade(library(name), self.values(arguments, 1))
            case ["Y", int(handle), str(name), str(base), arguments, int(type_handle)]:
                cls = self._foreign_types.get(type_handle)
                if cls is None:
                    cls = self._foreign_types[type_handle] = type(name, (library(base),), {})
                return self._remember(handle, cls(*self.values(arguments, 1)))  # type: ignore[no-any-return]
        raise Malformed("not an exception")

    def _remember(self, handle: int, value: Any) -> Any:
        self._foreign[id(value)] = (value, handle)
        return value


def remade(cls: type[BaseException], arguments: list[Any]) -> BaseException:
    """An exception with these arguments, also of a class that is not made from them, as JSONDecodeError."""
    try:
        return cls(*arguments)
    except Exception:
        error = cls.__new__(cls)
        error.args = tuple(arguments)
        return error


def library(path: str) -> Any:
    """The class of the standard library with this dotted name; builtins for what is not there."""
    module, _, name = path.rpartition(".")
    if module == "builtins":
        return getattr(builtins, name)
    __import__(module)
    return getattr(sys.modules[module], name)


class _TestsIterator:
    """An iterator of the tests."""

    def __init__(self, peer: Host, handle: int) -> None:
        self._peer, self._handle = peer, handle

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        more, value = self._peer.request("next", self._handle)
        if not more:
            raise StopIteration
        return value


def _callback(peer: Host, handle: int, spec: Any) -> Any:
    """A function of the tests, with its name and its parameters: decorators and `inspect` see what they would."""
    name, doc, parameters = spec
    default = object()

    def call(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        arguments = tuple(argument for argument in arguments if argument is not default)
        keywords = {key: value for key, value in keywords.items() if value is not default}
        return peer.request("call", handle, arguments, keywords or None)

    if parameters is None:

        def function(*arguments: Any, **keywords: Any) -> Any:
            return call(arguments, keywords)

    else:
        space = {"call": call, "default": default}
        head, positional, keywords = [], [], []
        kinds = [kind for _, kind, _ in parameters]
        for index, (parameter, kind, optional) in enumerate(parameters):
            given = f"{parameter}=default" if optional else parameter
            if kind == "*":
                head.append(f"*{parameter}")
                positional.append(f"*{parameter}")
            elif kind == "**":
                head.append(f"**{parameter}")
                keywords.append(f"**{parameter}")
            elif kind == "k" or (optional and "*" not in kinds):
                if kind == "k" and "k" not in kinds[:index] and "*" not in kinds[:index]:
                    head.append("*")
                head.append(given)
                keywords.append(f"{parameter!r}: {parameter}")
            else:
                head.append(given)
                positional.append(parameter)
        given = f"({''.join(f'{part}, ' for part in positional)}), {{{', '.join(keywords)}}}"
        body = f"def function({', '.join(head)}):\n return call({given})"
        exec(body, space)
        function = space["function"]  # type: ignore[assignment]
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def load(code: str) -> tuple[dict[str, Any], dict[str, Any], set[str], set[str]]:
    """Execute the program as `__main__`.

    Returns:
        How it ended (see `judging.run_program`), its namespace, and the global names that its functions use and bind.
    """
    try:
        compiled = compile(code, judging.CODE_FILE, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        judging.print_error(error)
        return {"end": "syntax", "code": 1, "error": judging.describe(error, None)}, {}, set(), set()
    module = types.ModuleType("__main__")
    namespace = module.__dict__
    namespace["__file__"] = judging.CODE_FILE
    namespace["__builtins__"] = builtins
    sys.modules["__main__"] = sys.modules["solution"] = module
    judging.remember_source(judging.CODE_FILE, code)
    facts: dict[str, Any] = {"end": "done", "code": 0}
    try:
        exec(compiled, namespace)
    except SystemExit as stop:
        facts = {"end": "exit", "code": judging.exit_status(stop)}
    except BaseException as error:
        frames = judging.own_frames(error.__traceback__)
        judging.print_error(error, frames)
        facts = {"end": "error", "code": 1, "error": judging.describe(error, frames)}
    return facts, namespace, *_global_names(compiled)


MEASURES = frozenset({"getsizeof", "getrefcount"})
"""What a value that crossed answers differently: lists that are decoded have other room to grow, and other holders."""
_LOAD_GLOBAL = opcode.opmap["LOAD_GLOBAL"]
_STORES = (opcode.opmap["STORE_GLOBAL"], opcode.opmap["DELETE_GLOBAL"])


def _global_names(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Global names that code uses inside its functions, and those that it binds there."""
    used: set[str] = set()
    stored: set[str] = set()
    stack = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    while stack:
        part = stack.pop()
        instructions = part.co_code
        high = 0
        for operation, low in zip(instructions[::2], instructions[1::2], strict=True):
            argument = high << 8 | low
            high = argument if operation == opcode.EXTENDED_ARG else 0
            if operation == _LOAD_GLOBAL:
                used.add(part.co_names[argument >> 1])  # its lowest bit says something else
            elif operation in _STORES:
                stored.add(part.co_names[argument])
        used |= {name for name in part.co_names if name in MEASURES}
        stack += [inner for inner in part.co_consts if isinstance(inner, types.CodeType)]
    return used, stored
