"""Rewrite the assertions of tests so that each one is counted and a failed one explains itself.

``assert left == right, message`` becomes ``assert @eq(7, left, right), message``, and ``assert value`` becomes
``assert @true(7, value)``. The functions behind these names make the comparison, count it, and note a failure whatever
the tests then do with the exception; operands are evaluated once, in the same order, and nothing holds on to them.
Names that begin with ``@`` cannot collide with a program's.

Every run pays for this, so it is small: only statements are walked, never expressions, and an assertion costs three new
nodes.
"""

import _ast
from _ast import (
    Assert,
    Assign,
    AsyncFunctionDef,
    Call,
    ClassDef,
    Compare,
    Constant,
    Expr,
    FunctionDef,
    Load,
    Name,
    Tuple,
)
from typing import Any

from . import BUILTINS

__builtins__ = BUILTINS  # type: ignore[assignment]

ENTERED, TRUE = "@entered", "@true"
CHECKS = {
    _ast.Eq: ("@eq", "=="), _ast.NotEq: ("@ne", "!="), _ast.Lt: ("@lt", "<"), _ast.LtE: ("@le", "<="),
    _ast.Gt: ("@gt", ">"), _ast.GtE: ("@ge", ">="), _ast.Is: ("@is", "is"), _ast.IsNot: ("@is_not", "is not"),
    _ast.In: ("@in", "in"), _ast.NotIn: ("@not_in", "not in"),
}  # fmt: skip
_LOAD = Load()

Function = FunctionDef | AsyncFunctionDef
Assertion = tuple[Assert, str]  # the statement, and the operator of its comparison or an empty string


class Instrumenter:
    """Rewrites one module's tree in place.

    Attributes:
        assertions: what the checks are called with is an index into this.
        used: the names that rewritten assertions call.
        functions: qualified names of the test functions whose entry is reported, by the index given to `ENTERED`.
    """

    def __init__(self, self_testing: bool = False) -> None:
        self.assertions: list[Assertion] = []
        self.used: set[str] = set()
        self.functions: list[str] = []
        self._self_testing = self_testing

    def rewrite(self, tree: _ast.Module) -> None:
        """Instrument the module."""
        self._walk(tree.body, "", True, True)

    def _walk(self, body: list[_ast.stmt], prefix: str, collect: bool, counted: bool) -> None:
        """Rewrite a list of statements.

        Args:
            body: the statements.
            prefix: qualified name of what they stand in, with a dot, or empty.
            collect: functions found here may be tests that nothing calls (module level and test classes).
            counted: assertions found here belong to the tests.
        """
        statement: Any  # the exact type, asked below, tells what it has
        for statement in body:
            kind = type(statement)
            if kind is Assert:
                if counted:
                    self._assertion(statement)
            elif kind is Expr or kind is Assign:
                pass  # the most frequent ones, with nothing inside
            elif kind is FunctionDef or kind is AsyncFunctionDef:
                self._function(statement, prefix, collect, counted)
            elif kind is ClassDef:
                inside = counted and (not self._self_testing or looks_like_tests(statement))
                self._walk(statement.body, f"{prefix}{statement.name}.", collect, inside)
            else:
                for field in ("body", "orelse", "finalbody"):
                    block = getattr(statement, field, None)
                    if block:
                        self._walk(block, prefix, collect, counted)
                for part in getattr(statement, "handlers", ()) or getattr(statement, "cases", ()):
                    self._walk(part.body, prefix, collect, counted)

    def _function(self, function: Any, prefix: str, collect: bool, counted: bool) -> None:
        name, body = function.name, function.body
        inside = counted and (not self._self_testing or bool(prefix) or is_test_function(function))
        self._walk(body, f"{prefix}{name}.<locals>.", False, inside)
        if collect and (name.startswith("test") or name == "check"):
            first = body[0]
            # A docstring must stay first.
            place = int(type(first) is Expr and type(first.value) is Constant)
            where = _place(first)
            mark = Call(Name(ENTERED, _LOAD, **where), [Constant(len(self.functions), **where)], [], **where)
            body.insert(place, Expr(mark, **where))
            self.functions.append(prefix + name)

    def _assertion(self, statement: Any) -> None:
        test = statement.test
        kind = type(test)
        if (kind is Constant and test.value) or (kind is Tuple and test.elts):
            return  # always true: it asserts nothing, so it is not counted
        where = _place(test)
        arguments: list[Any] = [Constant(len(self.assertions), **where)]
        if kind is Compare and len(test.ops) == 1:
            name, operator = CHECKS[type(test.ops[0])]
            arguments += (test.left, test.comparators[0])
        else:
            name, operator = TRUE, ""
            arguments.append(test)
        statement.test = Call(Name(name, _LOAD, **where), arguments, [], **where)
        self.used.add(name)
        self.assertions.append((statement, operator))


def is_test_function(function: Any) -> bool:
    """In a self-testing script: are its assertions tests, and not the checks that a function makes of its arguments?"""
    name = function.name.lower()
    arguments = function.args
    takes = arguments.posonlyargs or arguments.args or arguments.kwonlyargs or arguments.vararg or arguments.kwarg
    return "test" in name or "check" in name or not takes


def looks_like_tests(definition: Any) -> bool:
    """Is it a class of tests, by its name or its base?"""
    bases = (getattr(base, "attr", "") or getattr(base, "id", "") for base in definition.bases)
    return definition.name.startswith("Test") or any(base.endswith("TestCase") for base in bases)


def _place(node: Any) -> dict[str, Any]:
    """A node's place in the source, for nodes made in its stead."""
    return {
        "lineno": node.lineno,
        "col_offset": node.col_offset,
        "end_lineno": node.end_lineno,
        "end_col_offset": node.end_col_offset,
    }
