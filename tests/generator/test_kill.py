"""Builds that are killed at any moment, over real HTTP and a real database; only the sandbox is a stand-in."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator import models
from generator.store import Database
from tests.generator.model_server import ModelServer, serve_model
from tests.generator.rules import RECIPE, write_seeds

CONCURRENCY = 4
SCRIPT = """
import asyncio, sys
from pathlib import Path
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import load_recipe
from generator.store import open_database
from tests.fakes import FakeSandbox

recipe = load_recipe(Path(sys.argv[1]))
asyncio.run(build(recipe, open_database(recipe.database.url, create=True), Silent(), sandbox=FakeSandbox()))
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder / "small.toml")], cwd=root)


def write(folder: Path, url: str, server: ModelServer, seeds: int) -> None:
    write_seeds(folder, [f"add_{number}" for number in range(seeds)])
    text = RECIPE.format(folder=folder, url=url).replace(
        'engine = "openai"', f'engine = "openai"\nbase_url = "{server.url}"'
    )
    (folder / "small.toml").write_text(text)


def wait_for_calls(server: ModelServer, calls: int, process: subprocess.Popen[bytes]) -> None:
    """Until the model was called so often."""
    while len(server.calls) < calls:
        assert process.poll() is None, "the build ended early"
        time.sleep(0.005)


def stored(database: Database) -> set[str]:
    with database.reading() as session:
        return {
            id
            for table in (models.Concepts, models.Instruction, models.Response)
            for id in session.scalars(sa.select(table.id))
        }


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_loses_no_finished_row(tmp_path: Path, url: str, database: Database, kills: int) -> None:
    """Calls are at most what was wanted and, for each kill, what was in flight; and no row is there twice."""
    chance = random.Random(kills)
    seeds = 3 * kills
    wanted = seeds * 5
    with serve_model(delay_s=0.02) as server:
        write(tmp_path, url, server, seeds)
        kept: set[str] = set()
        for _ in range(kills):
            process = start(tmp_path)
            answered = len(server.calls)
            deadline = time.monotonic() + 60
            while len(server.calls) == answered and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.25))
            process.send_signal(signal.SIGKILL)
            process.wait()
            now = stored(database)
            assert kept <= now
            kept = now
        assert start(tmp_path).wait() == 0
        calls = list(server.calls)

    assert len(stored(database)) == wanted
    assert wanted <= len(calls) <= wanted + kills * CONCURRENCY
    with database.reading() as session:
        assert session.scalar(sa.select(models.Dataset.size)) == seeds


def test_ctrl_c_stores_what_is_finished(tmp_path: Path, url: str, database: Database) -> None:
    with serve_model(delay_s=0.02) as server:
        write(tmp_path, url, server, 40)
        process = start(tmp_path)
        wait_for_calls(server, 10, process)
        process.send_signal(signal.SIGINT)
        process.wait()
        answered = set(server.calls)
        finished = stored(database)

    assert finished <= answered
    assert len(answered - finished) <= CONCURRENCY
