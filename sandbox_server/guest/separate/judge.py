"""The judge's side: the tests, with stand-ins for everything that is the program's."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import enum
import io
import sys
import types
from collections.abc import Iterable
from typing import Any, cast

from .. import judging, uncalled, visible
from ..instrument import ENTERED, Instrumenter
from .describe import is_of_library
from .fitness import Fitness, definition, shadowed
from .host import DATACLASS, MEASURES, WITH_DATACLASS
from .peer import Gone, Peer
from .proxies import RemoteCallable, RemoteContext, RemoteIterator, RemoteMethod, RemoteObject, RemoteType, make_class
from .values import CannotCross, Malformed, text

_STEERING = frozenset({"StopIteration", "StopAsyncIteration", "GeneratorExit", "CancelledError"})
_ALIASES = {"np": "numpy", "pd": "pandas", "dt": "datetime", "plt": "matplotlib.pyplot"}


class Refused(BaseException):
    """These tests cannot be judged separately. Not an Exception: a test that catches those must not swallow it."""


class JudgePeer(Peer):
    """The connection to the program's side.

    Args:
        fd: the stream.
        fitness: what the text of the tests tells.

    Attributes:
        refusal: why the judgement cannot go on, or empty. It stays, whatever the tests catch.
        lost: why there is nobody to ask any more, or empty. It stays too.
    """

    def __init__(self, fd: int, fitness: Fitness) -> None:
        super().__init__(fd, first_handle=2)
        self.refusal = ""
        self.lost = ""
        self.fitness = fitness
        self._remote: dict[int, Any] = {}  # stand-ins by handle
        self._handles_of_remote: dict[int, int] = {}  # and the other way round, by id()
        self._own: dict[int, Any] = {}  # what the program may call back
        self._own_handles: dict[int, int] = {}
        self._stdout = sys.stdout
        self.shapes_by_name = WITH_DATACLASS

    # Asking

    def request(self, operation: str, *arguments: Any) -> Any:
        """As `Peer.request`; raises at once when there is nothing to hope for."""
        if self.refusal:
            raise Refused(self.refusal)
        if self.lost:
            raise Gone(self.lost)
        return self._ask(operation, *arguments)

    def _ask(self, operation: str, *arguments: Any) -> Any:
        try:
            return super().request(operation, *arguments)
        except BaseException as error:
            if self._steers(error) and operation not in ("next", "send", "throw") and "__next__" not in arguments:
                raise _unsteered(error) from error
            raise

    def _steers(self, error: BaseException) -> bool:
        """Is it one that the tests' own machinery would take for a sign: `all(map(f, cases))` for the end of the cases?

        Unless the tests speak of it: then they expect it.
        """
        names = {cls.__name__ for cls in type(error).__mro__} & _STEERING
        return bool(names) and not names & self.fitness.named

    def call(self, operation: str, *arguments: Any) -> Any:
        """A request that runs the program's code: what it prints goes where the tests' own prints go."""
        if sys.stdout is self._stdout and not self.refusal and not self.lost:
            return self._ask(operation, *arguments)
        self.request("capture")
        try:
            return self.request(operation, *arguments)
        finally:
            if not self.lost and not self.refusal:
                sys.stdout.write(str(self.request("printed")))

    def refuse(self, reason: str) -> Refused:
        """Note that these tests cannot be judged; to be raised."""
        self.refusal = self.refusal or reason
        return Refused(reason)

    def cannot_cross(self, reason: str) -> BaseException:
        """What cannot cross cannot be judged."""
        return self.refuse(reason)

    def _lost(self, why: str) -> Gone:
        self.lost = self.lost or why
        return Gone(why)

    def gone(self) -> list[int]:
        """Mutable values that only the codec holds here."""
        return self.sweep()

    # Being asked: callbacks

    def answer(self, operation: str, arguments: list[Any]) -> Any:
        """The program calls a function of the tests, or draws from an iterator of theirs."""
        match operation, arguments:
            case "call", [int(handle), tuple(positional), (dict() | None) as keywords] if handle in self._own:
                result = self._own[handle](*positional, **keywords or {})
                if isinstance(result, collections.abc.Awaitable):
                    raise self.refuse("the program awaits a coroutine of the tests")
                return result
            case "next", [int(handle)] if handle in self._own:
                try:
                    return (True, next(self._own[handle]))
                except StopIteration:
                    return (False, None)
        raise Malformed("unknown operation")

    # Encoding what the tests pass

    def encode_other(self, value: Any, depth: int) -> list[Any]:
        """Stand-ins go back as what they stand for; functions and iterators of the tests are lent."""
        handle = self._handles_of_remote.get(id(value))
        if handle is not None:
            return ["^", handle]
        if isinstance(value, _Handle):
            return ["^", value.handle]
        if isinstance(value, types.TracebackType):
            return ["k", "None"]  # `__exit__` is given one; it shows the tests
        if isinstance(value, RemoteMethod):
            return ["^m", self._handles_of_remote[id(value.target)], value.__name__]
        if isinstance(value, BaseException):
            return list(self.encode_exception(value))
        cls = type(value)
        remote = self._handles_of_remote.get(id(cls))
        if remote is not None and isinstance(value, tuple):
            return ["n", ["^", remote], self.items(value, depth)]
        if remote is not None and isinstance(value, enum.Enum):
            name = value.name if value.name in cls.__members__ else None
            return ["e", ["^", remote], name, None if name else self.encode(value.value, depth)]
        if isinstance(value, type):
            if is_of_library(value) or value.__module__ == "builtins":
                return ["kx", f"{value.__module__}.{value.__qualname__}"]
            raise CannotCross(f"the class {value.__name__} of the tests")
        if isinstance(value, types.ModuleType) and value.__name__.partition(".")[0] in sys.stdlib_module_names:
            return ["mod", value.__name__]
        if isinstance(value, types.BuiltinFunctionType) and _importable(value):
            return ["kx", f"{value.__module__}.{value.__qualname__}"]
        if isinstance(value, collections.abc.Iterator) and not isinstance(value, io.IOBase):
            return ["pi", self._lend(value)]
        if isinstance(value, collections.abc.Coroutine | collections.abc.AsyncIterator):
            raise CannotCross("a coroutine of the tests")
        if callable(value) and (isinstance(value, _FUNCTIONS) or not _is_of_tests(cls)):
            return ["p", self._lend(value), _specification(value)]
        raise CannotCross(f"an object of type {cls.__name__} that the tests pass to the program")

    def _lend(self, value: Any) -> int:
        handle = self._own_handles.get(id(value))
        if handle is None:
            handle = self.new_handle()
            self._own[handle] = value
            self._own_handles[id(value)] = handle
        return handle

    def encode_exception(self, error: BaseException) -> Any:
        """An exception of the tests, or one of the program's that goes back."""
        handle = getattr(error, "__dict__", {}).get("@handle")
        if handle is not None:
            return ["^", handle]
        if isinstance(error, Refused | Gone):
            raise error
        cls = type(error)
        arguments = self.items(error.args, 1)
        if is_of_library(cls) or cls.__module__ == "builtins":
            return ["X", ["kx", f"{cls.__module__}.{cls.__qualname__}"], arguments, str(error)]
        base = next(base for base in cls.__mro__ if base.__module__ == "builtins")
        return ["Y", self._lend(error), cls.__name__, f"builtins.{base.__name__}", arguments, self._lend(cls)]

    # Decoding what the program answers

    def decode_other(self, tag: str, node: list[Any]) -> Any:
        """Make the stand-in of a reference."""
        try:
            return self._decode_reference(tag, node)
        except Malformed:
            raise
        except Exception as error:  # whatever classes and exceptions make of what they are given
            raise Malformed(f"not a reference of tag {tag!r}: {error}") from None

    def _decode_reference(self, tag: str, node: list[Any]) -> Any:
        match tag, node:
            case "T", [_, int(handle)]:
                return self._remote[handle]
            case "T", [_, int(handle), dict(told)] if handle not in self._remote:
                return self._register_remote(handle, self._make_class(told))
            case "n", [_, cls, items]:
                kind = self._twin(cls, tuple)
                values = self.values(items, 1)
                if len(values) != len(kind._fields):
                    raise ValueError("wrong number of fields")
                return tuple.__new__(kind, values)
            case "e", [_, cls, name, value]:
                kind = self._twin(cls, enum.Enum)
                return kind[name] if name is not None else kind(self.decode(value))
            case "p", [_, int(handle)]:
                return self._own[handle]
            case "kx", [_, str(name)]:
                module, _, attribute = name.rpartition(".")
                if module.partition(".")[0] in _RUNNERS:
                    return Exception  # one that steers a runner of tests is nothing special when a program raises it
                found = getattr(builtins if module == "builtins" else _library_module(module), attribute)
                if not (isinstance(found, type) and issubclass(found, BaseException)):
                    raise ValueError("not an exception's class")
                return found
            case "X", _:
                return self.decode_exception(node)
            case (("o" | "fn" | "it" | "ge" | "co" | "cm"), [_, int(handle), *_]):
                if handle not in self._remote:
                    self._register_remote(handle, self._make_reference(node))
                return self._remote[handle]
        raise ValueError("unknown tag")

    def _make_reference(self, node: list[Any]) -> Any:
        match node:
            case ["o", _, cls]:
                kind = self.decode(cls)
                if not isinstance(kind, RemoteType):
                    raise ValueError("not a plain class")
                return object.__new__(cast("type[RemoteObject]", kind))
            case ["fn", _, bool(binds), str(name)]:
                return RemoteCallable(self, binds, name)
            case ["it", _, str(name)]:
                return RemoteIterator(self, name)
            case ["cm", _]:
                return RemoteContext(self)
            case ["ge", handle]:
                return _generator(self, handle)
            case ["co", handle]:
                return _coroutine(self, handle)
        raise ValueError("unknown reference")

    def reference(self, handle: int) -> _Handle:
        """What stands for a handle in a request."""
        return _Handle(handle)

    def _make_class(self, told: dict[str, Any]) -> Any:
        told = {**told, "bases": [self.decode(base) for base in told["bases"]]}
        for key in ("members", "fields", "defaults"):
            if key in told:
                told[key] = self.decode(told[key])
        return make_class(self, told, told["bases"], told["name"] in self.fitness.classes)

    def _register_remote(self, handle: int, value: Any) -> Any:
        self._remote[handle] = value
        self._handles_of_remote[id(value)] = handle
        if isinstance(value, type) and "__dataclass_fields__" in value.__dict__:
            self.shapes = {**self.shapes, value: DATACLASS}
        return value

    def _twin(self, node: Any, base: type) -> Any:
        kind = self.decode(node)
        if not (isinstance(kind, type) and issubclass(kind, base) and id(kind) in self._handles_of_remote):
            raise ValueError("not such a class")
        return kind

    def decode_exception(self, node: Any) -> BaseException:
        """An exception that the program raised."""
        match node:
            case ["p", int(handle)] if isinstance(self._own.get(handle), BaseException):
                return self._own[handle]  # type: ignore[no-any-return]
            case ["X", cls_node, arguments, str(text), int(handle), cause]:
                pass
            case _:
                raise Malformed("not an exception")
        cls = self.decode(cls_node)
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise Malformed("not an exception's class")
        values = self.values(arguments, 1)
        error: BaseException
        if isinstance(cls, RemoteType):
            error = BaseException.__new__(cast("type[BaseException]", cls))
            error.args = tuple(values)
        else:
            try:
                error = cls(*values)
            except Exception:
                error = cls.__new__(cls)
                error.args = (text,)
        error.__dict__.update({"@handle": handle, "@text": text})
        if cause is not None:
            error.__cause__ = self.decode_exception(cause)
        return error


def _unsteered(error: BaseException) -> RuntimeError:
    """What the interpreter makes of a StopIteration in a generator, and for the same reason."""
    raised = RuntimeError(f"the program raised {type(error).__name__}")
    raised.__dict__.update({key: value for key, value in error.__dict__.items() if key == "@handle"})
    return raised


class _Handle:
    """A handle that no stand-in is registered for."""

    def __init__(self, handle: int) -> None:
        self.handle = handle


_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.MethodDescriptorType,
              types.WrapperDescriptorType, types.MethodWrapperType)  # fmt: skip


def _is_of_tests(cls: type) -> bool:
    return cls.__module__ == "__main__"


def _is_importable(value: Any) -> bool:
    """Is it a module of the standard library, or a class or function of one?"""
    if isinstance(value, types.ModuleType):
        return value.__name__.partition(".")[0] in sys.stdlib_module_names
    return is_of_library(value) if isinstance(value, type) else _importable(value)


def _importable(value: Any) -> bool:
    module = getattr(value, "__module__", None)
    if type(module) is not str or module.partition(".")[0] not in sys.stdlib_module_names | {"builtins"}:
        return False
    found: Any = sys.modules.get(module)
    return getattr(found, value.__qualname__, None) is value


_VARARGS, _VARKEYWORDS = 4, 8  # of co_flags


def _specification(value: Any) -> list[Any]:
    """Name, docstring and parameters of a function that is lent: what a decorator may ask of it."""
    name = getattr(value, "__name__", type(value).__name__)
    doc = getattr(value, "__doc__", None)
    if not isinstance(value, types.FunctionType | types.MethodType):
        return [str(name), doc if type(doc) is str else None, None]
    code, function = value.__code__, value.__func__ if isinstance(value, types.MethodType) else value
    names = code.co_varnames
    count, keyword_only = code.co_argcount, code.co_kwonlyargcount
    required = count - len(function.__defaults__ or ())
    parameters = [[name, "p", index >= required] for index, name in enumerate(names[:count])]
    if code.co_flags & _VARARGS:
        parameters.append([names[count + keyword_only], "*", False])
    parameters += [[name, "k", name in (function.__kwdefaults__ or ())] for name in names[count : count + keyword_only]]
    if code.co_flags & _VARKEYWORDS:
        parameters.append([names[count + keyword_only + bool(code.co_flags & _VARARGS)], "**", False])
    if isinstance(value, types.MethodType):
        del parameters[0]
    return [str(name), doc if type(doc) is str else None, parameters]


def _generator(peer: JudgePeer, handle: int) -> Any:
    operation: tuple[Any, ...] = ("next",)
    while True:
        more, value = peer.call(operation[0], peer.reference(handle), *operation[1:])
        if not more:
            return value
        try:
            sent = yield value
            operation = ("next",) if sent is None else ("send", sent)
        except GeneratorExit:
            peer.call("method", peer.reference(handle), "close", (), None)
            raise
        except BaseException as error:
            operation = ("throw", error)


async def _coroutine(peer: JudgePeer, handle: int) -> Any:
    return peer.call("await", peer.reference(handle))


class Namespace(dict[str, Any]):
    """The tests' globals: their own names, and behind them the program's.

    Args:
        peer: the connection.
        defined: names of the program.
        shadows: built-in names that mean the program's definition.
        rebound: names that the program itself may bind anew; what the others call is asked for once.
        shared: names that the tests bind and the program uses: the program is told of the modules that they import, as
            in one namespace, and of nothing else. The tests keep their own: what they bind themselves is not the
            program's to answer for.
        tests: their text.
    """

    def __init__(
        self, peer: JudgePeer, defined: set[str], shadows: set[str], rebound: set[str], shared: set[str], tests: str
    ) -> None:
        super().__init__()
        self._peer = peer
        self._remote = {name for name in defined if not hasattr(builtins, name)} | shadows
        self._rebound = rebound
        self._shared = shared
        self._tests = tests

    def __missing__(self, name: str) -> Any:
        if name not in self._remote:
            raise KeyError(name)
        value = resolve(self._peer, name)
        if name not in self._rebound and isinstance(value, RemoteCallable | type | types.ModuleType):
            super().__setitem__(name, value)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        if name in self._shared:
            if _is_importable(value):
                self._peer.request("define", name, value)
            elif not self._both_define(name):
                # Expected values, cases and reference functions among them: not the program's to see or to call.
                raise self._peer.refuse(
                    f"the program uses the name {name}, to which the tests bind a value of their own"
                )

    def _both_define(self, name: str) -> bool:
        """Do program and tests define the same function, as a helper that the task gave? Each then uses its own."""
        mine = definition(self._tests, name)
        return bool(mine) and mine == self._peer.request("definition", name)


def resolve(peer: JudgePeer, name: str) -> Any:
    """What a name of the program means to the tests.

    Modules and functions of the standard library are the judge's own, and only under their own names: tests that use
    `isclose` without importing it must not get what the program chose to call so.
    """
    match peer.request("name", name):
        case ("value", value):
            return value
        case ("module", str(module)):
            if name in (module, module.rpartition(".")[2]) or _ALIASES.get(name) == module:
                return _library_module(module)
            raise peer.refuse(f"the tests use {name}, which the program binds to the module {module}")
        case ("library", str(module)) if module.partition(".")[0] in sys.stdlib_module_names:
            return getattr(_library_module(module), name)
        case _:
            raise KeyError(name)


_RUNNERS = frozenset({"unittest", "doctest", "bdb", "pdb"})
_ACTING = frozenset({"antigravity", "this", "idlelib", "turtledemo", "test", "lib2to3", "ensurepip", "pip"})


def _library_module(name: str) -> types.ModuleType:
    """A module that the program names. Importing it must not do anything: `unittest.__main__` would end the judge.

    Raises:
        ValueError: there is no such module, or it is a script.
    """
    if any(part.startswith("__") for part in name.split(".")) or name.partition(".")[0] in _ACTING:
        raise ValueError(f"not a module for a judge: {name[:100]!r}")
    try:
        __import__(name)
        return sys.modules[name]
    except BaseException as error:
        raise ValueError(f"no module {name[:100]!r}: {type(error).__name__}") from None


class TestsModule(types.ModuleType):
    """`__main__` in the judge: `unittest.main` looks for its tests there."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__("__main__")
        self.__dict__["@namespace"] = namespace

    def __dir__(self) -> list[str]:
        return list(self.__dict__["@namespace"])

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["@namespace"][name]
        except KeyError:
            raise AttributeError(f"module '__main__' has no attribute {name!r}") from None


class Solution(types.ModuleType):
    """`import solution` in the tests: the program as a module."""

    def __init__(self, peer: JudgePeer, namespace: Namespace, defined: Iterable[str]) -> None:
        super().__init__("solution")
        self.__dict__["@peer"], self.__dict__["@namespace"] = peer, namespace
        # Without the built-in names: those mean the program's definitions only where the tests say so by name.
        self.__dict__["__all__"] = [name for name in defined if name[:1] != "_" and not hasattr(builtins, name)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return resolve(self.__dict__["@peer"], name)
        except KeyError:
            raise AttributeError(f"module 'solution' has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
        else:
            dict.__setitem__(self.__dict__["@namespace"], name, value)
            self.__dict__["@peer"].request("define", name, value)


def run_tests(fd: int, tests: str, entry_point: str) -> dict[str, Any]:
    """Judge the program at the other end of `fd`.

    Args:
        fd: the connection to its `Host`.
        tests: their text.
        entry_point: the function for a `check(candidate)` that nothing calls; empty for the last one that it defines.

    Returns:
        The report of `judging.run_program`, whose ``end`` may also be "refused" and "lost", with a ``reason``.
    """
    instrumenter = Instrumenter()
    tree: Any
    try:
        tree = compile(tests, judging.TESTS_FILE, "exec", ast.PyCF_ONLY_AST, dont_inherit=True, optimize=0)
        fitness = Fitness(tree)
        instrumenter.rewrite(tree)
        code = compile(tree, judging.TESTS_FILE, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        return {"end": "syntax", "code": 1, "error": judging.describe(error, None)}
    peer = JudgePeer(fd, fitness)
    try:
        told, *names = peer.request("start")
        facts = {**told}
        del told  # what both sides hold is compared at every call
        if facts["end"] != "done":
            return {**facts, "reached": False}
        defined, functions, used, stored = ([text(name) for name in part] for part in names)
    except (Gone, Refused, Malformed, TypeError, ValueError, KeyError):
        return _ended(peer, {"end": "lost", "code": 0})
    shared = fitness.bound & set(used)
    shadows, ambiguous = shadowed(fitness, set(defined), entry_point)
    reason = fitness.reason or ambiguous
    if rebound := (fitness.rebound & set(used)) | (fitness.bound & set(stored)):
        reason = f"tests and program both rebind the global {min(rebound)}"
    elif measured := MEASURES & set(used):
        reason = f"the program uses {min(measured)}, which a value that crosses answers differently"
    elif fitness.seeds and "random" in {*used, *defined}:
        reason = "the tests seed random numbers, which judge and program draw apart"
    if reason:
        peer.refuse(reason)
        return _ended(peer, {"end": "done", "code": 0})
    namespace = Namespace(peer, set(defined), shadows, set(stored), shared, tests)
    if not entry_point:  # the program's last function, and none that the tests have themselves
        entry_point = next((name for name in reversed(functions) if name not in fitness.bound), "")
    return _run(peer, tree, code, tests, instrumenter, namespace, defined, entry_point)


def _run(
    peer: JudgePeer,
    tree: ast.Module,
    code: types.CodeType,
    tests: str,
    instrumenter: Instrumenter,
    namespace: Namespace,
    defined: list[str],
    entry_point: str,
) -> dict[str, Any]:
    ledger = judging.Ledger(tests, instrumenter.assertions)
    entered: set[int] = set()
    sys.modules["__main__"], sys.modules["solution"] = TestsModule(namespace), Solution(peer, namespace, defined)
    namespace["__name__"], namespace["__file__"] = "__main__", judging.CODE_FILE
    namespace["__builtins__"] = builtins
    for name, function in {**ledger.names(instrumenter.used), ENTERED: entered.add}.items():
        namespace[name] = function
    judging.remember_source(judging.TESTS_FILE, tests)
    watch = None
    if "unittest" in tests:
        with visible():
            from ..unittests import Watch

        watch = Watch(ledger, judging.TESTS_FILE)
    report: dict[str, Any] = {"end": "done", "code": 0, "reached": False}
    try:
        exec(code, namespace)
        report["reached"] = uncalled.call(tree, namespace, instrumenter.functions, entered, entry_point, "")
    except SystemExit as stop:
        report["end"] = "exit"
        if watch is not None and watch.ended_by_its_runner(stop):
            report["end"] = "done"
            report["reached"] = watch.ran_all(instrumenter.functions, entered, namespace)
        report["code"] = judging.exit_status(stop)
    except (Gone, Refused):
        pass  # the peer remembers
    except BaseException as error:
        frames = judging.own_frames(error.__traceback__)
        report["end"], report["code"] = "error", 1
        report["error"] = _describe(peer, error)
        judging.print_error(error, frames)
        if type(error) is AssertionError and not ledger.failures and judging.raised_in(frames, tests, False):
            ledger.record(report["error"]["line"], "raise AssertionError", "")
    if watch is not None:
        watch.finish(report)
    report["tests"] = ledger.report()
    if ledger.first is not None and report.get("error"):
        ledger.first["message"] = report["error"]["message"]
    return _ended(peer, report)


def _ended(peer: JudgePeer, report: dict[str, Any]) -> dict[str, Any]:
    """Bring into the report what the tests may have swallowed."""
    if peer.refusal:
        return {"end": "refused", "code": 0, "reason": peer.refusal}
    if peer.lost:
        return {**report, "end": "lost", "reached": False, "reason": peer.lost}
    return report


def _describe(peer: JudgePeer, error: BaseException) -> dict[str, Any]:
    frames = judging.own_frames(error.__traceback__)
    told = judging.describe(error, _without_ours(frames))
    handle = getattr(error, "__dict__", {}).get("@handle")
    if handle is not None and not peer.lost and not peer.refusal:
        try:
            line, text = peer.request("traceback", peer.reference(handle))
            told["line"] = int(line) or told["line"]
            told["traceback"] = (told["traceback"] + "\nin the program:\n" + str(text))[-8000:]
        except BaseException:
            pass
    return told


def _without_ours(frames: types.TracebackType | None) -> types.TracebackType | None:
    last, step = None, frames
    while step is not None:
        if not judging.is_ours(step):
            last = step
        step = step.tb_next
    if last is not None:
        last.tb_next = None
    return frames
