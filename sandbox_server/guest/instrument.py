"""Rewrite the assertions of tests so that each one is counted and a failed one explains itself.

``assert left == right, message`` becomes::

    if (@left := left) == (@right := right):
        @ran()
    else:
        @failed(7, @left, @right)
        assert False, message
    @left = @right = None

Operands are evaluated once, in the same order and with the same truth test as before. Names that begin with ``@`` cannot
collide with a program's. Only statements are walked, never expressions: an assertion is a statement, and the walk is paid
for by every run.
"""

import ast
from dataclasses import dataclass
from typing import Any

RAN, FAILED, ENTERED = "@ran", "@failed", "@entered"

_OPERATORS = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip


@dataclass
class Assertion:
    """Where an assertion stands in the source, and what it compares."""

    line: int
    end_line: int
    column: int
    end_column: int
    operator: str


class Instrumenter:
    """Rewrites one module's tree in place.

    Attributes:
        assertions: what `FAILED` is called with is an index into this.
        functions: qualified names of the functions whose entry is reported, by the index given to `ENTERED`.
    """

    def __init__(self, self_testing: bool = False) -> None:
        self.assertions: list[Assertion] = []
        self.functions: list[str] = []
        self._self_testing = self_testing

    def rewrite(self, tree: ast.Module) -> None:
        """Instrument the module."""
        tree.body = self._statements(tree.body, "", True, True)

    def _statements(self, body: list[ast.stmt], prefix: str, collect: bool, counted: bool) -> list[ast.stmt]:
        """Rewrite a list of statements.

        Args:
            body: the statements.
            prefix: qualified name of what they stand in, with a dot, or empty.
            collect: functions found here may be tests that nothing calls (module level and test classes).
            counted: assertions found here belong to the tests.
        """
        out: list[ast.stmt] = []
        for statement in body:
            kind = type(statement)
            if kind is ast.Assert:
                if counted:
                    out += self._assertion(statement)  # type: ignore[arg-type]
                else:
                    out.append(statement)
                continue
            if kind is ast.FunctionDef or kind is ast.AsyncFunctionDef:
                self._function(statement, prefix, collect, counted)  # type: ignore[arg-type]
            elif kind is ast.ClassDef:
                inside = counted and (not self._self_testing or looks_like_tests(statement))  # type: ignore[arg-type]
                name = f"{prefix}{statement.name}."  # type: ignore[attr-defined]
                statement.body = self._statements(statement.body, name, collect, inside)  # type: ignore[attr-defined]
            else:
                for field in ("body", "orelse", "finalbody"):
                    block = getattr(statement, field, None)
                    if block:
                        setattr(statement, field, self._statements(block, prefix, collect, counted))
                for part in getattr(statement, "handlers", ()) or getattr(statement, "cases", ()):
                    part.body = self._statements(part.body, prefix, collect, counted)
            out.append(statement)
        return out

    def _function(
        self, function: "ast.FunctionDef | ast.AsyncFunctionDef", prefix: str, collect: bool, counted: bool
    ) -> None:
        inside = counted and (not self._self_testing or bool(prefix) or is_test_function(function))
        function.body = self._statements(function.body, f"{prefix}{function.name}.<locals>.", False, inside)
        if collect:
            mark = ast.Expr(_call(ENTERED, ast.Constant(len(self.functions))))
            self.functions.append(prefix + function.name)
            # A docstring must stay first.
            first = function.body[0]
            place = int(isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant))
            function.body.insert(place, _located(mark, function))

    def _assertion(self, statement: ast.Assert) -> list[ast.stmt]:
        test = statement.test
        if (isinstance(test, ast.Constant) and test.value) or (isinstance(test, ast.Tuple) and test.elts):
            return [statement]  # always true: it asserts nothing, so it is not counted
        operator, names = "", []
        if type(test) is ast.Compare and len(test.ops) == 1:
            operator = _OPERATORS[type(test.ops[0])]
            names = ["@left", "@right"]
            test.left = ast.NamedExpr(ast.Name("@left", ast.Store()), test.left)
            test.comparators = [ast.NamedExpr(ast.Name("@right", ast.Store()), test.comparators[0])]
        index = len(self.assertions)
        self.assertions.append(
            Assertion(
                statement.lineno,
                statement.end_lineno or statement.lineno,
                statement.col_offset,
                statement.end_col_offset or 0,
                operator,
            )
        )
        note = ast.Expr(_call(FAILED, ast.Constant(index), *(ast.Name(name, ast.Load()) for name in names)))
        fail = ast.Assert(ast.Constant(False), statement.msg)
        branch = ast.If(test, [ast.Expr(_call(RAN))], [note, fail])
        out: list[ast.stmt] = [_located(branch, statement)]
        if names:  # hold on to nothing: a test may look at reference counts
            forget = ast.Assign([ast.Name(name, ast.Store()) for name in names], ast.Constant(None))
            out.append(_located(forget, statement))
        return out


def is_test_function(function: "ast.FunctionDef | ast.AsyncFunctionDef") -> bool:
    """In a self-testing script: are its assertions tests, and not the checks that a function makes of its arguments?"""
    name = function.name.lower()
    arguments = function.args
    takes = arguments.posonlyargs or arguments.args or arguments.kwonlyargs or arguments.vararg or arguments.kwarg
    return "test" in name or "check" in name or not takes


def looks_like_tests(definition: ast.ClassDef) -> bool:
    """Is it a class of tests, by its name or its base?"""
    bases = (getattr(base, "attr", "") or getattr(base, "id", "") for base in definition.bases)
    return definition.name.startswith("Test") or any(base.endswith("TestCase") for base in bases)


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _located(node: Any, where: ast.stmt) -> Any:
    """Give every new node below `node` the place of `where`; nodes of the program keep theirs."""
    line, column = where.lineno, where.col_offset
    end_line, end_column = where.end_lineno, where.end_col_offset
    stack = [node]
    while stack:
        part = stack.pop()
        if "lineno" in part._attributes:
            if hasattr(part, "lineno"):
                if type(part) is not ast.Compare:
                    continue  # the program's own node, whole below it
            else:
                part.lineno, part.col_offset, part.end_lineno, part.end_col_offset = line, column, end_line, end_column
        for field in part._fields:
            value = getattr(part, field, None)
            if isinstance(value, ast.AST):
                stack.append(value)
            elif isinstance(value, list):
                stack += [item for item in value if isinstance(item, ast.AST)]
    return node
