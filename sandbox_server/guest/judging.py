"""Run a program and its tests in this interpreter, and tell what happened.

The verdict is not made here: the report holds facts, and the server weighs them against what it saw from outside.
"""

import _ast
import builtins
import functools
import itertools
import linecache
import sys
import traceback
import types
from typing import Any

from . import BUILTINS, uncalled, visible
from .instrument import ENTERED, Assertion, Instrumenter

__builtins__ = BUILTINS  # type: ignore[assignment]

CODE_FILE, TESTS_FILE = "/work/solution.py", "/work/tests.py"

_OUR_FOLDER = __file__.rpartition("/")[0] + "/"
_SIDE = 400  # characters kept of each side of a failed comparison
_MESSAGE = 2000
_TRACEBACK = 8000


class Ledger:
    """Counts the assertions of the tests and keeps the first that failed."""

    def __init__(self, source: str, assertions: list[Assertion]) -> None:
        counter = itertools.count()
        self.ran = counter.__next__
        self.failures = 0
        self.first: dict[str, Any] | None = None
        self._lines = source
        self._assertions = assertions
        self._counter = counter

    @property
    def evaluated(self) -> int:
        """Assertions executed so far."""
        return int(self._counter.__reduce__()[1][0])

    def names(self, used: set[str]) -> dict[str, Any]:
        """The functions behind the names that rewritten assertions call; from now on they count for this ledger."""
        global _ran, _failed
        _ran, _failed = self.ran, self.failed
        return {name: _CHECKS[name] for name in used}

    def failed(self, index: int, *sides: Any) -> bool:
        """One of the rewritten assertions did not hold. Answers False, for it to fail."""
        statement, operator = self._assertions[index]
        self.record(statement.lineno, _segment(self._lines, statement), operator, *sides)
        return False

    def record(self, line: int, source: str, operator: str, *sides: Any) -> None:
        """Count a failed assertion; the first is kept with its two sides."""
        self.ran()
        self.failures += 1
        if self.first is None:
            self.first = {"line": line, "assertion": source, "operator": operator}
            if sides:
                self.first["left"] = shorten(sides[0])
                self.first["right"] = shorten(sides[1])

    def report(self) -> dict[str, Any]:
        """What the server is told of it."""
        return {"run": self.evaluated, "failed": self.failures, "first": self.first}


# One ledger counts in a process. The functions are made once, before the fork: their being made, in each run, would
# touch as many pages of memory as there are functions.
_ran: Any = None
_failed: Any = None


def _true(index: int, value: object) -> bool:
    if value:
        _ran()
        return True
    return bool(_failed(index))


def _eq(index: int, left: object, right: object) -> bool:
    if left == right:
        _ran()
        return True
    return bool(_failed(index, left, right))


def _ne(index: int, left: object, right: object) -> bool:
    if left != right:
        _ran()
        return True
    return bool(_failed(index, left, right))


def _lt(index: int, left: Any, right: Any) -> bool:
    if left < right:
        _ran()
        return True
    return bool(_failed(index, left, right))


def _le(index: int, left: Any, right: Any) -> bool:
    if left <= right:
        _ran()
        return True
    return bool(_failed(index, left, right))


def _gt(index: int, left: Any, right: Any) -> bool:
    if left > right:
        _ran()
        return True
    return bool(_failed(index, left, right))


def _ge(index: int, left: Any, right: Any) -> bool:
    if left >= right:
        _ran()
        return True
    return bool(_failed(index, left, right))


def _is(index: int, left: object, right: object) -> bool:
    if left is right:
        _ran()
        return True
    return bool(_failed(index, left, right))


def _is_not(index: int, left: object, right: object) -> bool:
    if left is not right:
        _ran()
        return True
    return bool(_failed(index, left, right))


def _in(index: int, left: Any, right: Any) -> bool:
    if left in right:
        _ran()
        return True
    return bool(_failed(index, left, right))


def _not_in(index: int, left: Any, right: Any) -> bool:
    if left not in right:
        _ran()
        return True
    return bool(_failed(index, left, right))


_CHECKS = {
    f"@{check.__name__[1:]}": check for check in (_true, _eq, _ne, _lt, _le, _gt, _ge, _is, _is_not, _in, _not_in)
}


def run_program(code: str, tests: str, expect_tests: bool, entry_point: str) -> dict[str, Any]:
    """Execute `code` as `__main__`, then `tests` in its namespace.

    Args:
        code: the program's text.
        tests: the tests' text; may be empty.
        expect_tests: the tests are inside `code`.
        entry_point: the function for a `check(candidate)` that nothing calls; empty for the last that `code` defines.

    Returns:
        ``end``: "done", "syntax", "error" or "exit"; ``code``: the exit status; ``tests``: counts; ``error``: what was
        raised; ``reached``: the tests came to their end.
    """
    judged = code if expect_tests else tests
    instrumenter = Instrumenter(self_testing=expect_tests)
    compiled = functools.partial(compile, mode="exec", dont_inherit=True, optimize=0)
    tree: Any = None
    # Both are compiled before either runs: nothing that the program patches can reach the compiler.
    try:
        if judged:
            tree = compiled(judged, CODE_FILE if expect_tests else TESTS_FILE, flags=_ast.PyCF_ONLY_AST)
            instrumenter.rewrite(tree)
        main = compiled(tree if expect_tests else code, CODE_FILE)
        after = compiled(tests if expect_tests else tree, TESTS_FILE) if tests else None
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        print_error(error)
        return {"end": "syntax", "code": 1, "error": describe(error, None)}

    ledger = Ledger(judged, instrumenter.assertions)
    entered: set[int] = set()
    marks = {**ledger.names(instrumenter.used), ENTERED: entered.add} if judged else {}
    module = types.ModuleType("__main__")
    namespace = module.__dict__
    namespace["__file__"] = CODE_FILE
    namespace["__builtins__"] = builtins
    sys.modules["__main__"] = sys.modules["solution"] = module
    remember_source(CODE_FILE, code)
    if tests:
        remember_source(TESTS_FILE, tests)
    watch = None
    if judged and "unittest" in judged:
        with visible():
            from .unittests import Watch

        watch = Watch(ledger, CODE_FILE if expect_tests else TESTS_FILE)

    report: dict[str, Any] = {"end": "done", "code": 0, "reached": False}
    try:
        if expect_tests:
            namespace.update(marks)
        exec(main, namespace)
        namespace.update(marks)  # not before: the program alone has no use for them
        if after is not None:
            exec(after, namespace)
        report["reached"] = not instrumenter.functions or uncalled.call(
            tree, namespace, instrumenter.functions, entered, entry_point, code
        )
    except SystemExit as stop:
        report["end"] = "exit"
        if watch is not None and watch.ended_by_its_runner(stop):
            report["end"] = "done"
            report["reached"] = watch.ran_all(instrumenter.functions, entered, namespace)
        report["code"] = exit_status(stop)
    except BaseException as error:
        frames = own_frames(error.__traceback__)
        report["end"], report["code"] = "error", 1
        report["error"] = describe(error, frames)
        if type(error) is AssertionError and not ledger.failures and raised_in(frames, judged, expect_tests):
            ledger.record(report["error"]["line"], "raise AssertionError", "")
        print_error(error, frames)
    if watch is not None:
        watch.finish(report)
    if judged:
        report["tests"] = ledger.report()
        if ledger.first is not None and report.get("error"):
            ledger.first["message"] = report["error"]["message"]
    return report


def exit_status(stop: SystemExit) -> int:
    """The status that the interpreter would end with; a message goes to stderr as it would."""
    try:
        code = stop.code
        if code is None:
            return 0
        if isinstance(code, int):
            exact = int.__int__(code)
            return exact & 0xFF if -(2**63) <= exact < 2**63 else 255
        print(code, file=sys.stderr)
    except BaseException:
        pass
    return 1


def describe(error: BaseException, frames: "types.TracebackType | None") -> dict[str, Any]:
    """Type, message, line and traceback of an exception, each bounded."""
    line = 0
    if isinstance(error, SyntaxError) and frames is None and type(error.lineno) is int:
        line = max(error.lineno, 0)
    walk = frames
    while walk is not None:
        if walk.tb_frame.f_code.co_filename in (CODE_FILE, TESTS_FILE):
            line = walk.tb_lineno
        walk = walk.tb_next
    try:
        message = _exact(str(error), _MESSAGE)
    except BaseException:
        message = "<its __str__ failed>"
    return {
        "type": class_name(error),
        "message": message,
        "line": line,
        "traceback": _format(error, frames)[-_TRACEBACK:],
    }


def shorten(value: Any) -> str:
    """repr(), bounded, whatever the value does."""
    try:
        text = _exact(repr(value))
    except BaseException as error:
        return f"<repr() raised {class_name(error)}>"
    if len(text) > _SIDE:
        half = (_SIDE - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return text


_name_of = type.__dict__["__name__"].__get__  # a metaclass may have a __name__ of its own


def class_name(value: object) -> str:
    """The name of a value's class, bounded, whatever the class says of itself."""
    return _exact(_name_of(type(value)), 200)


def _exact(text: str, most: "int | None" = None) -> str:
    """The characters of a string that may be an instance of a program's own subclass of str."""
    return str.__getitem__(text, slice(0, most))


def _format(error: BaseException, frames: "types.TracebackType | None") -> str:
    try:
        told = traceback.TracebackException(type(error), error, frames, compact=True)
        _hide_our_frames(told)
        return "".join(told.format())
    except BaseException:
        return f"{class_name(error)}: <its traceback cannot be formatted>\n"


def _hide_our_frames(told: "traceback.TracebackException | None", depth: int = 0) -> None:
    while told is not None and depth < 100:
        told.stack[:] = [frame for frame in told.stack if not frame.filename.startswith(_OUR_FOLDER)]
        _hide_our_frames(told.__cause__, depth + 1)
        told, depth = told.__context__, depth + 1


def print_error(error: BaseException, frames: "types.TracebackType | None" = None) -> None:
    """Show an exception on stderr as the interpreter would, but never so much that this alone reaches a limit."""
    try:
        sys.stderr.write(abridge(_format(error, frames)))
    except BaseException:
        pass  # the program closed or replaced its stderr


def abridge(text: str) -> str:
    """A traceback's text, without its middle when it is long."""
    if len(text) <= _TRACEBACK:
        return text
    half = _TRACEBACK // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters ...\n{text[-half:]}"


def own_frames(frames: "types.TracebackType | None") -> "types.TracebackType | None":
    """The traceback from the program's first frame on."""
    while frames is not None and is_ours(frames):
        frames = frames.tb_next
    return frames


def is_ours(frames: "types.TracebackType") -> bool:
    """Is this the frame of the guest's own code, and not of the program's?"""
    package = frames.tb_frame.f_globals.get("__package__")
    return isinstance(package, str) and __package__ is not None and package.partition(".")[0] == __package__


def raised_in(frames: "types.TracebackType | None", judged: str, expect_tests: bool) -> bool:
    """Was it raised by the tests' own text, and not by something that they call?"""
    name = None
    while frames is not None:
        name = frames.tb_frame.f_code.co_filename
        frames = frames.tb_next
    return bool(judged) and not expect_tests and name == TESTS_FILE


def _segment(source: str, where: _ast.stmt) -> str:
    lines = source.splitlines()[where.lineno - 1 : where.end_lineno]
    if len(lines) == 1:
        return lines[0].encode()[where.col_offset : where.end_col_offset].decode(errors="replace")[:_SIDE]
    return "\n".join(line.strip() for line in lines)[:_SIDE]


def remember_source(name: str, source: str) -> None:
    """Let tracebacks and inspect.getsource show lines of a file that is nowhere on disk; split only if they ask."""
    linecache.cache[name] = (lambda: source,)
