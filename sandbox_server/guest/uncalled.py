"""Call the tests that a module only defines: test functions, test classes, unittest.TestCase, check(candidate)."""

import _ast
import sys
from ast import AsyncFunctionDef, ClassDef, FunctionDef
from types import CoroutineType
from typing import Any

from . import BUILTINS

__builtins__ = BUILTINS  # type: ignore[assignment]

_ONLY_PARSE = _ast.PyCF_ONLY_AST


def call(
    tree: _ast.Module,
    namespace: dict[str, Any],
    functions: list[str],
    entered: set[int],
    entry_point: str,
    code: str,
) -> bool:
    """Call, in the order of their definition, what the tests define and nothing has called.

    Args:
        tree: the tests' module.
        namespace: where it ran.
        functions: qualified names of the functions that report their entry.
        entered: indexes of those that were entered.
        entry_point: name of the function under test, or empty.
        code: the program's text, searched for the function under test when `entry_point` is empty.

    Returns:
        Every test that was called was entered: nothing that the program left behind has swallowed one.
    """
    called = {functions[index] for index in entered}
    wanted: list[str] = []
    cases: list[type] = []
    skipped = 0
    for statement in tree.body:
        if isinstance(statement, FunctionDef | AsyncFunctionDef):
            name = statement.name
            if name in called:
                continue
            if name.startswith("test") and not _needs_arguments(statement):
                wanted.append(name)
                _finish(namespace[name]())
            elif name == "check" and len(statement.args.args) == 1:
                wanted.append(name)
                _finish(namespace[name](_under_test(namespace, entry_point, code)))
        elif isinstance(statement, ClassDef):
            prefix = statement.name + "."
            methods = [name for name in functions if name.startswith(prefix + "test") and name.count(".") == 1]
            if not methods or any(name in called for name in methods):
                continue
            kind = namespace.get(statement.name)
            if _is_test_case(kind):
                wanted += methods
                cases.append(kind)  # type: ignore[arg-type]
            elif isinstance(kind, type) and statement.name.startswith("Test") and kind.__init__ is object.__init__:  # type: ignore[misc]
                wanted += methods
                _run_class(kind, [name.removeprefix(prefix) for name in methods])
    if cases:
        import unittest

        suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, cases))
        skipped = len(unittest.TextTestRunner(sys.stderr).run(suite).skipped)
    called = {functions[index] for index in entered}
    return len([name for name in wanted if name not in called]) <= skipped


def _under_test(namespace: dict[str, Any], entry_point: str, code: str) -> Any:
    if entry_point:
        return namespace[entry_point]
    tree: Any = compile(code, "<program>", "exec", _ONLY_PARSE, dont_inherit=True)
    defined = [node.name for node in tree.body if isinstance(node, FunctionDef | AsyncFunctionDef)]
    if not defined:
        raise NameError("check(candidate) needs a function, and the program defines none")
    return namespace[defined[-1]]


def _needs_arguments(function: "FunctionDef | AsyncFunctionDef") -> bool:
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    return positional > len(arguments.defaults) or None in arguments.kw_defaults


def _run_class(kind: type, methods: list[str]) -> None:
    for name in methods:
        instance = kind()
        for method in ("setup_method", name, "teardown_method"):
            bound = getattr(instance, method, None)
            if bound is not None:
                _finish(bound())


def _is_test_case(kind: Any) -> bool:
    unittest = sys.modules.get("unittest")
    return unittest is not None and isinstance(kind, type) and issubclass(kind, unittest.TestCase)


def _finish(result: Any) -> None:
    if isinstance(result, CoroutineType):
        import asyncio

        asyncio.run(result)
