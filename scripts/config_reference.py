"""Write docs/config.md, every key of every settings file, from the classes that read them; a test compares.

python scripts/config_reference.py          print it
python scripts/config_reference.py --write  renew docs/config.md
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from generator.recipe import Recipe  # noqa: E402  # found whether or not the package is installed
from sandbox_server.config import ServerConfig  # noqa: E402
from sandbox_server.jobs import Limits, LimitsRequest  # noqa: E402
from sandbox_server.runtimes import RuntimeSettings  # noqa: E402
from trainer.config import TrainSettings  # noqa: E402
from trainer.evaluation.config import EvaluateSettings  # noqa: E402

DOCUMENT = ROOT / "docs/config.md"
HEAD = """# Settings

Every key of the three kinds of TOML file. This page is written by `python scripts/config_reference.py --write` from the
classes that read the files. Units are in the names: `_ms` milliseconds, `_s` seconds, `_bytes` bytes, `_percent` per
cent. An unknown key, a wrong type or a value out of range is refused with one line that names the file, the table and
the key.
"""
FILES: tuple[tuple[str, str, type], ...] = (
    (
        "The recipe",
        "`--recipe FILE`: what a run makes. Paths in it are relative to the folder that the command is started in.",
        Recipe,
    ),
    (
        "The sandbox server",
        "`selfalign sandbox serve --config FILE`. A key is spelled the same as a variable"
        " (`SELFALIGN_SANDBOX_DRAIN_GRACE_S`; two underscores go into a table: `SELFALIGN_SANDBOX_TLS__KEY`) and as a"
        " flag (`--set drain_grace_s=60`, `--set tls.key=...`). Flags win over variables, variables over the file.",
        ServerConfig,
    ),
    (
        "A runtime",
        "What programs are run with, one file each; `selfalign sandbox runtime build` writes them.",
        RuntimeSettings,
    ),
)
TABLES: dict[tuple[type, str], type] = {(Recipe, "train"): TrainSettings, (Recipe, "evaluate"): EvaluateSettings}
"""Tables that a higher floor reads."""
SAME_WORDS: dict[type, type] = {LimitsRequest: Limits}
"""Classes whose fields another class explains."""


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of one table."""

    name: str
    type: str
    default: str
    meaning: str


def tables(cls: type, name: str = "", default: Any = None) -> Iterator[tuple[str, type, list[Key]]]:
    """The tables that `cls` reads, its own first: dotted name, class, keys.

    Args:
        cls: a settings dataclass.
        name: of its table; empty at the top of the file.
        default: an instance whose values are the defaults, where they are not the class's own.
    """
    hints, meanings = typing.get_type_hints(cls), described(cls)
    keys: list[Key] = []
    nested: list[tuple[str, type, Any]] = []
    for field in dataclasses.fields(cls):
        hint = TABLES.get((cls, field.name), hints[field.name])
        value = _default(field) if default is None else getattr(default, field.name)
        table = next((option for option in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(option)), None)
        if isinstance(table, type):
            nested.append((f"{name}.{field.name}".lstrip("."), table, value if type(value) is table else None))
        meaning = meanings.get(field.name) or (summary(table) if isinstance(table, type) else "")
        keys.append(Key(field.name, type_name(hint), "" if table else shown(value), meaning))
    yield name, cls, keys
    for child, table, value in nested:
        yield from tables(table, child, value)


def summary(cls: type) -> str:
    """The first sentences of a class's docstring."""
    return _one_line((inspect.getdoc(cls) or "").partition("\n\n")[0])


def described(cls: type) -> dict[str, str]:
    """What the class says of its fields: the string below each, or its docstring's Args or Attributes."""
    found: dict[str, str] = {}
    for owner in reversed(SAME_WORDS.get(cls, cls).__mro__):
        if dataclasses.is_dataclass(owner):
            found |= _listed(inspect.getdoc(owner) or "") | _below(owner)
    return found


def _listed(docstring: str) -> dict[str, str]:
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)", docstring, re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section.group(1) if section else "", re.MULTILINE)
    return {name: _one_line(text) for name, text in entries}


def _below(cls: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = _one_line(str(ast.literal_eval(text.value)))
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def type_name(hint: Any) -> str:
    """A type in TOML's words."""
    origin, arguments = typing.get_origin(hint), [item for item in typing.get_args(hint) if item is not type(None)]
    if dataclasses.is_dataclass(hint) or origin is dict:
        return "table"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(item) for item in arguments)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(item)}`" for item in arguments)
    if origin is tuple:
        return f"array of {type_name(arguments[0])}"
    return {str: "string", int: "integer", float: "number", bool: "boolean", Path: "path"}[hint]


def shown(value: Any) -> str:
    """A default as it would stand in the file."""
    if value is dataclasses.MISSING:
        return "**required**"
    if value is None:
        return "none"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def document() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, text, cls in FILES:
        parts.append(f"## {title}\n\n{text}\n")
        for name, owner, keys in tables(cls):
            if name:
                parts.append(f"### [{name}]\n\n{summary(owner)}\n")
            rows = (f"| `{key.name}` | {key.type} | {key.default} | {key.meaning} |" for key in keys)
            parts.append("\n".join(("| key | type | default | meaning |", "|---|---|---|---|", *rows)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        DOCUMENT.write_text(document(), encoding="utf-8")
    else:
        print(document(), end="")
