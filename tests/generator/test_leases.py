from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator import models, store
from generator.leases import Leases
from generator.store import Database
from generator.writer import Writer
from tests.generator.model_server import serve_model
from tests.generator.test_kill import start, stored, wait_for_calls, write


def claim(leases: Leases, *keys: str) -> set[str]:
    return leases.claim(models.Recipe, keys)


def left(database: Database) -> tuple[int, int]:
    """How many leases and workers there are."""
    with database.reading() as session:
        return (
            session.scalar(sa.select(sa.func.count()).select_from(models.Lease)) or 0,
            session.scalar(sa.select(sa.func.count()).select_from(models.Worker)) or 0,
        )


async def test_a_row_is_claimed_by_one_worker_only(database: Database) -> None:
    async with Leases(database) as first, Leases(database) as second:
        assert claim(first, "a", "b") == {"a", "b"}
        assert claim(second, "b", "c") == {"c"}
        assert claim(first, "a") == set()  # at work already


async def test_a_row_that_is_stored_cannot_be_claimed(database: Database) -> None:
    with database.writing() as session:
        store.insert_new(session, models.Recipe, [{"id": "a", "stage": "test", "parameters": {}}])

    async with Leases(database) as leases:
        assert claim(leases, "a", "b") == {"b"}
        assert left(database)[0] == 1


async def test_storing_a_row_ends_its_lease(database: Database) -> None:
    async with Leases(database) as leases, Writer(database) as writer:
        claim(leases, "a", "b")
        await writer.insert(models.Recipe, {"id": "a", "stage": "test", "parameters": {}})

        assert left(database)[0] == 1


async def test_a_worker_that_leaves_gives_everything_back(database: Database) -> None:
    async with Leases(database) as leases:
        claim(leases, "a")

    assert left(database) == (0, 0)


async def test_the_leases_of_a_worker_whose_time_is_over_are_free(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generator.leases.LEASE_S", -1.0)
    async with Leases(database) as late:
        claim(late, "a")
        async with Leases(database) as other:
            assert claim(other, "a") == {"a"}
        assert claim(late, "b") == {"b"}  # and it can sign in again


async def test_the_leases_of_a_killed_process_are_free_at_once(database: Database, url: str) -> None:
    script = (
        "import asyncio, os, sys\nfrom generator.leases import Leases\nfrom generator.store import open_database\n"
        "from generator import models\n"
        "async def main():\n    async with Leases(open_database(sys.argv[1])) as leases:\n"
        "        leases.claim(models.Recipe, ['a'])\n        os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())"
    )
    root = Path(__file__).parents[2]
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", script, url, cwd=root)
    assert await killed.wait() == -signal.SIGKILL
    assert left(database) == (1, 1)

    async with Leases(database) as leases:
        assert claim(leases, "a") == {"a"}


async def test_another_machines_worker_is_trusted_until_its_time_is_over(database: Database) -> None:
    with database.writing() as session:
        far = {"id": "far", "host": "elsewhere", "pid": os.getpid(), "process_start": "1"}
        store.insert_new(session, models.Worker, [{**far, "expires_at_s": time.time() + 60}])
        store.insert_new(session, models.Lease, [{"key": "a", "worker_id": "far"}])

    async with Leases(database) as leases:
        assert claim(leases, "a") == set()
        with database.writing() as session:
            session.execute(sa.update(models.Worker).where(models.Worker.id == "far").values(expires_at_s=0.0))
        leases.clear_dead()
        assert claim(leases, "a") == {"a"}


async def test_many_claims_at_once_give_each_row_to_one(database: Database) -> None:
    keys = [f"k{number}" for number in range(300)]
    async with Leases(database) as first, Leases(database) as second, Leases(database) as third:
        workers = (first, second, third)
        claimed = await asyncio.gather(*(asyncio.to_thread(claim, worker, *keys) for worker in workers))

    assert sorted(key for some in claimed for key in some) == sorted(keys)


def test_several_builds_share_the_work_and_draw_nothing_twice(tmp_path: Path, url: str, database: Database) -> None:
    seeds = 30
    with serve_model(delay_s=0.02) as server:
        write(tmp_path, url, server, seeds)
        builds = [start(tmp_path) for _ in range(3)]
        assert [build.wait() for build in builds] == [0, 0, 0]
        calls = list(server.calls)

    assert len(calls) == len(set(calls)) == len(stored(database)) == seeds * 5
    assert left(database) == (0, 0)
    with database.reading() as session:
        assert [dataset.size for dataset in session.scalars(sa.select(models.Dataset))] == [seeds]


def test_when_one_of_two_builds_is_killed_the_other_does_its_share(
    tmp_path: Path, url: str, database: Database
) -> None:
    seeds = 30
    with serve_model(delay_s=0.02) as server:
        write(tmp_path, url, server, seeds)
        builds = [start(tmp_path) for _ in range(2)]
        wait_for_calls(server, 40, builds[0])
        builds[0].send_signal(signal.SIGKILL)
        builds[0].wait()
        assert builds[1].wait() == 0

    assert len(stored(database)) == seeds * 5
