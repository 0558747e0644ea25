"""The client without asyncio does what the other does."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator

import pytest

from sandbox_server import errors
from sandbox_server.client import ClientConfig, connect_blocking
from sandbox_server.config import ServerConfig
from sandbox_server.jobs import Job, Outcome, Verdict
from sandbox_server.server import serving
from tests.fakes import INFO, FakeSandbox, passes

JOB = Job(code="1", request_id="a")


@pytest.fixture
def served(tmp_path) -> Iterator[tuple[FakeSandbox, str]]:
    """A server on a loop in another thread; yields its fake sandbox and its address."""
    fake = FakeSandbox()
    address = f"unix:{tmp_path}/s.sock"
    started, stop = threading.Event(), asyncio.Event()
    loops = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        async with serving(fake, ServerConfig(address=address, drain_grace_s=1)):
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(20)
    yield fake, address
    loops[0].call_soon_threadsafe(stop.set)
    thread.join()


def test_it_runs_and_tells(served) -> None:
    fake, address = served
    with connect_blocking(address) as sandbox:
        assert sandbox.run(JOB).verdict is Verdict.PASSED
        assert sandbox.info().runtimes == INFO.runtimes
    assert fake.started[-1] == JOB


def test_many_jobs_come_back_in_order_and_are_taken_as_needed(served) -> None:
    fake, address = served

    async def uneven(job: Job) -> Outcome:
        await asyncio.sleep(0.02 if job.request_id.endswith("0") else 0)
        return await passes(job)

    fake.behaviour = uneven
    taken = itertools.count()
    jobs = (Job(code="1", request_id=str(next(taken))) for _ in itertools.repeat(None))  # endless
    with connect_blocking(address) as sandbox:
        outcomes = sandbox.map(jobs, in_flight=4)
        assert [next(outcomes).request_id for _ in range(25)] == [str(number) for number in range(25)]
        assert next(taken) == 29
        assert list(sandbox.map([])) == []


def test_an_error_comes_when_its_turn_comes(served) -> None:
    _, address = served
    jobs = [JOB, Job(code="1", request_id="b", repeat=1000), JOB]
    with connect_blocking(address) as sandbox:
        outcomes = sandbox.map(jobs)
        assert next(outcomes).verdict is Verdict.PASSED
        with pytest.raises(errors.InvalidJob, match=r"^repeat: "):
            next(outcomes)


def test_threads_may_share_it(served) -> None:
    _, address = served
    verdicts = []
    with connect_blocking(address) as sandbox:
        threads = [threading.Thread(target=lambda: verdicts.append(sandbox.run(JOB).verdict)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert verdicts == [Verdict.PASSED] * 8


def test_nothing_there_is_one_line(tmp_path) -> None:
    with (
        pytest.raises(errors.Unavailable, match="no sandbox serves"),
        connect_blocking(f"unix:{tmp_path}/none", ClientConfig(connect_timeout_s=0.2)),
    ):
        pytest.fail("connected")
    assert "sandbox-client" not in {thread.name for thread in threading.enumerate()}
