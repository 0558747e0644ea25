"""ExecuteBatches, where messages carry several."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from sandbox_server.client import ClientConfig, RemoteSandbox
from sandbox_server.config import ServerConfig
from sandbox_server.jobs import Job, LimitsRequest, Outcome
from sandbox_server.server import serving
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.v1 import sandbox_pb2_grpc as pb_grpc
from sandbox_server.wire import TOGETHER_BYTES
from tests.fakes import INFO, Behaviour, FakeSandbox, passes

Code = grpc.StatusCode
MANY = 16  # programs in flight for a slot, from which answers wait for others
ROOMY = dataclasses.replace(INFO, slots=1)


class Gate:
    """A behaviour that holds all jobs of a request until it is opened."""

    def __init__(self, answer: Behaviour = passes) -> None:
        self.opened = asyncio.Event()
        self._answer = answer

    async def __call__(self, job: Job) -> Outcome:
        if job.request_id:
            await self.opened.wait()
        return await self._answer(job)


@contextlib.asynccontextmanager
async def server(fake: FakeSandbox, tmp_path: Path, **settings: Any) -> AsyncIterator[str]:
    async with serving(fake, ServerConfig(address=f"unix:{tmp_path}/s.sock", **settings)) as address:
        yield address


@contextlib.asynccontextmanager
async def stream(fake: FakeSandbox, tmp_path: Path, **settings: Any) -> AsyncIterator[Any]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with (
        server(fake, tmp_path, **settings) as address,
        grpc.aio.insecure_channel(address, options=options) as channel,
    ):
        call = pb_grpc.SandboxServiceStub(channel).ExecuteBatches()  # type: ignore[no-untyped-call]
        yield call
        call.cancel()


def requests(*names: str, **fields: Any) -> pb.ExecuteRequests:
    return pb.ExecuteRequests(requests=[pb.ExecuteRequest(code="1", request_id=name, **fields) for name in names])


async def read(call: Any, wanted: int) -> list[list[pb.ExecuteResponse]]:
    """Messages until they carry so many answers."""
    messages: list[list[pb.ExecuteResponse]] = []
    while sum(map(len, messages)) < wanted:
        messages.append(list((await call.read()).responses))
    return messages


async def test_each_request_of_a_message_is_answered_once(tmp_path: Path) -> None:
    names = [str(number) for number in range(40)]
    async with stream(FakeSandbox(), tmp_path) as call:
        await call.write(requests(*names[:25]))
        await call.write(requests())
        await call.write(requests(*names[25:]))
        await call.done_writing()
        answers = [answer for message in await read(call, 40) for answer in message]
        assert await call.read() is grpc.aio.EOF
    assert sorted(answer.request_id for answer in answers) == sorted(names)
    assert {answer.verdict for answer in answers} == {pb.VERDICT_PASSED}


async def test_one_that_is_refused_leaves_the_others_of_its_message_alone(tmp_path: Path) -> None:
    message = requests("a", "a", "", "b")
    message.requests.append(pb.ExecuteRequest(request_id="c"))
    async with stream(FakeSandbox(Gate()), tmp_path) as call:
        await call.write(message)
        refused = [answer for one in await read(call, 3) for answer in one]
    assert sorted(answer.request_id for answer in refused) == ["", "a", "c"]
    assert {answer.refusal.code for answer in refused} == {Code.INVALID_ARGUMENT.value[0]}


async def test_a_request_and_the_word_that_it_is_given_up_may_travel_together(tmp_path: Path) -> None:
    message = requests("a", "b")
    message.requests.append(pb.ExecuteRequest(request_id="a", cancel=True))
    gate = Gate()
    async with stream(FakeSandbox(gate), tmp_path) as call:
        await call.write(message)
        ((given_up,),) = await read(call, 1)
        assert (given_up.request_id, given_up.refusal.code) == ("a", Code.CANCELLED.value[0])
        gate.opened.set()
        ((answer,),) = await read(call, 1)
        assert answer.request_id == "b"


async def test_answers_that_are_ready_travel_together(tmp_path: Path) -> None:
    names = [str(number) for number in range(3 * MANY)]
    gate = Gate()
    async with stream(FakeSandbox(gate, ROOMY), tmp_path) as call:
        await call.write(requests(*names))
        await asyncio.sleep(0.05)
        gate.opened.set()
        messages = await read(call, len(names))
    assert len(messages) < len(names)


async def test_a_message_of_answers_stays_small(tmp_path: Path) -> None:
    async def verbose(job: Job) -> Outcome:
        return dataclasses.replace(await passes(job), stdout=b"x" * (TOGETHER_BYTES // 3))

    names = [str(number) for number in range(20)]
    gate = Gate(verbose)
    async with stream(FakeSandbox(gate, ROOMY), tmp_path) as call:
        await call.write(requests(*names))
        await asyncio.sleep(0.05)
        gate.opened.set()
        messages = await read(call, len(names))
    assert max(map(len, messages)) <= 2


async def test_what_the_server_takes_alone_it_takes_in_a_message(tmp_path: Path) -> None:
    async with stream(FakeSandbox(), tmp_path, max_message_bytes=16 << 20) as call:
        alone = pb.ExecuteRequest(code="1", request_id="a")
        alone.stdin = bytes((16 << 20) - alone.ByteSize() - 5)
        assert alone.ByteSize() == 16 << 20
        await call.write(pb.ExecuteRequests(requests=[alone]))
        ((answer,),) = await read(call, 1)
    assert answer.verdict or answer.refusal.message.startswith("stdin")


async def test_the_client_sends_large_requests_in_messages_that_the_server_takes(tmp_path: Path) -> None:
    """Eight that together are larger than a message may be, and one that by itself is."""
    limits = LimitsRequest()
    async with server(FakeSandbox(), tmp_path, max_message_bytes=16 << 20) as address:
        sandbox = RemoteSandbox(address, ClientConfig())
        try:
            jobs = [Job(code="1", stdin=bytes(3 << 20), limits=limits) for _ in range(8)]
            outcomes = await asyncio.gather(*(sandbox.run(job) for job in jobs))
            too_large = await asyncio.gather(
                sandbox.run(Job(code="1", stdin=bytes(17 << 20))), sandbox.run(Job(code="1")), return_exceptions=True
            )
        finally:
            await sandbox.close()
    assert {outcome.verdict.value for outcome in outcomes} == {"PASSED"}
    assert "more than the server takes" in str(too_large[0])
    assert isinstance(too_large[1], Outcome)
