"""Count unittest's assertion methods like `assert` statements, and take its results as they are.

A runner swallows what its tests raise, and `unittest.main` ends the process: both would hide from a judge that only
looks at exceptions and at the module's end.
"""

import contextlib
import functools
import sys
import threading
import types
import unittest
import unittest.case
import unittest.result
from typing import Any

from . import BUILTINS, judging

__builtins__ = BUILTINS  # type: ignore[assignment]

_exc_info = sys.exc_info
_CASE_FILE, _CONTEXT_FILE = unittest.case.__file__, contextlib.__file__
_ShouldStop: Any = unittest.case._ShouldStop  # type: ignore[attr-defined]


class Watch:
    """Patches unittest, in the candidate's process, before the program runs."""

    def __init__(self, ledger: "judging.Ledger", tests_file: str) -> None:
        self._ledger = ledger
        self._tests_file = tests_file
        self._depth = threading.local()
        self._error: dict[str, Any] | None = None
        self._skips = 0
        for name in dir(unittest.TestCase):
            if name.startswith("assert") and callable(getattr(unittest.TestCase, name)):
                setattr(unittest.TestCase, name, self._counting(getattr(unittest.TestCase, name)))
        unittest.TestCase.fail = self._counting(unittest.TestCase.fail)  # type: ignore[method-assign]
        self._patch_results()

    def ended_by_its_runner(self, stop: SystemExit) -> bool:
        """Did unittest.main end the process, as it does after the last test?"""
        frames = stop.__traceback__
        name = ""
        while frames is not None:
            name = frames.tb_frame.f_code.co_filename
            frames = frames.tb_next
        return name == sys.modules[unittest.main.__module__].__file__

    def ran_all(self, functions: list[str], entered: set[int], namespace: dict[str, Any]) -> bool:
        """Were the methods of all test cases run, or skipped? What is loaded, the program can say (`load_tests`)."""
        missing = 0
        for index, name in enumerate(functions):
            place, _, method = name.rpartition(".")
            kind = namespace.get(place.partition(".")[0])
            if index not in entered and method.startswith("test") and isinstance(kind, type):
                missing += issubclass(kind, unittest.case.TestCase)
        return missing <= self._skips

    def finish(self, report: dict[str, Any]) -> None:
        """Bring an error that a runner swallowed into the report."""
        if self._error is not None and report["end"] == "done":
            report["end"], report["error"] = "error", self._error
            report["code"] = report["code"] or 1

    def _counting(self, method: Any) -> Any:
        depth, ledger, tests_file = self._depth, self._ledger, self._tests_file

        @functools.wraps(method)
        def counted(case: Any, *arguments: Any, **keywords: Any) -> Any:
            if getattr(depth, "inside", False):  # assertEqual calls others: one assertion
                return method(case, *arguments, **keywords)
            depth.inside = True
            try:
                result = method(case, *arguments, **keywords)
            except case.failureException:
                line = _caller_line(tests_file)
                sides = arguments[:2] if len(arguments) >= 2 else ()
                ledger.record(line, f"self.{method.__name__}", "", *sides)
                raise
            finally:
                depth.inside = False
            ledger.ran()
            return result

        return counted

    def _patch_results(self) -> None:
        watch = self
        base: Any = unittest.result.TestResult
        add_error, add_failure, add_skip = base.addError, base.addFailure, base.addSkip
        sub_test = base.addSubTest

        def on_error(result: Any, test: Any, error: Any) -> None:
            watch._swallowed(error[1])
            add_error(result, test, error)

        def on_failure(result: Any, test: Any, error: Any) -> None:
            watch._failed(error[1])
            add_failure(result, test, error)

        def on_skip(result: Any, test: Any, reason: Any) -> None:
            skipping = _exc_info()[1]  # none where a decorator says so of a whole class
            if skipping is not None and not watch._is_of_tests(skipping):
                watch._swallowed(skipping)
            watch._skips += 1
            add_skip(result, test, reason)

        def on_sub_test(result: Any, test: Any, part: Any, error: Any) -> None:
            if error is not None:
                kind = watch._failed if issubclass(error[0], test.failureException) else watch._swallowed
                kind(error[1])
            sub_test(result, test, part, error)

        base.addError, base.addFailure, base.addSkip, base.addSubTest = on_error, on_failure, on_skip, on_sub_test
        outcome: Any = unittest.case._Outcome  # type: ignore[attr-defined]
        execute = outcome.testPartExecutor

        @contextlib.contextmanager
        def executing(*arguments: Any, **keywords: Any) -> Any:
            with execute(*arguments, **keywords):
                try:
                    yield
                except _ShouldStop as stop:  # what a runner takes for the end of a part of its own, and keeps quiet of
                    if not watch._is_of_tests(stop):
                        watch._swallowed(stop)
                    raise

        outcome.testPartExecutor = executing
        to_text = base._exc_info_to_string
        base._exc_info_to_string = lambda result, error, test: judging.abridge(to_text(result, error, test))

    def _is_of_tests(self, error: BaseException) -> bool:
        """Was it raised by the tests' own text, or by unittest for them, and not by the program?"""
        frames = error.__traceback__
        while frames is not None:
            name = frames.tb_frame.f_code.co_filename
            if name not in (self._tests_file, _CASE_FILE, _CONTEXT_FILE, __file__):
                return False
            frames = frames.tb_next
        return True

    def _swallowed(self, error: BaseException) -> None:
        if self._error is None:
            self._error = judging.describe(error, error.__traceback__)

    def _failed(self, error: BaseException) -> None:
        """Count a failed test whose assertion was not seen: `assertRaises` as a context, a raised AssertionError."""
        if not self._ledger.failures:
            facts = judging.describe(error, error.__traceback__)
            self._ledger.record(facts["line"], facts["message"].split("\n")[0], "")


def _caller_line(tests_file: str) -> int:
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == tests_file:
            return frame.f_lineno
        frame = frame.f_back
    return 0
