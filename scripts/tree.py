"""Draw the README's file tree from what the files say of themselves; a test holds the README to it.

python scripts/tree.py          print it
python scripts/tree.py --write  put it into README.md
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- tree: scripts/tree.py --write -->\n```\n", "```\n<!-- /tree -->"
_COLUMN = 30

# What cannot speak for itself. A folder whose files are listed here or speak for themselves is drawn open.
PHRASES = {
    "selfalign.py": None,
    "proto/": "the contract, text only: sandbox_server/v1/sandbox.proto",
    "sandbox_server/": "FLOOR 1",
    "sandbox_server/v1/": "FLOOR 0: generated from proto/, checked in, never edited",
    "sandbox_server/guest/": "inside the jail, standard library only; separate/ is the judge in a jail of its own",
    "sandbox_server/runtimes/": "what programs can be run with, as TOML",
    "generator/": "FLOOR 2",
    "generator/engines/": "openai, vllm, transformers, recorded: one protocol",
    "generator/prompts/": "sixteen worked examples and the stages' texts",
    "generator/recordings/": "a real model's raw answers to the demo's prompts",
    "generator/seeds/": "sources, extraction, licences, filters",
    "generator/view/": "pages on this machine over a database, and the same as one file",
    "trainer/": "FLOOR 3",
    "trainer/evaluation/": "benchmarks, pass@k, comparison, through the same sandbox",
    "migrations/": "the schema's history, for alembic",
    "recipes/": "the files that drive a run, and the demo as one line a stage",
    "examples/": "a program to try, and clients in JavaScript and Go",
    "scripts/": "set-up, code generation, recording",
    "benchmarks/": "every figure, with the command that prints it",
    "deploy/": "images, compose, Kubernetes, systemd, Prometheus and a dashboard",
    "docs/": "judging, serving, SQL, training, evaluation, scale, deployment, threat model, decisions",
    "tests/": "mirrors the packages; attacks/ and honesty/ try to break the promises",
}
OPEN = ("sandbox_server/", "generator/", "trainer/")


def phrase(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = re.split(r"(?<=[^.])\.(?:\s|$)|\n\n", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
    return first.rstrip(".:")


def lines() -> list[str]:
    """The tree, a line an entry."""
    drawn = []
    for name, text in PHRASES.items():
        path = ROOT / name
        if not path.exists():
            raise SystemExit(f"scripts/tree.py: {name} is listed and does not exist")
        depth = name.rstrip("/").count("/")
        if depth:
            continue
        drawn.append(_line(name, text if text is not None else phrase(path), 0))
        if name in OPEN:
            entries = [entry for entry in path.iterdir() if entry.suffix == ".py" and not entry.stem.startswith("__")]
            inside = {entry.name: phrase(entry) for entry in entries}
            inside |= {
                f"{Path(sub).name}/": words or "" for sub, words in PHRASES.items() if Path(sub).parent == Path(name)
            }
            drawn += [_line(entry, inside[entry], 1) for entry in sorted(inside)]
    return drawn


def _line(name: str, text: str, depth: int) -> str:
    return f"{'  ' * depth}{name}".ljust(_COLUMN) + text


def main() -> None:
    """Print the tree, or write it into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    block = "\n".join(lines()) + "\n"
    if not parser.parse_args().write:
        sys.stdout.write(block)
        return
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(before + BEGIN + block + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
