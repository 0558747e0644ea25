"""Documents that would rot if nothing held them to the code."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import selfalign

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group, prefix: tuple[str, ...] = ("selfalign",)) -> list[tuple[str, ...]]:
    """Every command that does something, groups that only hold others left out."""
    found = []
    for name, command in group.commands.items():
        path = (*prefix, name)
        if isinstance(command, click.Group):
            found += commands(command, path)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found.append(path)
    return found


def test_the_readme_shows_the_tree_that_is_there() -> None:
    """`scripts/tree.py --write` was run after the last file came, went or changed its first sentence."""
    tree = subprocess.run([sys.executable, "scripts/tree.py"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert tree.stdout in README


def test_every_command_the_readme_shows_exists() -> None:
    """What a reader copies from the README is a command with options of those names."""
    known = {" ".join(path): path for path in commands(selfalign.main)}
    shown = re.findall(
        r"^(selfalign [a-z]+(?: [a-z]+)?)([^\n#]*)",
        "\n".join(re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)),
        flags=re.MULTILINE,
    )

    assert shown
    for name, rest in shown:
        path = known.get(name) or known.get(" ".join(name.split()[:2]))
        assert path, f"the README shows {name!r}, which is no command"
        command: click.Command = selfalign.main
        for part in path[1:]:
            assert isinstance(command, click.Group)
            command = command.commands[part]
        options = {option for parameter in command.params for option in parameter.opts}
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in options, f"{name} has no {option}"


@pytest.mark.parametrize("path", commands(selfalign.main), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    """Each command has a help text, and so has each of its options."""
    command: click.Command = selfalign.main
    for part in path[1:]:
        assert isinstance(command, click.Group)
        command = command.commands[part]

    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(path)} {parameter.opts[0]} has no help"


DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]


@pytest.mark.parametrize("document", sorted(DOCUMENTS), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    """A relative link names a file that is there."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.relative_to(ROOT)} links to {target}"


def test_every_extra_that_is_named_exists() -> None:
    """Where something is missing the error says `pip install 'selfalign[EXTRA]'`, and so do documents."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    files += [file for package in ("sandbox_server", "generator", "trainer") for file in (ROOT / package).rglob("*.py")]
    named = {
        name
        for file in files
        for names in re.findall(r"selfalign\[([\w,-]+)\]", file.read_text(encoding="utf-8"))
        for name in names.split(",")
    }

    assert {"parquet", "postgres", "train"} <= named <= set(extras)


def test_the_settings_reference_is_that_of_the_classes() -> None:
    """`python scripts/config_reference.py --write` was run after the last key came, went or changed."""
    printed = subprocess.run(
        [sys.executable, "scripts/config_reference.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert printed == (ROOT / "docs/config.md").read_text(encoding="utf-8")


def test_every_setting_is_explained() -> None:
    """Each row of the settings reference has a key, a type and a meaning; the three files' tables are all there."""
    text = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in text.splitlines() if line[:3] == "| `"]

    assert len(rows) > 120
    assert [cells[0] for cells in rows if len(cells) != 4 or not (cells[1] and cells[3])] == []
    assert {"### [seeds]", "### [train.model]", "### [evaluate]", "### [tls]"} <= set(text.splitlines())
