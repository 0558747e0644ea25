"""The documentation as a site, and the tutorial as it is read."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs/tutorial.md"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs-material is not installed")
def test_the_site_is_built_without_a_warning() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/docs_site.py"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "build/site/index.html" in done.stdout
    commands = (ROOT / "build/site/reference/commands.html").read_text(encoding="utf-8")
    assert "selfalign sandbox serve" in commands


needs_the_demo = pytest.mark.skipif(
    not (ROOT / ".selfalign/seeds").exists(), reason="the demo's seeds are not installed: make setup-test"
)


def follow(pages: list[Path], folder: Path, port: str = "50061") -> int:
    """Run the shell blocks of `pages` as one script in `folder`, and look for what they show of its output.

    Returns:
        How many blocks there were.
    """
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("50061", port)
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    shown = re.findall(r"^```text\n(.*?)^```", text, re.M | re.S)
    for name in ("recipes", "examples", ".selfalign"):
        (folder / name).symlink_to(ROOT / name)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(["trap 'kill $(jobs -p) 2> /dev/null || true' EXIT", *blocks])],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    printed = " ".join((done.stdout + done.stderr).split())
    for line in "".join(shown).splitlines():
        for part in line.split("..."):
            assert " ".join(part.split()) in printed, part
    return len(blocks)


@pytest.mark.slow
@pytest.mark.nsjail
@needs_the_demo
def test_every_command_of_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    """Its shell blocks are run as one script, and what it shows of their output is there."""
    assert follow([TUTORIAL], tmp_path) > 5


@pytest.mark.slow
@pytest.mark.nsjail
@needs_the_demo
def test_every_users_first_page_does_what_it_says(tmp_path: Path) -> None:
    """All four, one after the other, on one database: each begins after `make demo`."""
    (tmp_path / "runs").mkdir()
    build = tmp_path / "build.md"
    build.write_text("```sh\nselfalign build\n```\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    pages = [ROOT / "docs/how-to" / f"{name}.md" for name in ("laptop", "sql", "one-gpu", "untrusted-code")]

    assert follow([build, *pages], tmp_path, port) > 10
