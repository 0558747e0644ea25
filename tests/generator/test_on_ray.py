"""Builds on a real Ray cluster of two nodes, over real HTTP and gRPC; only the model and the sandbox are stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from generator import models, on_ray
from generator.engines import EngineUnavailable
from generator.on_ray import build_on_ray
from generator.pipeline import Report, build
from generator.progress import Silent
from generator.recipe import Recipe, load_recipe
from generator.store import Database, open_database
from sandbox_server.settings import SettingsError
from tests.generator.conftest import SQLITE_ONLY
from tests.generator.model_server import ModelServer, serve_model
from tests.generator.rules import RECIPE, write_seeds

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")

ROOT = Path(__file__).parents[2]
CONCURRENCY = 4
CPU = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
SANDBOX = """
import asyncio, sys
from sandbox_server.config import ServerConfig
from sandbox_server.server import serving
from tests.fakes import FakeSandbox

async def main():
    async with serving(FakeSandbox(), ServerConfig(address=sys.argv[1])):
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node of one CPU, which this process has joined."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))  # of the workers
        cluster = Cluster(initialize_head=True, head_node_args={**CPU, "include_dashboard": False})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose sandbox passes everything."""
    address = f"unix:{tmp_path_factory.mktemp('sandbox')}/socket"
    process = subprocess.Popen([sys.executable, "-c", SANDBOX, address], cwd=ROOT)
    yield address
    process.kill()
    process.wait()


def small(folder: Path, url: str, server: ModelServer, sandbox: str, seeds: int = 20) -> Recipe:
    write_seeds(folder, [f"add_{number}" for number in range(seeds)])
    engine = f'engine = "openai"\nbase_url = "{server.url}"'
    text = RECIPE.format(folder=folder, url=url).replace('engine = "openai"', engine)
    (folder / "small.toml").write_text(f'{text}\n[sandbox]\naddress = "{sandbox}"\n')
    return load_recipe(folder / "small.toml")


class Building(threading.Thread):
    """A build in a thread, so that the test can disturb it."""

    def __init__(self, recipe: Recipe, database: Database, workers: int) -> None:
        super().__init__()
        self._arguments = recipe, database, workers
        self.report: Report | None = None
        self.start()

    def run(self) -> None:
        recipe, database, workers = self._arguments
        self.report = build_on_ray(recipe, database, Silent(), workers=workers)


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row that the stages and the selection make, without what differs from run to run."""
    found = {}
    tables = (models.Concepts, models.Instruction, models.Response, models.Execution, models.Judgement)
    for table in (*tables, models.Dataset, models.DatasetItem):
        columns = [column for column in table.__table__.columns if column.name not in ("created_at", "name")]
        with database.reading() as session:
            found[table.__tablename__] = sorted(map(repr, session.execute(sa.select(*columns))))
    return found


def left(database: Database) -> list[str]:
    with database.reading() as session:
        return [*session.scalars(sa.select(models.Lease.key)), *session.scalars(sa.select(models.Worker.id))]


@contextlib.contextmanager
def undisturbed(folder: Path, server: ModelServer, sandbox: str) -> Iterator[Database]:
    """What one process on SQLite makes of the same recipe."""
    recipe = small(folder, f"sqlite:///{folder}/undisturbed.db", server, sandbox)
    database = open_database(recipe.database.url, create=True)
    asyncio.run(build(recipe, database, Silent()))
    yield database
    database.close()


def test_a_node_that_is_killed_mid_build_costs_no_row_and_doubles_none(
    cluster: Any, sandbox: str, tmp_path: Path, url: str, database: Database
) -> None:
    """The second node dies with its worker; one CPU is left, so the other worker does the rest."""
    node = cluster.add_node(**CPU)
    with serve_model(delay_s=2) as server:  # slow until both workers are there
        building = Building(small(tmp_path, url, server, sandbox), database, workers=2)
        while len(at_work(database)) < 2:
            assert building.is_alive()
            time.sleep(0.05)
        kill_node(cluster, node, database)
        server.delay_s = 0
        building.join()
        calls = list(server.calls)
        with undisturbed(tmp_path, server, sandbox) as expected:
            assert everything(database) == everything(expected)

    assert building.report is not None
    assert building.report.workers_lost >= 1  # Ray may have sent the next one to the node before it knew
    assert building.report.drawn == {"concepts": 20, "instructions": 20, "responses": 60}
    assert len(calls) - len(set(calls)) <= CONCURRENCY  # what the lost worker had in flight
    assert left(database) == []


def kill_node(cluster: Any, node: Any, database: Database) -> None:
    """End a node with all its processes at once, as a machine that loses its power does."""
    raylet = node.all_processes["raylet"][0].process.pid
    with database.reading() as session:
        pids = list(session.scalars(sa.select(models.Worker.pid)))
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids}
    (worker,) = (pid for pid, parent in parents.items() if parent == raylet)
    os.kill(worker, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def count(database: Database, table: type[models.Base]) -> int:
    with database.reading() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def at_work(database: Database) -> set[str]:
    """The workers that hold leases."""
    with database.reading() as session:
        return set(session.scalars(sa.select(models.Lease.worker_id).distinct()))


@SQLITE_ONLY
def test_a_worker_that_is_killed_is_replaced_and_the_next_runs_programs_while_it_draws(
    cluster: Any, sandbox: str, tmp_path: Path, url: str, database: Database
) -> None:
    with serve_model(delay_s=0.5) as server:
        building = Building(small(tmp_path, url, server, sandbox), database, workers=1)
        while len(server.calls) < 10:
            assert building.is_alive()
            time.sleep(0.01)
        with database.reading() as session:
            os.kill(session.scalars(sa.select(models.Worker.pid)).one(), signal.SIGKILL)
        server.answers, server.delay_s = 60, 0  # 20 concepts, 20 instructions, about 20 of 60 responses
        while not count(database, models.Execution):  # programs run while responses are drawn
            assert building.is_alive()
            time.sleep(0.01)
        assert 0 < count(database, models.Response) < 60
        server.gate.set()
        building.join()
        calls = list(server.calls)

        assert building.report is not None
        assert building.report.workers_lost >= 1
        assert building.report.snapshot is not None
        assert building.report.snapshot.size == 20
        assert len(set(calls)) == 100
        assert len(calls) <= 100 + CONCURRENCY


@SQLITE_ONLY
def test_the_command_joins_a_cluster_by_its_address(cluster: Any, sandbox: str, tmp_path: Path, url: str) -> None:
    command = [sys.executable, "-m", "selfalign", "build", "--recipe", str(tmp_path / "small.toml"), "--json"]
    command += ["--executor", "ray", "--workers", "1", "--address"]
    with serve_model() as server:
        small(tmp_path, url, server, sandbox, seeds=2)
        with (tmp_path / "small.toml").open("a") as recipe:
            recipe.write("[judge]\n")
        done = subprocess.run([*command, cluster.address], cwd=ROOT, stdout=subprocess.PIPE)
        lost = subprocess.run([*command, "127.0.0.1:1"], cwd=ROOT, capture_output=True, text=True)
        wrong = subprocess.run([*command[:-5], "--address", "127.0.0.1:1"], cwd=ROOT, capture_output=True, text=True)

    report = json.loads(done.stdout)
    assert (report["completions_drawn"], report["programs_run"], report["snapshot"]["size"]) == (12, 6, 2)
    assert report["drawn"] == {"judge": 2, "concepts": 2, "instructions": 2, "responses": 6}
    assert lost.returncode == 1
    assert lost.stderr.startswith("Error: --address 127.0.0.1:1: no Ray cluster there: ")
    assert "--address and --workers are for --executor ray" in wrong.stderr


@SQLITE_ONLY
def test_what_ails_a_worker_ends_the_build_in_its_own_words(
    cluster: Any, sandbox: str, tmp_path: Path, url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_model() as server:
        recipe = small(tmp_path, url, server, sandbox, seeds=2)
    with pytest.raises(EngineUnavailable, match=server.url):
        build_on_ray(recipe, database, Silent(), workers=1)
    assert left(database) == []

    monkeypatch.setattr(on_ray, "this_host", lambda: "elsewhere")
    with pytest.raises(SettingsError, match="SQLite file serves the workers of one machine"):
        build_on_ray(recipe, database, Silent(), workers=1)


@SQLITE_ONLY
def test_a_model_in_the_process_is_not_multiplied(small_recipe: Recipe, database: Database) -> None:
    with pytest.raises(SettingsError, match=r"'transformers' holds the model in one process; .* use 'openai'"):
        build_on_ray(small_recipe, database, Silent())


@SQLITE_ONLY
@pytest.mark.parametrize("small_recipe", ["openai"], indirect=True)
def test_without_ray_the_extra_is_named(
    small_recipe: Recipe, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'selfalign\[ray\]'"):
        build_on_ray(small_recipe, database, Silent())


@pytest.fixture(params=["transformers"])
def small_recipe(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> Recipe:
    text = RECIPE.format(folder=tmp_path, url=url).replace('"openai"', f'"{request.param}"')
    (tmp_path / "small.toml").write_text(text)
    return load_recipe(tmp_path / "small.toml")
