"""What a build says while it runs, in a terminal and elsewhere, and what another shell sees of it meanwhile."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from generator.status import status
from generator.store import open_database
from tests.generator.model_server import ModelServer, serve_model
from tests.generator.rules import RECIPE, write_seeds

ROOT = Path(__file__).parents[2]
SEEDS = ["add_all", "collect", "gather", "measure", "total"]
TOTALS = {"concepts": 5, "instructions": 5, "responses": 15}
BEFORE_THE_GATE = 14
"""Answers that the model gives before it makes the build wait; some are of responses."""

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serve_model() as server:
        server.answers = BEFORE_THE_GATE
        yield server


@pytest.fixture
def recipe(tmp_path: Path, server: ModelServer) -> Path:
    write_seeds(tmp_path, SEEDS)
    text = RECIPE.format(folder=tmp_path, url=f"sqlite:///{tmp_path}/small.db")
    path = tmp_path / "small.toml"
    path.write_text(text.replace('engine = "openai"', f'engine = "openai"\nbase_url = "{server.url}"'))
    return path


@contextmanager
def building(recipe: Path, **streams: int) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which is ended with the block."""
    command = [sys.executable, "-m", "selfalign", "build", "--recipe", str(recipe)]
    unsaid = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    environment = {name: value for name, value in os.environ.items() if name not in unsaid}
    environment |= {"TERM": "xterm-256color"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, **streams) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def drawn(recipe: Path) -> dict[str, int]:
    """Rows by stage, as the database has them."""
    database = open_database(f"sqlite:///{recipe.parent}/small.db")
    try:
        (pipeline,) = status(database, None)["pipelines"].values()
    finally:
        database.close()
    rows = {step["stage"]: step["rows"] for step in pipeline["funnel"]}
    return {stage: rows[f"{stage} drawn"] for stage in TOTALS}


def wait_until(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Ask again and again, as long as the build is there."""
    never = threading.Event()
    while not happened():
        assert process.poll() is None, f"the build ended early: {process.returncode}"
        never.wait(0.02)


def stored_before_the_gate(process: subprocess.Popen[str], recipe: Path, server: ModelServer) -> dict[str, int]:
    """Wait until all that was answered is stored: rows by stage."""
    wait_until(process, lambda: len(server.calls) == BEFORE_THE_GATE)
    wait_until(process, lambda: sum(drawn(recipe).values()) == BEFORE_THE_GATE)
    return drawn(recipe)


class Screen:
    """What a build writes on a terminal, read as it comes."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self._seen = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """All of it so far."""
        return bytes(self._seen).decode(errors="replace")

    def shows(self, stage: str, rows: int, total: int) -> bool:
        """Whether the stage's bar has stood at `rows` of `total`."""
        plain = ESCAPE.sub("", self.text())
        return re.search(rf"^\s*{stage}\s[^\n]*?\b{rows}/{total}\b", plain.replace("\r", "\n"), flags=re.M) is not None

    def close(self) -> None:
        """Read the rest; the build must have ended."""
        os.close(self.slave)
        self._reader.join()
        os.close(self._master)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # nobody holds the other side any more
                return
            if not data:
                return
            self._seen += data


@pytest.mark.nsjail
def test_in_a_terminal_bars_stand_where_status_in_another_shell_says(recipe: Path, server: ModelServer) -> None:
    screen = Screen()
    with building(recipe, stderr=screen.slave, stdin=screen.slave) as process:
        rows = stored_before_the_gate(process, recipe, server)
        another_shell = [sys.executable, "-m", "selfalign", "status", "--recipe", str(recipe), "--json"]
        told = json.loads(subprocess.run(another_shell, capture_output=True, check=True, cwd=ROOT).stdout)
        for stage, count in rows.items():
            if count:
                wait_until(process, lambda stage=stage, count=count: screen.shows(stage, count, TOTALS[stage]))  # type: ignore[misc]
        server.gate.set()
        summary, _ = process.communicate()
    screen.close()

    assert process.returncode == 0, screen.text()
    funnel = {step["stage"]: step["rows"] for step in told["pipelines"]["small"]["funnel"]}
    assert {stage: funnel[f"{stage} drawn"] for stage in TOTALS} == rows
    assert funnel["pairs accepted"] == 0
    for stage, total in TOTALS.items():
        assert screen.shows(stage, total, total)
    assert "\x1b[" in screen.text()
    assert summary == "25 completions drawn, 15 programs run; data set small v1 holds 5 pairs\n"


@pytest.mark.nsjail
def test_elsewhere_it_says_plain_lines_as_they_come(recipe: Path, server: ModelServer) -> None:
    with building(recipe, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line == "concepts: 5 to do\n":  # said before the model has answered all
                server.gate.set()
        summary = process.stdout.read() if process.stdout else ""
        process.wait()

    assert process.returncode == 0, lines
    assert all(re.fullmatch(r"[a-z ]+: [^\x1b\r]+\n", line) for line in lines), lines
    begun = [line.partition(":")[0] for line in lines if line.endswith(("to do\n", "started\n"))]
    assert set(TOTALS) <= set(begun)
    for stage, total in TOTALS.items():
        assert any(re.match(rf"{stage}: {total} drawn, {total} usable", line) for line in lines), lines
    assert summary == "25 completions drawn, 15 programs run; data set small v1 holds 5 pairs\n"
