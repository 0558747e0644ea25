"""The client behaves like any other sandbox: typed answers, errors mapped back, retries of what is safe only."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
from collections.abc import AsyncIterator

import grpc
import pytest

from sandbox_server import errors
from sandbox_server.client import ClientConfig, Credentials, connect
from sandbox_server.config import ServerConfig
from sandbox_server.jobs import File, Job, LimitsRequest, Outcome, ProgramError, Verdict
from sandbox_server.server import serving
from sandbox_server.statuses import error_of
from tests.fakes import INFO, FakeSandbox, passes

JOB = Job(code="def f(): return 1", tests="assert f() == 1", request_id="a")


@contextlib.asynccontextmanager
async def remote(fake: FakeSandbox, tmp_path, client: ClientConfig | None = None) -> AsyncIterator:
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock", drain_grace_s=1)
    async with serving(fake, config) as address, connect(address, client) as sandbox:
        yield sandbox


class Failing:
    """A behaviour that raises `errors` one after the other, and then passes; the self-test always passes."""

    def __init__(self, *raised: Exception) -> None:
        self.raised = list(raised)

    async def __call__(self, job: Job) -> Outcome:
        if job.request_id and self.raised:
            raise self.raised.pop(0)
        return await passes(job)


async def test_an_outcome_arrives_as_it_was_made(tmp_path) -> None:
    outcome = Outcome(
        Verdict.ERROR,
        request_id="a",
        exit_code=1,
        stderr=b"\xff",
        error=ProgramError("ValueError", "no", "trace", 3),
        files=(File("out", b"\0"),),
        files_refused=("link: not a regular file",),
    )

    async def behaviour(job: Job) -> Outcome:
        return outcome if job.request_id else await passes(job)

    async with remote(FakeSandbox(behaviour), tmp_path) as sandbox:
        answer = await sandbox.run(JOB)
    assert dataclasses.replace(answer, usage=outcome.usage) == outcome


async def test_a_job_arrives_as_it_was_made(tmp_path) -> None:
    fake = FakeSandbox()
    job = dataclasses.replace(
        JOB,
        stdin=b"in",
        files=(File("a/b", b"1", executable=True),),
        env=(("A", "1"),),
        collect=("*.txt",),
        limits=LimitsRequest(wall_time_ms=100),
        random_seed=0,
    )
    async with remote(fake, tmp_path) as sandbox:
        await sandbox.run(job)
    assert fake.started[-1] == job


async def test_info_arrives(tmp_path) -> None:
    async with remote(FakeSandbox(), tmp_path) as sandbox:
        assert await sandbox.info() == dataclasses.replace(INFO, queue_size=ServerConfig().queue_size)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidJob("limits.wall_time_ms", "0 is not positive: give more"),
        errors.Unsupported("cannot"),
        errors.DeadlineExceeded("late"),
    ],
)
async def test_an_error_comes_back_as_itself_at_once(tmp_path, error) -> None:
    fake = FakeSandbox(Failing(error))
    async with remote(fake, tmp_path) as sandbox:
        with pytest.raises(type(error)) as caught:
            await sandbox.run(JOB)
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "field", None) == getattr(error, "field", None)
    assert sum(job == JOB for job in fake.started) == 1


def test_what_grpc_says_of_a_lost_connection_is_no_bug_of_the_server() -> None:
    assert isinstance(error_of(grpc.StatusCode.INTERNAL, "Internal error from Core"), errors.Unavailable)
    assert isinstance(error_of(grpc.StatusCode.INTERNAL, "the sandbox failed"), errors.Broken)


async def test_a_bug_of_the_server_comes_back_as_broken_and_is_not_retried(tmp_path) -> None:
    fake = FakeSandbox(Failing(RuntimeError("inside"), RuntimeError("inside")))
    async with remote(fake, tmp_path) as sandbox:
        with pytest.raises(errors.Broken, match="under id"):
            await sandbox.run(JOB)
    assert sum(job == JOB for job in fake.started) == 1


async def test_what_is_retryable_is_tried_again(tmp_path) -> None:
    fake = FakeSandbox(Failing(errors.Unavailable("slot lost"), errors.Overloaded("full", retry_after_ms=1)))
    async with remote(fake, tmp_path) as sandbox:
        outcome = await sandbox.run(JOB)
    assert outcome.verdict is Verdict.PASSED
    assert sum(job == JOB for job in fake.started) == 3


async def test_retrying_ends(tmp_path) -> None:
    fake = FakeSandbox(Failing(*[errors.Overloaded("full", retry_after_ms=20)] * 1000))
    async with remote(fake, tmp_path, ClientConfig(retry_for_s=0.3)) as sandbox:
        with pytest.raises(errors.Overloaded) as caught:
            await sandbox.run(JOB)
    assert caught.value.retry_after_ms == 20
    assert 1 < sum(job == JOB for job in fake.started) < 20


async def test_a_deadline_ends_the_wait(tmp_path) -> None:
    async def never(job: Job) -> Outcome:
        if job.request_id:
            await asyncio.Event().wait()
        return await passes(job)

    async with remote(FakeSandbox(never), tmp_path, ClientConfig(timeout_s=0.2)) as sandbox:
        with pytest.raises(errors.DeadlineExceeded):
            await sandbox.run(JOB)


async def test_cancelling_the_task_kills_the_run(tmp_path) -> None:
    async def never(job: Job) -> Outcome:
        if job.request_id:
            await asyncio.Event().wait()
        return await passes(job)

    fake = FakeSandbox(never)
    async with remote(fake, tmp_path) as sandbox:
        task = asyncio.create_task(sandbox.run(JOB))
        while not fake.running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not fake.killed:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert fake.killed == [JOB]


async def test_an_address_where_nothing_serves_is_told_in_one_line(tmp_path) -> None:
    for address in (f"unix:{tmp_path}/none", "127.0.0.1:1"):
        with pytest.raises(errors.Unavailable, match=r"no sandbox serves at .*; start one with"):
            async with connect(address, ClientConfig(connect_timeout_s=0.2)):
                pytest.fail("connected")


@pytest.mark.parametrize(
    ("there", "told"), [(None, "there is no socket"), ("left", "not ready, or was killed"), ("shut", "another user's")]
)
async def test_a_silent_socket_is_described(tmp_path, monkeypatch, there, told) -> None:
    """A path that is wrong, what a killed server left, and a socket of another user call for different things."""
    path = tmp_path / "s.sock"
    if there is not None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    if there == "shut":  # root may open any
        monkeypatch.setattr(os, "access", lambda name, _: name != path)
    with pytest.raises(errors.Unavailable, match=told):
        async with connect(f"unix:{path}", ClientConfig(connect_timeout_s=0.1)):
            pytest.fail("connected")


async def test_a_request_too_large_for_a_message_is_refused_and_harms_no_other(tmp_path) -> None:
    big = dataclasses.replace(JOB, stdin=bytes(33 * 1024 * 1024))
    fake = FakeSandbox()
    async with remote(fake, tmp_path) as sandbox:
        first, second = await asyncio.gather(sandbox.run(JOB), sandbox.run(big), return_exceptions=True)
    assert first.verdict is Verdict.PASSED
    assert isinstance(second, errors.InvalidJob)
    assert str(second).startswith("request: is 34603")
    assert big not in fake.started


async def test_a_token_is_sent(tmp_path) -> None:
    (tmp_path / "token").write_text("tig3r")
    config = ServerConfig(address="127.0.0.1:0", token_file=tmp_path / "token")
    async with serving(FakeSandbox(), config) as address:
        async with connect(address, ClientConfig(credentials=Credentials(token="tig3r"))) as sandbox:
            assert (await sandbox.run(JOB)).verdict is Verdict.PASSED
        with pytest.raises(errors.Unauthenticated):
            async with connect(address):
                pytest.fail("connected")
