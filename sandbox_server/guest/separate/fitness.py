"""Which tests cannot be judged separately, seen from their text before anything runs.

The tests and the program share values, and nothing else: neither files nor environment, threads, clocks that are
patched, nor the state of modules. Tests that reach for these are refused, with the reason, and not judged wrongly.
"""

from __future__ import annotations

import ast
import builtins

_UNSHARED_MODULES = {
    name: what
    for what, names in {
        "files and processes": "os tempfile pathlib shutil glob fileinput subprocess sqlite3 shelve dbm",
        "the interpreter's own state": "mock unittest.mock builtins importlib gc ctypes weakref inspect pickle marshal "
        "dis tracemalloc atexit",
        "threads, processes or connections": "threading multiprocessing concurrent socket signal queue selectors",
        "the program's log and warnings": "logging warnings",
    }.items()
    for name in names.split()
}
_UNSHARED_CALLS = {
    "open": "files", "id": "addresses", "globals": "the program's namespace", "locals": "the program's namespace",
    "vars": "the program's objects",
}  # fmt: skip
_UNSHARED_ATTRIBUTES = {
    ("sys", "stdin"): "standard input", ("sys", "argv"): "arguments", ("sys", "modules"): "the interpreter's own state",
    ("sys", "getrefcount"): "reference counts", ("sys", "getsizeof"): "sizes of objects", ("sys", "path"): "paths",
    ("sys", "setrecursionlimit"): "the interpreter's own state", ("sys", "settrace"): "the interpreter's own state",
    ("io", "open"): "files",
}  # fmt: skip
_UNSHARED_METHODS = frozenset({"assertLogs", "assertNoLogs", "assertWarns", "assertWarnsRegex"})


_TELLING = frozenset({
    ast.Import, ast.ImportFrom, ast.Global, ast.Name, ast.arg, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef,
    ast.ExceptHandler, ast.Attribute, ast.Call,
})  # fmt: skip
_PROGRAM = frozenset({"solution", "__main__"})
_INDIRECTLY = frozenset({"eval", "exec", "getattr", "__import__"})
_SILENT = frozenset({ast.Constant, ast.Load, ast.Store, ast.Del, str, int, type(None)})


class Fitness:
    """What the text of tests tells.

    Attributes:
        reason: why they cannot be judged separately, or empty.
        named: names that they speak of, as names or attributes.
        classes: those among them that they expect to be classes of the program's, going by how classes are called and
            where they come from: a class in a function's place would answer for the value that the function owes, and
            so would one of the program's that is called as one that the tests import or define.
        bound: names that they bind at their top level.
        free: names that they use and do not bind themselves.
        rebound: global names that functions of theirs rebind.
        seeds: they seed `random`.
        roundabout: they may reach the program otherwise than by the names that they use.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.reason = ""
        self.named: set[str] = set()
        self.bound: set[str] = set()
        self.free: set[str] = set()
        self.rebound: set[str] = set()
        self.seeds = False
        self._modules: set[str] = set()
        self._attributes: set[tuple[str, str]] = set()  # with the name that they are looked up from
        self._from_program: set[str] = set()
        self._from_elsewhere: set[str] = set()
        bound_anywhere: set[str] = set()
        for statement in tree.body:
            self._bind(statement)
        # As ast.walk, level by level, but past the thousands of literals that some tests hold.
        nodes: list[ast.AST] = [tree]
        for node in nodes:
            if type(node) in _TELLING:
                self._look(node, bound_anywhere)
            for field in node._fields:
                part = getattr(node, field, None)
                if type(part) is list:
                    nodes += [inner for inner in part if type(inner) not in _SILENT]
                elif isinstance(part, ast.AST) and type(part) not in _SILENT:
                    nodes.append(part)
        mentioned = self.named - bound_anywhere | self._from_program
        mentioned |= {name for base, name in self._attributes if base not in self._from_elsewhere}
        self.classes = {name for name in mentioned if name.lstrip("_")[:1].isupper() and not hasattr(builtins, name)}
        self.named.update(name for _, name in self._attributes)
        self.free = {name for name in self.named if name not in self.bound and name not in bound_anywhere}
        self.roundabout = bool(self._from_program or "check" in self.bound or self.named & _INDIRECTLY)
        if self._modules >= {"asyncio", "time"}:
            self._refuse("the time that concurrent tasks take")

    def _refuse(self, what: str) -> None:
        if not self.reason:
            self.reason = f"the tests use {what}, which judge and program do not share"

    def _look(self, node: ast.AST, bound: set[str]) -> None:
        match node:  # the most frequent ones first
            case ast.Name(name, context):
                (self.named if type(context) is ast.Load else bound).add(name)
            case ast.Call(called):
                if type(called) is ast.Name and called.id in _UNSHARED_CALLS and called.id not in self.bound:
                    self._refuse(_UNSHARED_CALLS[called.id])
            case ast.Attribute(value, attribute, context):
                while isinstance(value, ast.Attribute):
                    value = value.value
                base = value.id if isinstance(value, ast.Name) else ""
                self._attributes.add((base, attribute))
                if value is node.value:
                    self._look_at_attribute(base, attribute, context)
                if attribute in _UNSHARED_METHODS:
                    self._refuse("the program's log and warnings")
            case ast.arg(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.Import(aliases):
                for alias in aliases:
                    self._imported(alias.name)
                    name = (alias.asname or alias.name).partition(".")[0]
                    bound.add(name)
                    (self._from_program if alias.name in _PROGRAM else self._from_elsewhere).add(name)
            case ast.ImportFrom(module, aliases):
                for alias in aliases:
                    bound.add(alias.asname or alias.name)
                    self.named.add(alias.name)
                    (self._from_program if module in _PROGRAM else self._from_elsewhere).add(alias.name)
                    whole = f"{module}.{alias.name}"
                    self._imported(whole if whole in _UNSHARED_MODULES else module or "")
            case ast.Global(names):
                self.rebound.update(names)
            case _:
                pass

    def _look_at_attribute(self, base: str, attribute: str, context: ast.expr_context) -> None:
        if (base, attribute) in _UNSHARED_ATTRIBUTES:
            self._refuse(_UNSHARED_ATTRIBUTES[base, attribute])
        if base == "random" and attribute in ("seed", "setstate"):
            self.seeds = True
        if base in self._modules and base not in ("sys", "solution") and type(context) is not ast.Load:
            self._refuse(f"a patched {base}.{attribute}")

    def _imported(self, module: str) -> None:
        self._modules.add(module)
        for name in (module, module.partition(".")[0]):
            if name in _UNSHARED_MODULES:
                self._refuse(f"{module} ({_UNSHARED_MODULES[name]})")

    def _bind(self, statement: ast.stmt) -> None:
        """Collect what a top-level statement binds, the blocks below `if`, `for`, `try` and `with` included."""
        match statement:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                self.bound.add(name)
                return
            case ast.Import(aliases) | ast.ImportFrom(_, aliases):
                self.bound |= {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
                return
            case _:
                pass
        for node in ast.iter_child_nodes(statement):
            if isinstance(node, ast.stmt):
                self._bind(node)
            else:
                for part in ast.walk(node):
                    if isinstance(part, ast.stmt):
                        self._bind(part)
                    elif isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
                        self.bound.add(part.id)


def shadowed(fitness: Fitness, defined: set[str], entry_point: str) -> tuple[set[str], str]:
    """Which built-in names of the tests mean the program's own definition.

    A program may define `sum` because it was asked to, and may define `abs` so that the tests measure with it. The
    function under test is the program's; so is a built-in name when it is the only one that can be under test.

    Returns:
        The names, and the reason why that cannot be told, or "".
    """
    candidates = {name for name in fitness.free if name in defined and hasattr(builtins, name)}
    others = {name for name in fitness.free if name in defined and not hasattr(builtins, name)}
    if entry_point:
        return {entry_point} & defined, ""
    if errors := {
        name
        for name in candidates
        if isinstance(kind := getattr(builtins, name), type) and issubclass(kind, BaseException)
    }:
        return set(), f"the program redefines {min(errors)}, and the tests do not tell which they expect"
    if others or not candidates:
        return set(), ""
    if len(candidates) == 1 and not fitness.roundabout:
        return candidates, ""
    return set(), f"the program redefines {', '.join(sorted(candidates))}, and the tests do not tell which they test"


def definition(text: str, name: str) -> str:
    """The last function of this name at the top level of a text, laid out in one way; empty if there is none."""
    for statement in reversed(ast.parse(text).body):
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return ast.unparse(statement)
    return ""
