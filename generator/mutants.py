"""Small faults put into a program, to see whether its tests notice (DeMillo, Lipton and Sayward 1978).

Faults are spliced into the text: everything around them stays as it was, and the same program gives the same mutants on
every version of Python.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from generator.keys import key_of
from generator.seeds.extract import FunctionNode, parse_quietly

VERSION = 1
"""Raised whenever the same program gives other mutants."""

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "+"),
    ast.Pow: ("**", "*"),
}
BOOLEAN: dict[type[ast.boolop], tuple[str, str]] = {ast.And: ("and", "or"), ast.Or: ("or", "and")}

_NAMED = re.compile(r"[a-z]")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A program with one fault; `label` says which, and where."""

    label: str
    code: str


@dataclass(frozen=True, slots=True)
class _Fault:
    start: int
    end: int
    text: str


def mutants(code: str, count: int) -> tuple[Mutant, ...]:
    """Put up to `count` faults into a program, each alone; which ones is drawn by hash from the program itself.

    Operators of comparison and arithmetic become their neighbours, `and` and `or` each other, `not x` becomes `x`,
    numbers grow by one, True and False swap, strings are emptied or filled, and what is returned becomes None.

    Args:
        code: a Python program; one that does not parse has no mutants.
        count: at most this many.
    """
    try:
        tree = parse_quietly(code)
    except SyntaxError:
        return ()
    source = _Source(code)
    faults = sorted(set(_faults(tree, source)), key=lambda fault: key_of("mutant", code, *_plain(fault)))
    made: list[Mutant] = []
    for fault in faults:
        if len(made) == count:
            break
        mutated = source.replace(fault.start, fault.end, fault.text)
        if _differs(mutated, tree):
            line = source.line_of(fault.start)
            before = " ".join(source.text(fault.start, fault.end).split()) or "nothing"
            made.append(Mutant(f"line {line}: {before[:60]} -> {fault.text or 'nothing'}", mutated))
    return tuple(made)


def stub(code: str) -> str | None:
    """The program with every function and method doing nothing but `return None`; None where it defines none."""
    try:
        tree = parse_quietly(code)
    except SyntaxError:
        return None
    source = _Source(code)
    # From the end, so that what is still to be replaced stays where it was.
    bodies = sorted((_body(function, source) for function in _outer_functions(tree.body)), reverse=True)
    stubbed = code
    for start, end in bodies:
        stubbed = _Source(stubbed).replace(start, end, "return None")
    return stubbed if _differs(stubbed, tree) else None


def entry_names(code: str) -> frozenset[str]:
    """The functions and classes that a program defines at its top level; empty where it does not parse."""
    try:
        body = parse_quietly(code).body
    except SyntaxError:
        return frozenset()
    return frozenset(node.name for node in body if isinstance(node, FunctionNode | ast.ClassDef))


class _Source:
    """Text addressed as the parser does it: by line, and by column in UTF-8 bytes."""

    def __init__(self, code: str) -> None:
        self._bytes = code.encode("utf-8", "surrogatepass")
        self._lines = [0]
        for match in re.finditer(rb"\r\n|\r|\n", self._bytes):
            self._lines.append(match.end())

    def at(self, line: int, column: int) -> int:
        return self._lines[line - 1] + column

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.at(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.at(node.end_lineno, node.end_col_offset)

    def text(self, start: int, end: int) -> str:
        return self._bytes[start:end].decode("utf-8", "surrogatepass")

    def replace(self, start: int, end: int, text: str) -> str:
        data = self._bytes[:start] + text.encode() + self._bytes[end:]
        return data.decode("utf-8", "surrogatepass")

    def line_of(self, offset: int) -> int:
        return sum(start <= offset for start in self._lines)


def _faults(tree: ast.Module, source: _Source) -> Iterator[_Fault]:
    for node in _mutable(tree):
        match node:
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                for one, operator, other in zip([left, *comparators], ops, comparators, strict=False):
                    yield from _operator(source, one, other, *COMPARISONS[type(operator)])
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in ARITHMETIC:
                yield from _operator(source, left, right, *ARITHMETIC[type(operator)])
            case ast.BoolOp(op=operator, values=values):
                for one, other in itertools.pairwise(values):
                    yield from _operator(source, one, other, *BOOLEAN[type(operator)])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield _Fault(source.start(node), source.start(operand), "")
            case ast.AugAssign(target=target, op=operator, value=value) if type(operator) in ARITHMETIC:
                before, after = ARITHMETIC[type(operator)]
                yield from _operator(source, target, value, f"{before}=", f"{after}=")
            case ast.Constant(value=value):
                if (text := _other_constant(value)) is not None:
                    yield _Fault(source.start(node), source.end(node), text)
            case ast.Return(value=value) if value and not (isinstance(value, ast.Constant) and value.value is None):
                yield _Fault(source.start(value), source.end(value), "None")


def _operator(source: _Source, one: ast.expr, other: ast.expr, before: str, after: str) -> Iterator[_Fault]:
    """The operator that stands between two operands, brackets and comments left alone."""
    start, end = source.end(one), source.start(other)
    between = re.sub(r"#[^\n]*", lambda comment: " " * len(comment[0].encode()), source.text(start, end))
    words = r"\s+".join(re.escape(word) for word in before.split())
    found = re.search(rf"\b{words}\b" if _NAMED.match(before) else words, between)
    if found and between.isascii():
        yield _Fault(start + found.start(), start + found.end(), after)


def _other_constant(value: object) -> str | None:
    match value:
        case bool():
            return str(not value)
        case int():
            return str(value + 1) if value.bit_length() < 1000 else None
        case float():
            return repr(value + 1.0) if value + 1.0 != value else None
        case "":
            return "'mutant'"
        case str():
            return "''"
    return None


def _mutable(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes whose change can change what the program does when its tests call it."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.JoinedStr() | ast.arg() | ast.Import() | ast.ImportFrom() | ast.Assert():
                # Places in f-strings differ between versions of Python, annotations do nothing, and a program's own
                # assertions are checks as the tests are.
                continue
            case ast.Expr(value=ast.Constant()):
                continue  # a docstring
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
            case ast.AnnAssign(value=value):
                if value is not None:
                    yield value
                    yield from _mutable(value)
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _mutable(child.args)
                for statement in child.body:
                    yield from _mutable(ast.Module([statement], []))
                continue
        yield child
        yield from _mutable(child)


def _outer_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, FunctionNode):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _outer_functions(node.body)


def _body(function: ast.FunctionDef | ast.AsyncFunctionDef, source: _Source) -> tuple[int, int]:
    has_text = ast.get_docstring(function, clean=False) is not None
    body = function.body[1:] if has_text and len(function.body) > 1 else function.body
    first = body[0]
    decorators = getattr(first, "decorator_list", [])
    start = source.start(decorators[0]) - 1 if decorators else source.start(first)
    return start, source.end(body[-1])


def _differs(code: str, tree: ast.Module) -> bool:
    try:
        return ast.dump(parse_quietly(code)) != ast.dump(tree)
    except SyntaxError:
        return False


def _plain(fault: _Fault) -> tuple[int, int, str]:
    return fault.start, fault.end, fault.text
