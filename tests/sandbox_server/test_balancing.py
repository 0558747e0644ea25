"""Several servers behind one client: by health, without those that drain, with those that come."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter

import pytest

from sandbox_server import client, errors
from sandbox_server.client import ClientConfig, connect
from sandbox_server.config import ServerConfig
from sandbox_server.jobs import Job, Outcome, Verdict
from sandbox_server.server import serving
from tests.fakes import FakeSandbox, passes

JOB = Job(code="1", request_id="a")


def ran(fake: FakeSandbox) -> int:
    return sum(job.request_id.startswith("a") for job in fake.started)  # "a#2" while an "a" is in flight


async def slowly(job: Job) -> Outcome:
    await asyncio.sleep(0.01)
    return await passes(job)


def config(tmp_path, name: str) -> ServerConfig:
    return ServerConfig(address=f"unix:{tmp_path}/{name}", drain_grace_s=2)


async def until(condition) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_runs_go_evenly_to_all(tmp_path) -> None:
    fakes = {name: FakeSandbox(slowly) for name in "xyz"}
    async with contextlib.AsyncExitStack() as stack:
        addresses = [
            await stack.enter_async_context(serving(fake, config(tmp_path, name))) for name, fake in fakes.items()
        ]
        sandbox = await stack.enter_async_context(connect(", ".join(addresses)))
        await asyncio.gather(*(sandbox.run(JOB) for _ in range(30)))
        assert [ran(fake) for fake in fakes.values()] == [10, 10, 10]
        for _ in range(6):
            await sandbox.run(JOB)
        assert [ran(fake) for fake in fakes.values()] == [12, 12, 12]


async def test_a_server_that_drains_gets_nothing_more_and_no_run_is_lost(tmp_path) -> None:
    staying, leaving = FakeSandbox(slowly), FakeSandbox(slowly)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving(staying, config(tmp_path, "x")))
        server = serving(leaving, config(tmp_path, "y"))
        second = await server.__aenter__()
        sandbox = await stack.enter_async_context(connect(f"{first},{second}"))
        runs = [asyncio.create_task(sandbox.run(JOB)) for _ in range(20)]
        await until(lambda: ran(leaving))
        await server.__aexit__(None, None, None)
        outcomes = await asyncio.gather(*runs)
        assert Counter(outcome.verdict for outcome in outcomes) == {Verdict.PASSED: 20}
        before = ran(leaving)
        await asyncio.gather(*(sandbox.run(JOB) for _ in range(5)))
        assert ran(leaving) == before


async def test_a_server_that_comes_later_or_again_is_used(tmp_path) -> None:
    early, late = FakeSandbox(), FakeSandbox()
    addresses = f"unix:{tmp_path}/x,unix:{tmp_path}/y"
    async with serving(early, config(tmp_path, "x")), connect(addresses) as sandbox:
        await asyncio.gather(*(sandbox.run(JOB) for _ in range(4)))
        assert ran(early) == 4
        for _ in range(2):
            before = ran(late)
            async with serving(late, config(tmp_path, "y")), asyncio.timeout(20):
                while ran(late) == before:
                    await sandbox.run(JOB)
                    await asyncio.sleep(0.01)


async def test_a_run_whose_server_dies_is_run_elsewhere(tmp_path) -> None:
    async def stuck(job: Job) -> Outcome:
        if job.request_id:
            await asyncio.Event().wait()
        return await passes(job)

    dying, living = FakeSandbox(stuck), FakeSandbox()
    async with serving(living, config(tmp_path, "x")) as address:
        server = serving(dying, ServerConfig(address=f"unix:{tmp_path}/y", drain_grace_s=0))
        async with connect(f"{address},{await server.__aenter__()}") as sandbox:
            runs = [asyncio.create_task(sandbox.run(JOB)) for _ in range(4)]
            await until(lambda: ran(dying))
            await server.__aexit__(None, None, None)
            assert {outcome.verdict for outcome in await asyncio.gather(*runs)} == {Verdict.PASSED}


async def test_a_name_means_every_server_that_it_resolves_to_now_and_later(monkeypatch) -> None:
    resolved = ["127.0.0.1"]

    async def getaddrinfo(_loop, host, port, **_options):
        if host == "gone":
            raise socket.gaierror("Name or service not known")
        assert (host, port) == ("sandboxes", free)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in resolved]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(client, "_RESOLVE_AGAIN_S", 0.05)
    first, second = FakeSandbox(), FakeSandbox()
    async with (
        serving(first, ServerConfig(address=f"127.0.0.1:{free}")),
        serving(second, ServerConfig(address=f"127.0.0.2:{free}")),
        connect(f"dns:///sandboxes:{free}") as sandbox,
        asyncio.timeout(20),
    ):
        await sandbox.run(JOB)
        assert (ran(first), ran(second)) == (1, 0)
        resolved.append("127.0.0.2")
        while not ran(second):
            await sandbox.run(JOB)
            await asyncio.sleep(0.01)
        resolved.remove("127.0.0.1")
        await asyncio.sleep(0.3)
        before = ran(first)
        await asyncio.gather(*(sandbox.run(JOB) for _ in range(4)))
        assert ran(first) == before
    with pytest.raises(errors.Unavailable, match="no sandbox serves at dns:///gone:1"):
        async with connect("dns:///gone:1", ClientConfig(connect_timeout_s=0.2)):
            pytest.fail("connected")
