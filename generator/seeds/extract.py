"""Functions with docstrings out of Python source, each made to stand alone with the imports that it uses."""

from __future__ import annotations

import ast
import builtins
import symtable
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}


KNOWN_MODULES: dict[str, str] = {
    **{
        name: f"import {name}"
        for name in (
            *(
                "base64",
                "bisect",
                "calendar",
                "collections",
                "copy",
                "csv",
                "datetime",
                "decimal",
                "difflib",
                "fractions",
            ),
            *(
                "functools",
                "hashlib",
                "heapq",
                "html",
                "itertools",
                "json",
                "math",
                "operator",
                "random",
                "re",
                "secrets",
            ),
            *("statistics", "string", "struct", "textwrap", "time", "types", "typing", "unicodedata", "uuid", "zlib"),
        )
    },
    "np": "import numpy as np",
    "numpy": "import numpy",
    "pd": "import pandas as pd",
    "pandas": "import pandas",
}
"""Modules that everybody calls by these names: what stands before a dot and is defined nowhere is meant to be one."""

KNOWN_NAMES: dict[str, str] = {
    name: f"from {module} import {name}"
    for module, names in {
        "collections": ("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple"),
        "dataclasses": ("dataclass",),
        "functools": ("lru_cache", "partial", "reduce", "wraps"),
        "typing": (
            *("Any", "Callable", "Dict", "Generator", "Iterable", "Iterator", "List", "Mapping", "Optional"),
            *("Sequence", "Set", "Tuple", "TypeVar", "Union"),
        ),
    }.items()
    for name in names
}
"""Names that mean one thing wherever they are defined nowhere."""


@dataclass(frozen=True, slots=True)
class Function:
    """One top-level function. `line` is that of its first line in the file, decorators included."""

    name: str
    code: str
    docstring: str
    line: int


def parse_quietly(code: str) -> ast.Module:
    """`ast.parse` without the warnings that other people's code raises.

    Raises:
        SyntaxError: also for null bytes and for code nested too deeply.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error)) from error


def functions(source: str, *, infer_imports: bool = False) -> Iterator[Function]:
    """Find the top-level functions that have a docstring.

    The module's own imports that a function uses are put in front of its code.

    Args:
        source: of a module.
        infer_imports: whether to put in front also what a function uses by a well-known name and its module, which may
            be cut off above it, neither imports nor defines.

    Raises:
        SyntaxError: the source is not Python of this version.
    """
    module = parse_quietly(source)
    lines = source.split("\n")  # as the parser counts them; splitlines() would also split at form feeds
    imports = _imports(module)
    unknown = _unknown_names(module, source) if infer_imports else frozenset()
    for node in module.body:
        if not isinstance(node, FunctionNode):
            continue
        docstring = ast.get_docstring(node)
        if not docstring:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        code = "\n".join(lines[first - 1 : node.end_lineno]).rstrip()
        used = global_names(code)
        header = dict.fromkeys(statement for name, statement in imports.items() if name in used)
        if unknown:
            header |= dict.fromkeys(_inferred(node, used & unknown))
        yield Function(node.name, "\n".join([*header, *(["", ""] if header else []), code]), docstring, first)


@lru_cache(maxsize=8)  # every filter asks, one after the other
def parsed(code: str) -> ast.Module:
    """As `parse_quietly`; the tree is shared, so look and do not touch."""
    return parse_quietly(code)


def function_of(code: str) -> FunctionNode:
    """The function that a seed's code defines, after its imports."""
    return next(node for node in parsed(code).body if isinstance(node, FunctionNode))


def global_names(code: str) -> frozenset[str]:
    """Names that the code reads from its module, builtins left out. Its own definitions are among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = symtable.symtable(code, "seed", "exec")
    return frozenset(_reads(table)) - _BUILTINS


def undefined_names(code: str) -> frozenset[str]:
    """Names that the code reads and that neither it nor Python defines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = symtable.symtable(code, "seed", "exec")
    defined = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    return global_names(code) - defined


def _reads(table: symtable.SymbolTable) -> Iterator[str]:
    is_module = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (is_module or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _reads(child)


def _unknown_names(module: ast.Module, source: str) -> frozenset[str]:
    """Names that a module surely does not define; after `import *` no name is sure."""
    names = undefined_names(source)
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            return frozenset()
        if isinstance(node, ast.Global):
            names -= frozenset(node.names)
    return names


def _inferred(function: FunctionNode, names: frozenset[str]) -> Iterator[str]:
    """Imports of the names among these that are well known, and used as what they are known for."""
    nodes = list(ast.walk(function))
    read = {node.id for node in nodes if isinstance(node, ast.Name)}
    dotted = [node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    for name in sorted(names & read):
        uses = sum(isinstance(node, ast.Name) and node.id == name for node in nodes)
        if name in KNOWN_MODULES and dotted.count(name) == uses:
            yield KNOWN_MODULES[name]
        elif name in KNOWN_NAMES:
            yield KNOWN_NAMES[name]


def _imports(module: ast.Module) -> dict[str, str]:
    """Names that the module imports, with a statement for each; the first one of a name counts."""
    found: dict[str, str] = {}
    for node in _module_level(module.body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.asname or alias.name.split(".")[0], ast.unparse(ast.Import([alias])))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                statement = ast.unparse(ast.ImportFrom(node.module, [alias], node.level))
                found.setdefault(alias.asname or alias.name, statement)
    return found


def _module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _module_level(node.body)
