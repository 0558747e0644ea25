"""A real gRPC server before a fake sandbox: statuses, deadlines, cancelling, draining, health, reflection, doors."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sandbox_server import errors
from sandbox_server.config import ServerConfig, TlsConfig
from sandbox_server.jobs import Job, Outcome, Verdict
from sandbox_server.server import serving
from sandbox_server.settings import SettingsError
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.v1 import sandbox_pb2_grpc as pb_grpc
from sandbox_server.wire import CLIENT_KEY, SERVICE
from tests.fakes import FakeSandbox, answering_at_length, passes

Code = grpc.StatusCode


@contextlib.asynccontextmanager
async def server_and_channel(sandbox: FakeSandbox, folder: Path, **settings: object) -> AsyncIterator[grpc.aio.Channel]:
    config = ServerConfig(**{"address": f"unix:{folder}/s.sock", "drain_grace_s": 5.0, **settings})  # type: ignore[arg-type]
    any_size = [("grpc.max_receive_message_length", -1)]
    async with serving(sandbox, config) as address, grpc.aio.insecure_channel(address, options=any_size) as channel:
        yield channel


def raising(error: Exception) -> Callable[[Job], Awaitable[Outcome]]:
    async def behaviour(job: Job) -> Outcome:
        if job.request_id == "":  # the self-test
            return await passes(job)
        raise error

    return behaviour


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


class Gate:
    """A behaviour that holds every job but the self-test until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, job: Job) -> Outcome:
        if job.request_id:
            await self.opened.wait()
        return await passes(job)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (errors.InvalidJob("limits.processes", "0 is not positive"), Code.INVALID_ARGUMENT, "limits.processes: 0 is"),
        (errors.Unsupported("no such judge"), Code.UNIMPLEMENTED, "no such judge"),
        (errors.DeadlineExceeded("too late"), Code.DEADLINE_EXCEEDED, "too late"),
        (errors.Overloaded("queue is full"), Code.RESOURCE_EXHAUSTED, "queue is full"),
        (errors.Unavailable("slot lost"), Code.UNAVAILABLE, "slot lost"),
        (errors.Broken("zygote said: secret"), Code.INTERNAL, "the sandbox failed; its log has the detail under id"),
        (ValueError("secret"), Code.INTERNAL, "the sandbox failed; its log has the detail under id"),
    ],
)
async def test_each_error_leaves_as_its_status(tmp_path, caplog, error, code, sentence) -> None:
    async with server_and_channel(FakeSandbox(raising(error)), tmp_path) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.SandboxServiceStub(channel).Execute(pb.ExecuteRequest(code="1", request_id="a"))
    assert caught.value.code() == code
    assert caught.value.details().startswith(sentence)
    if code is Code.INTERNAL:
        assert "secret" not in caught.value.details()
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert record.error_id in caught.value.details()
        assert "secret" in str(record.exc_info[1])


async def test_an_overload_tells_when_to_come_back(tmp_path) -> None:
    error = errors.Overloaded("queue is full", retry_after_ms=250)
    async with server_and_channel(FakeSandbox(raising(error)), tmp_path) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.SandboxServiceStub(channel).Execute(pb.ExecuteRequest(code="1", request_id="a"))
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "250"


async def test_a_request_is_answered_with_its_id(tmp_path) -> None:
    async with server_and_channel(FakeSandbox(), tmp_path) as channel:
        response = await pb_grpc.SandboxServiceStub(channel).Execute(pb.ExecuteRequest(code="1", request_id="r7"))
    assert (response.verdict, response.request_id) == (pb.VERDICT_PASSED, "r7")


async def call_without_reading(channel: grpc.aio.Channel, fake: FakeSandbox) -> grpc.aio.StreamStreamCall:
    """Call Execute for a long answer; a client's call of a method with one answer would read it by itself."""
    method = channel.stream_stream(
        f"/{SERVICE}/Execute", pb.ExecuteRequest.SerializeToString, pb.ExecuteResponse.FromString
    )
    call = method()
    await call.write(pb.ExecuteRequest(code="1", request_id="long"))
    await call.done_writing()
    await until(lambda: "long" in [job.request_id for job in fake.started] and not fake.running)
    return call


async def test_a_client_that_leaves_its_answers_unread_is_refused_until_it_reads_them(tmp_path) -> None:
    fake = FakeSandbox(answering_at_length(passes, "long"))
    bounds = {"queue_bytes": 1 << 20, "max_streams": 1, "max_streams_per_client": 1}
    async with server_and_channel(fake, tmp_path, **bounds) as channel:
        stub = pb_grpc.SandboxServiceStub(channel)
        unread = await call_without_reading(channel, fake)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Execute(pb.ExecuteRequest(code="1", request_id="a"))
        assert caught.value.code() == Code.RESOURCE_EXHAUSTED
        assert "bytes of answers unread" in caught.value.details()
        another = ((CLIENT_KEY, "another"),)
        response = await stub.Execute(pb.ExecuteRequest(code="1"), metadata=another)
        assert response.verdict == pb.VERDICT_PASSED
        assert len((await unread.read()).stdout) == 24 << 20
        assert await unread.code() == Code.OK
        assert (await stub.Execute(pb.ExecuteRequest(code="1", request_id="a"))).verdict == pb.VERDICT_PASSED


async def test_a_client_that_leaves_before_it_has_its_answer_is_no_error_of_ours(tmp_path, caplog) -> None:
    fake = FakeSandbox(answering_at_length(passes, "long"))
    bounds = {"queue_bytes": 1 << 20, "max_streams": 1, "max_streams_per_client": 1}
    async with server_and_channel(fake, tmp_path, **bounds) as channel:
        unread = await call_without_reading(channel, fake)
        await asyncio.sleep(0.1)  # for it to be half sent
        unread.cancel()
        stub = pb_grpc.SandboxServiceStub(channel)
        with contextlib.suppress(grpc.aio.AioRpcError):  # it may be asked before the server has noticed
            await stub.Execute(pb.ExecuteRequest(code="1"))
        await asyncio.sleep(0.1)
        assert (await stub.Execute(pb.ExecuteRequest(code="1"))).verdict == pb.VERDICT_PASSED
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_bytes_that_are_no_request_are_the_callers_mistake(tmp_path) -> None:
    async with server_and_channel(FakeSandbox(), tmp_path) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Execute")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff")
    assert caught.value.code() == Code.INVALID_ARGUMENT
    assert caught.value.details().startswith("request: ")


async def test_a_deadline_kills_the_run(tmp_path) -> None:
    sandbox = FakeSandbox(Gate())
    async with server_and_channel(sandbox, tmp_path) as channel:
        request = pb.ExecuteRequest(code="1", request_id="a")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.SandboxServiceStub(channel).Execute(request, timeout=0.2)
        assert caught.value.code() == Code.DEADLINE_EXCEEDED
        await until(lambda: [job.request_id for job in sandbox.killed] == ["a"])


async def test_cancelling_kills_the_run(tmp_path) -> None:
    sandbox = FakeSandbox(Gate())
    async with server_and_channel(sandbox, tmp_path) as channel:
        call = pb_grpc.SandboxServiceStub(channel).Execute(pb.ExecuteRequest(code="1", request_id="a"))
        await until(lambda: sandbox.running)
        call.cancel()
        await until(lambda: [job.request_id for job in sandbox.killed] == ["a"])


async def test_health_serves_after_the_self_test_only(tmp_path) -> None:
    ready = asyncio.Event()

    async def slow_start(job: Job) -> Outcome:
        await ready.wait()
        return await passes(job)

    config = ServerConfig(address=f"unix:{tmp_path}/s.sock")
    async with contextlib.AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(serving(FakeSandbox(slow_start), config)))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(config.address))
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        ready.set()
        await starting
        for name in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_sandbox_that_fails_its_self_test_is_not_served(tmp_path) -> None:
    async def fails(_job: Job) -> Outcome:
        return Outcome(Verdict.ERROR, stderr=b"no interpreter")

    with pytest.raises(errors.HostUnfit, match="self-test of runtime 'python' ended with ERROR: no interpreter"):
        async with serving(FakeSandbox(fails), ServerConfig(address=f"unix:{tmp_path}/s.sock")):
            pytest.fail("served")


async def test_draining_finishes_what_runs_and_refuses_what_comes(tmp_path) -> None:
    gate = Gate()
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock", drain_grace_s=10, drain_pause_s=0.3)
    sandbox = FakeSandbox(gate)
    server = serving(sandbox, config)
    address = await server.__aenter__()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb_grpc.SandboxServiceStub(channel)
        running = stub.Execute(pb.ExecuteRequest(code="1", request_id="a"))
        await until(lambda: sandbox.running)
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            answer = await health.Check(health_pb2.HealthCheckRequest())
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                break
        await asyncio.sleep(0.5)  # past the pause
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Execute(pb.ExecuteRequest(code="1", request_id="b"))
        assert caught.value.code() == Code.UNAVAILABLE
        assert not leaving.done()
        gate.opened.set()
        assert (await running).verdict == pb.VERDICT_PASSED
        await leaving
    assert not sandbox.killed
    assert not sandbox.closed  # it is the caller's


async def test_who_watches_health_is_told_of_a_drain_while_the_server_still_answers(tmp_path) -> None:
    server = serving(FakeSandbox(), ServerConfig(address=f"unix:{tmp_path}/s.sock", drain_pause_s=3600))
    async with grpc.aio.insecure_channel(await server.__aenter__()) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving


async def test_who_watches_health_does_not_hold_up_a_drain(tmp_path) -> None:
    server = serving(FakeSandbox(), ServerConfig(address=f"unix:{tmp_path}/s.sock", drain_grace_s=3600))
    async with grpc.aio.insecure_channel(await server.__aenter__()) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await server.__aexit__(None, None, None)
        with contextlib.suppress(grpc.aio.AioRpcError):  # the watch ends with the server, not the server with the watch
            while await watch.read() is not grpc.aio.EOF:
                pass


async def test_a_drain_that_is_cancelled_ends_what_runs(tmp_path) -> None:
    sandbox = FakeSandbox(Gate())
    server = serving(sandbox, ServerConfig(address=f"unix:{tmp_path}/s.sock", drain_grace_s=60))
    address = await server.__aenter__()
    async with grpc.aio.insecure_channel(address) as channel:
        running = pb_grpc.SandboxServiceStub(channel).Execute(pb.ExecuteRequest(code="1", request_id="a"))
        await until(lambda: sandbox.running)
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0.1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with pytest.raises(grpc.aio.AioRpcError):
            await running
        await until(lambda: [job.request_id for job in sandbox.killed] == ["a"])


async def test_reflection_names_the_services(tmp_path) -> None:
    async with server_and_channel(FakeSandbox(), tmp_path) as channel:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
        answer = await call.read()
        call.cancel()
    names = {service.name for service in answer.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_health_alone_is_told_in_plain_text_at_an_address_of_its_own(tmp_path) -> None:
    """Probes know no TLS; nothing else of the service answers them, and a port in use is refused by name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = ServerConfig(address=f"unix:{tmp_path}/socket", health_address=address)
    async with serving(FakeSandbox(), config), grpc.aio.insecure_channel(address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await pb_grpc.SandboxServiceStub(channel).GetInfo(pb.GetInfoRequest())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(SettingsError, match=f"health_address: {address} cannot be bound"):
            async with serving(FakeSandbox(), ServerConfig(f"unix:{tmp_path}/other", health_address=address)):
                pytest.fail("served")


async def test_a_token_is_wanted_of_everything_but_health(tmp_path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("tig3r\n")
    async with server_and_channel(FakeSandbox(), tmp_path, token_file=token_file) as channel:
        stub = pb_grpc.SandboxServiceStub(channel)
        request = pb.ExecuteRequest(code="1")
        for metadata in (None, [("authorization", "Bearer tiger")], [("authorization", "tig3r")]):
            for call in (
                stub.Execute(request, metadata=metadata),
                stub.GetInfo(pb.GetInfoRequest(), metadata=metadata),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() == Code.UNAUTHENTICATED
                assert "tig3r" not in caught.value.details()
        answer = await stub.Execute(request, metadata=[("authorization", "Bearer tig3r")])
        assert answer.verdict == pb.VERDICT_PASSED
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("content", [None, "", "\n", "two words\n", "naïve\n"])
async def test_a_token_file_without_a_token_is_refused(tmp_path, content) -> None:
    token_file = tmp_path / "token"
    if content is not None:
        token_file.write_text(content)
    config = ServerConfig(address=f"unix:{tmp_path}/s.sock", token_file=token_file)
    with pytest.raises(SettingsError, match="token"):
        async with serving(FakeSandbox(), config):
            pytest.fail("served")


async def test_a_port_or_socket_in_use_is_refused(tmp_path) -> None:
    for address in ("127.0.0.1:0", f"unix:{tmp_path}/s.sock"):
        async with serving(FakeSandbox(), ServerConfig(address=address)) as bound:
            with pytest.raises(SettingsError, match="in use"):
                async with serving(FakeSandbox(), ServerConfig(address=bound)):
                    pytest.fail("served")


async def test_a_socket_is_for_its_owner_only_and_a_stale_one_is_replaced(tmp_path) -> None:
    path = tmp_path / "s.sock"
    for _ in range(2):
        async with server_and_channel(FakeSandbox(), tmp_path):
            assert path.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(SettingsError, match="cannot be bound: what is there is no socket"):
        async with serving(FakeSandbox(), ServerConfig(address=f"unix:{path}")):
            pytest.fail("served")
    assert path.read_text() == "mine"


async def test_a_socket_in_a_missing_folder_is_refused(tmp_path) -> None:
    with pytest.raises(SettingsError, match=f"cannot be bound: there is no folder {tmp_path}/none"):
        async with serving(FakeSandbox(), ServerConfig(address=f"unix:{tmp_path}/none/s.sock")):
            pytest.fail("served")


@pytest.mark.parametrize("address", ["0.0.0.0:50061", "[::]:50061", "10.1.2.3:1", "build-host:50061"])
def test_a_public_address_wants_tls_and_a_token(address) -> None:
    tls = TlsConfig(Path("c"), Path("k"))
    with pytest.raises(ValueError, match=r"set tls\.certificate"):
        ServerConfig(address=address, token_file=Path("t"))
    with pytest.raises(ValueError, match=r"set token_file or tls\.client_ca"):
        ServerConfig(address=address, tls=tls)
    ServerConfig(address=address, tls=tls, token_file=Path("t"))
    ServerConfig(address=address, tls=dataclasses.replace(tls, client_ca=Path("a")))


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.8.8:1", "localhost:50061", "[::1]:50061", "unix:/tmp/x"])
def test_a_private_address_wants_nothing(address) -> None:
    assert ServerConfig(address=address).address == address


@pytest.mark.parametrize("address", ["", "50061", ":50061", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "unix:"])
def test_an_address_that_is_none_is_refused(address) -> None:
    with pytest.raises(ValueError, match=r"^address: "):
        ServerConfig(address=address)
