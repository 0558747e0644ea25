"""Build the documentation as a site, with every warning an error: build/site/index.html.

python scripts/docs_site.py

The site's pages lie as they do in the repository, so that links are the same in both; README.md is the first page. The
reference is made from the code: the commands' help, the wire contract, the recipes; docs/config.md and the tables in
docs/sql.md are checked in, and tests hold them to the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

import selfalign

ROOT = Path(__file__).resolve().parent.parent
SOURCE, SITE = ROOT / "build/site-source", ROOT / "build/site"
COPIED = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "docs", "examples", "proto", "recipes")
COPIED += ("benchmarks", "deploy", "tests/attacks")
CONFIG = """
site_name: selfalign
docs_dir: site-source
site_dir: site
use_directory_urls: false
theme:
  name: material
  font: false
  features: [navigation.sections, navigation.top, content.code.copy]
  palette:
    - {media: "(prefers-color-scheme: light)", scheme: default, primary: indigo}
    - {media: "(prefers-color-scheme: dark)", scheme: slate, primary: indigo}
plugins: [search]
markdown_extensions:
  - tables
  - toc: {permalink: true}
  - pymdownx.highlight
  - pymdownx.superfences
validation:
  omitted_files: info
  absolute_links: warn
  unrecognized_links: warn
  anchors: warn
nav:
  - Start: README.md
  - For users:
"""
FIRST = (
    ("I have a laptop and ten minutes", "how-to/laptop.md"),
    ("I have one GPU and a base model", "how-to/one-gpu.md"),
    ("I run untrusted code at scale", "how-to/untrusted-code.md"),
    ("I live in SQL", "how-to/sql.md"),
)
"""Where each kind of user begins."""
GUIDES = (
    ("Tutorial: from zero", "tutorial.md"),
    ("Selecting data", "selection.md"),
    ("Training", "training.md"),
    ("Scores", "evaluation.md"),
    ("Serving the sandbox", "serving.md"),
    ("Clients", "clients.md"),
    ("The database in SQL", "sql.md"),
    ("Looking at the data", "viewing.md"),
)
"""Where they go on."""
REFERENCE = "config.md"
"""Written by scripts/config_reference.py."""


def main() -> None:
    """Gather, generate, build."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for name in COPIED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, SOURCE / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            SOURCE.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, SOURCE / name)
    reference = SOURCE / "reference"
    reference.mkdir()
    pages = {"Commands": commands(), "Wire contract": contract(), "Recipes": recipes()}
    for title, text in pages.items():
        (reference / f"{_slug(title)}.md").write_text(f"# {title}\n\n{text}", encoding="utf-8")
    config = SOURCE.parent / "mkdocs.yml"
    config.write_text(CONFIG + navigation(list(pages)), encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--clean", "--config-file", str(config)]
    done = subprocess.run(command, cwd=ROOT, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    if done.returncode:
        raise SystemExit(done.returncode)
    print(f"{SITE.relative_to(ROOT)}/index.html: {len(list(SITE.rglob('*.html')))} pages")


def navigation(reference: list[str]) -> str:
    """Every page once: users' first pages, guides, the rest of docs/, the reference, the decisions."""
    first, guides = ([f"      - '{title}': docs/{name}" for title, name in part] for part in (FIRST, GUIDES))
    named = {name for _, name in GUIDES} | {REFERENCE}
    others = [path for path in sorted((SOURCE / "docs").glob("*.md")) if path.name not in named]
    lines = [*first, "  - Guides:", *guides, "  - More:", *(f"      - docs/{path.name}" for path in others)]
    lines += [
        "  - Reference:",
        f"      - docs/{REFERENCE}",
        *(f"      - reference/{_slug(title)}.md" for title in reference),
    ]
    lines += ["  - Decisions:", "      - docs/decisions/README.md"]
    decisions = sorted((SOURCE / "docs/decisions").glob("0*.md"))
    lines += [f"      - docs/decisions/{path.name}" for path in decisions]
    rest = ["benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/attacks/README.md"]
    lines += ["  - Project:", *(f"      - {name}" for name in rest if (SOURCE / name).exists())]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The help of every command."""
    parts = []

    def tell(command: click.Command, path: str, parent: click.Context | None) -> None:
        context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent, terminal_width=100)
        parts.append(f"## {path}\n\n```text\n{command.get_help(context)}\n```\n")
        if isinstance(command, click.Group):
            for name, child in sorted(command.commands.items()):
                if not child.hidden:
                    tell(child, f"{path} {name}", context)

    tell(selfalign.main, "selfalign", None)
    return "\n".join(parts)


def contract() -> str:
    """The proto file."""
    text = (ROOT / "proto/sandbox_server/v1/sandbox.proto").read_text(encoding="utf-8")
    return f"Package `sandbox_server.v1`; reflection is on.\n\n```protobuf\n{text}```\n"


def recipes() -> str:
    """The recipes that come along."""
    paths = sorted((ROOT / "recipes").glob("*.toml"))
    return "\n".join(f"## {path.name}\n\n```toml\n{path.read_text(encoding='utf-8')}```\n" for path in paths)


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


if __name__ == "__main__":
    main()
