"""ExecuteStream and ExecuteBatches, spoken raw.

Out of order, refusals that end nothing, flow control, deadlines, cancelling, draining.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import grpc
import pytest

from sandbox_server import errors
from sandbox_server.config import ServerConfig
from sandbox_server.jobs import Job, Outcome
from sandbox_server.server import serving
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.v1 import sandbox_pb2_grpc as pb_grpc
from sandbox_server.wire import SERVICE
from tests.fakes import INFO, FakeSandbox, answering_at_length, passes

Code = grpc.StatusCode
METHOD = "ExecuteStream"


@pytest.fixture(autouse=True, params=["ExecuteStream", "ExecuteBatches"])
def method(request, monkeypatch) -> str:
    """What is promised of the one holds for the other."""
    monkeypatch.setattr(request.module, "METHOD", request.param)
    return request.param


class OneByOne:
    """A call of ExecuteBatches, used like one of ExecuteStream."""

    def __init__(self, call) -> None:
        self._call = call
        self._read: list[pb.ExecuteResponse] = []

    def __getattr__(self, name: str):
        return getattr(self._call, name)

    async def write(self, one: pb.ExecuteRequest) -> None:
        await self._call.write(pb.ExecuteRequests(requests=[one]))

    async def read(self):
        while not self._read:
            message = await self._call.read()
            if message is grpc.aio.EOF:
                return message
            self._read.extend(message.responses)
        return self._read.pop(0)


def begin(channel, **settings):
    call = getattr(pb_grpc.SandboxServiceStub(channel), METHOD)(**settings)
    return call if METHOD == "ExecuteStream" else OneByOne(call)


class Doors:
    """A behaviour that holds each job until the door with its id is opened; ``free`` ones pass at once."""

    def __init__(self) -> None:
        self.doors: dict[str, asyncio.Event] = {}

    def open(self, name: str) -> None:
        self.doors.setdefault(name, asyncio.Event()).set()

    async def __call__(self, job: Job) -> Outcome:
        if job.request_id and not job.request_id.startswith("free"):
            await self.doors.setdefault(job.request_id, asyncio.Event()).wait()
        return await passes(job)


@contextlib.asynccontextmanager
async def stream(fake: FakeSandbox, tmp_path, **settings) -> AsyncIterator:
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock", drain_grace_s=5, **settings)
    any_size = [("grpc.max_receive_message_length", -1)]
    async with serving(fake, config) as address, grpc.aio.insecure_channel(address, options=any_size) as channel:
        call = begin(channel)
        yield call
        call.cancel()


def request(name: str, **fields) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(**{"code": "1", "request_id": name, **fields})


async def until(condition) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def test_answers_come_as_they_finish(tmp_path) -> None:
    doors = Doors()
    async with stream(FakeSandbox(doors), tmp_path) as call:
        for name in ("a", "b"):
            await call.write(request(name))
        doors.open("b")
        assert (await call.read()).request_id == "b"
        doors.open("a")
        assert (await call.read()).request_id == "a"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == Code.OK


async def test_what_is_in_flight_is_answered_after_the_client_has_no_more(tmp_path) -> None:
    doors = Doors()
    async with stream(FakeSandbox(doors), tmp_path) as call:
        for name in ("a", "b", "c"):
            await call.write(request(name))
        await call.done_writing()
        for name in ("c", "a", "b"):
            doors.open(name)
        assert {(await call.read()).request_id for _ in range(3)} == {"a", "b", "c"}
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (request(""), "request_id: is empty"),
        (request("held"), "request_id: is that of another request in flight"),
        (request("x", code=""), "code: is empty"),
        (request("x", limits=pb.Limits(processes=0)), "limits.processes: 0 is not positive"),
        (request("x", judge=9), "judge: 9 is not a judge"),
        (request("x", timeout_ms=0), "timeout_ms: 0 is not positive"),
    ],
)
async def test_a_refusal_names_the_field_and_ends_nothing(tmp_path, bad, field) -> None:
    doors = Doors()
    async with stream(FakeSandbox(doors), tmp_path) as call:
        await call.write(request("held"))
        await call.write(bad)
        answer = await call.read()
        assert answer.request_id == bad.request_id
        assert answer.refusal.code == Code.INVALID_ARGUMENT.value[0]
        assert answer.refusal.message.startswith(field)
        doors.open("held")
        answer = await call.read()
        assert (answer.request_id, answer.verdict) == ("held", pb.VERDICT_PASSED)
        assert not answer.HasField("refusal")


async def test_bytes_that_are_no_request_end_nothing_either(tmp_path) -> None:
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock")
    async with serving(FakeSandbox(), config) as address, grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
        alone = METHOD == "ExecuteStream"
        await call.write(b"\xff\xff\xff")
        good = request("free") if alone else pb.ExecuteRequests(requests=[request("free")])
        await call.write(good.SerializeToString())
        answers = []
        while len(answers) < 2:
            message = await call.read()
            if alone:
                answers.append(pb.ExecuteResponse.FromString(message))
            else:
                answers += pb.ExecuteResponses.FromString(message).responses
        call.cancel()
    wanted = "request: is not an ExecuteRequest" if alone else "requests: are not ExecuteRequests"
    assert answers[0].refusal.message.startswith(wanted)
    assert answers[1].verdict == pb.VERDICT_PASSED


async def test_an_error_of_the_sandbox_is_a_refusal_of_one_request(tmp_path, caplog) -> None:
    async def behaviour(job: Job) -> Outcome:
        if job.request_id == "bug":
            raise RuntimeError("secret")
        if job.request_id == "full":
            raise errors.Overloaded("full", retry_after_ms=70)
        return await passes(job)

    async with stream(FakeSandbox(behaviour), tmp_path) as call:
        for name in ("bug", "full", "free"):
            await call.write(request(name))
        answers = {answer.request_id: answer for answer in [await call.read() for _ in range(3)]}
    assert answers["bug"].refusal.code == Code.INTERNAL.value[0]
    assert "secret" not in answers["bug"].refusal.message
    assert (answers["full"].refusal.code, answers["full"].refusal.retry_after_ms) == (8, 70)
    assert answers["free"].verdict == pb.VERDICT_PASSED
    assert [record.request_id for record in caplog.records if record.levelname == "ERROR"] == ["bug"]


async def test_reading_stops_at_the_window(tmp_path) -> None:
    fake = FakeSandbox(Doors())
    async with stream(fake, tmp_path, stream_window=2) as call:
        assert dict(await call.initial_metadata())["sandbox-stream-window"] == "2"
        for name in "abcd":
            await call.write(request(name))
        await until(lambda: fake.running == 2)
        await asyncio.sleep(0.1)
        assert [job.request_id for job in fake.started if job.request_id] == ["a", "b"]
        fake.behaviour.open("b")
        assert (await call.read()).request_id == "b"
        await until(lambda: fake.running == 2)
        assert fake.started[-1].request_id == "c"


async def test_reading_stops_at_what_requests_may_hold_in_memory(tmp_path) -> None:
    fake = FakeSandbox(Doors())
    async with stream(fake, tmp_path, queue_bytes=256 * 1024, max_streams=1) as call:
        for name in "ab":
            await call.write(request(name, stdin=bytes(200 * 1024)))
        await until(lambda: fake.running == 1)
        await asyncio.sleep(0.1)
        assert fake.running == 1
        fake.behaviour.open("a")
        assert (await call.read()).request_id == "a"
        await until(lambda: fake.running == 1)


async def test_nothing_more_runs_while_the_client_does_not_read_its_answers(tmp_path) -> None:
    doors = Doors()
    fake = FakeSandbox(answering_at_length(doors, "a"), dataclasses.replace(INFO, slots=1))
    async with stream(fake, tmp_path, queue_bytes=1 << 20, max_streams=1) as call:
        for name in ("a", "b", "free"):
            await call.write(request(name))
        await until(lambda: fake.running == 1)
        doors.open("a")
        await asyncio.sleep(0.2)
        assert [job.request_id for job in fake.started if job.request_id] == ["a"]
        assert (await call.read()).request_id == "a"
        doors.open("b")
        assert {(await call.read()).request_id for _ in range(2)} == {"b", "free"}


async def test_a_client_that_leaves_an_answer_unread_is_no_error_of_ours(tmp_path, caplog) -> None:
    doors = Doors()
    fake = FakeSandbox(answering_at_length(doors, "a"))
    async with stream(fake, tmp_path) as call:
        for name in ("a", "b"):
            await call.write(request(name))
        await until(lambda: fake.running == 2)
        doors.open("a")
        await until(lambda: fake.running == 1)
        await asyncio.sleep(0.1)  # for it to be half written
        call.cancel()
        await until(lambda: [job.request_id for job in fake.killed] == ["b"])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_cancelling_one_kills_that_one(tmp_path) -> None:
    fake = FakeSandbox(Doors())
    async with stream(fake, tmp_path) as call:
        for name in ("a", "b"):
            await call.write(request(name))
        await until(lambda: fake.running == 2)
        for name in ("a", "a", "unknown"):
            await call.write(pb.ExecuteRequest(request_id=name, cancel=True))
        answer = await call.read()
        assert (answer.request_id, answer.refusal.code) == ("a", Code.CANCELLED.value[0])
        assert [job.request_id for job in fake.killed] == ["a"]
        fake.behaviour.open("b")
        assert (await call.read()).request_id == "b"
        await call.write(request("a"))  # its id is free again
        fake.behaviour.open("a")
        assert (await call.read()).verdict == pb.VERDICT_PASSED


async def test_one_that_waits_for_a_slot_can_be_cancelled_too(tmp_path) -> None:
    fake = FakeSandbox(Doors())  # it has two slots
    async with stream(fake, tmp_path) as call:
        for name in "abc":
            await call.write(request(name))
        await until(lambda: fake.running == 2)
        await call.write(pb.ExecuteRequest(request_id="c", cancel=True))
        assert (await call.read()).request_id == "c"
        assert not fake.killed


async def test_a_timeout_kills_one_run(tmp_path) -> None:
    fake = FakeSandbox(Doors())
    async with stream(fake, tmp_path) as call:
        await call.write(request("a"))
        await call.write(request("b", timeout_ms=100))
        answer = await call.read()
        assert (answer.request_id, answer.refusal.code) == ("b", Code.DEADLINE_EXCEEDED.value[0])
        assert [job.request_id for job in fake.killed] == ["b"]


async def test_a_client_that_goes_away_takes_its_runs_with_it(tmp_path, caplog) -> None:
    fake = FakeSandbox(Doors())
    async with stream(fake, tmp_path) as call:
        for name in "abcd":
            await call.write(request(name))
        await until(lambda: fake.running == 2)
        call.cancel()
        await until(lambda: fake.running == 0)
        await asyncio.sleep(0.05)
    assert sorted(job.request_id for job in fake.killed) == ["a", "b"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_drained_stream_answers_what_it_read_and_ends_unavailable(tmp_path) -> None:
    fake = FakeSandbox(Doors())
    server = serving(fake, ServerConfig(address=f"unix:{tmp_path}/s.sock", drain_grace_s=10))
    address = await server.__aenter__()
    async with grpc.aio.insecure_channel(address) as channel:
        call = begin(channel)
        for name in "abc":
            await call.write(request(name))
        await until(lambda: fake.running == 2)
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0.1)
        for name in "abc":
            fake.behaviour.open(name)
        answers = set()
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (answer := await call.read()) is not grpc.aio.EOF:
                answers.add(answer.request_id)
        assert await call.code() == Code.UNAVAILABLE
        assert answers == {"a", "b", "c"}
        await leaving


async def test_one_client_cannot_have_all_streams(tmp_path) -> None:
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock", max_streams=3, max_streams_per_client=2)
    async with serving(FakeSandbox(), config) as address, grpc.aio.insecure_channel(address) as channel:

        async def open_stream(client: str):
            call = begin(channel, metadata=[("sandbox-client", client)])
            await call.initial_metadata()
            return call

        calls = [await open_stream("a"), await open_stream("a")]
        refused = await open_stream("a")
        assert await refused.code() == Code.RESOURCE_EXHAUSTED
        calls.append(await open_stream("b"))
        refused = await open_stream("c")
        assert await refused.code() == Code.RESOURCE_EXHAUSTED
        assert dict(await refused.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
        calls.pop().cancel()
        answer = None
        while answer is None:  # until the server has noticed
            calls.append(await open_stream("c"))
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await calls[-1].write(request("free"))
                answer = await calls[-1].read()
        assert answer.verdict == pb.VERDICT_PASSED
        for call in calls:
            call.cancel()
