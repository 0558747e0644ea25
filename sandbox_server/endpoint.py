"""The client's side of one server: a connection, and one ExecuteBatches that carries all runs.

A stream costs client and server half of what as many single calls cost, and less where runs travel together; each run
on it keeps a deadline and a cancellation of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sandbox_server.errors import DeadlineExceeded, InvalidJob, SandboxError, Unavailable
from sandbox_server.settings import SettingsError
from sandbox_server.statuses import error_of
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.v1 import sandbox_pb2_grpc as pb_grpc
from sandbox_server.wire import CLIENT_KEY, ENVELOPE_BYTES, MAX_MESSAGE_KEY, SERVICE, TOGETHER_BYTES, WINDOW_KEY

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_WATCH_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a client proves itself, and checks the server.

    Args:
        token: sent as ``authorization: Bearer ...``.
        tls: use TLS, trusting the system's authorities when `ca` is not set.
        ca: the authority to check the server by; implies `tls`.
        certificate: this client's certificate, for mTLS; with `key`.
        key: the key of `certificate`.
    """

    token: str | None = None
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def speak_tls(self) -> bool:
        """Whether the connection is encrypted, over anything but a unix socket."""
        return bool(self.tls or self.ca or self.certificate)


class Endpoint:
    """One server.

    Attributes:
        address: where it is.
        serving: what its health last said; True until something is known.
        in_flight: runs that were given to it.
        avoid_until_s: it failed just now; on the loop's clock.
    """

    def __init__(
        self, address: str, credentials: Credentials, client_name: str, server_name: str | None = None
    ) -> None:
        self.address = address
        self.serving = True
        self.in_flight = 0
        self.avoid_until_s = 0.0
        self._channel = _open_channel(address, credentials, server_name)
        self._stub = pb_grpc.SandboxServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._metadata = [(CLIENT_KEY, client_name)]
        if credentials.token:
            self._metadata.append(("authorization", f"Bearer {credentials.token}"))
        self._stream: _Stream | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def run(self, request: pb.ExecuteRequest, timeout_s: float | None) -> pb.ExecuteResponse:
        """Run one request; its `request_id` is changed to one that is unique on the stream.

        Raises:
            SandboxError: it was refused, the server went away, or `timeout_s` passed.
        """
        if self._stream is None or self._stream.ended:
            self._stream = _Stream(self._stub.ExecuteBatches(metadata=self._metadata))
        self.in_flight += 1
        try:
            return await self._stream.run(request, timeout_s)
        finally:
            self.in_flight -= 1

    async def info(self, timeout_s: float) -> pb.GetInfoResponse:
        """Ask it what it is."""
        try:
            answer: pb.GetInfoResponse = await self._stub.GetInfo(
                pb.GetInfoRequest(), timeout=timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise error_of(error.code(), error.details(), error.trailing_metadata()) from error
        return answer

    async def is_serving(self, timeout_s: float) -> bool:
        """Ask for its health, waiting for a connection."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            answer = await self._health.Check(request, timeout=timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise error_of(error.code(), error.details()) from error
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def watch(self) -> None:
        """Keep `serving` up to date from now on."""
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for answer in self._health.Watch(request, wait_for_ready=not self.serving):
                    self.serving = answer.status == health_pb2.HealthCheckResponse.SERVING
            self.serving = False
            await asyncio.sleep(_WATCH_AGAIN_S)

    async def close(self) -> None:
        """Kill what runs and close the connection."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._stream is not None:
            await self._stream.close()
        await self._channel.close()


class _Stream:
    """One ExecuteBatches: two tasks, one that writes and one that reads, and a future for each run.

    Nothing but these tasks touches the call: cancelling a read or a write would end the whole stream.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall[pb.ExecuteRequests, pb.ExecuteResponses]) -> None:
        self.ended = False
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._answers: dict[str, asyncio.Future[pb.ExecuteResponse]] = {}
        self._outgoing: deque[pb.ExecuteRequest] = deque()
        self._cancellations: deque[str] = deque()
        self._sent: set[str] = set()  # asked of the server and not yet answered
        self._wake = asyncio.Event()
        self._window = 1
        self._max_message_bytes = 0
        self._tasks = [self._loop.create_task(self._write_all()), self._loop.create_task(self._read_all())]

    async def run(self, request: pb.ExecuteRequest, timeout_s: float | None) -> pb.ExecuteResponse:
        name = self._name(request)
        if timeout_s is not None:
            request.timeout_ms = max(1, int(timeout_s * 1000))
        answer: asyncio.Future[pb.ExecuteResponse] = self._loop.create_future()
        self._answers[name] = answer
        self._outgoing.append(request)
        self._wake.set()
        timer = self._loop.call_later(timeout_s, _expire, answer) if timeout_s is not None else None
        try:
            return await answer
        finally:
            if timer is not None:
                timer.cancel()
            self._answers.pop(name, None)
            if name in self._sent and not self.ended:  # nobody waits for it any more
                self._cancellations.append(name)
                self._wake.set()

    async def close(self) -> None:
        self._end(Unavailable("the connection was closed"))
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _name(self, request: pb.ExecuteRequest) -> str:
        """Give a request an id that no other in flight has; its own, if it can."""
        name = own = request.request_id
        while not name or name in self._answers or name in self._sent:
            name = f"{own}#{next(self._numbers)}"
        request.request_id = name
        return name

    async def _write_all(self) -> None:
        try:
            for key, value in await self._call.initial_metadata():
                if key == WINDOW_KEY:
                    self._window = int(value)
                elif key == MAX_MESSAGE_KEY:
                    self._max_message_bytes = int(value)
            while True:
                await self._wake.wait()
                self._wake.clear()
                while requests := self._next():
                    await self._call.write(pb.ExecuteRequests(requests=requests))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader learns the same, with the reason

    def _next(self) -> list[pb.ExecuteRequest]:
        """What travels next: word of those given up, then what the window and a message have room for."""
        requests = [pb.ExecuteRequest(request_id=name, cancel=True) for name in self._cancellations]
        self._cancellations.clear()
        room = TOGETHER_BYTES
        while self._outgoing and len(self._sent) < self._window:
            request = self._outgoing[0]
            answer = self._answers.get(request.request_id)
            size = request.ByteSize()
            if answer is None or answer.done():  # given up before it was sent
                self._outgoing.popleft()
            elif self._max_message_bytes and size > self._max_message_bytes:
                self._outgoing.popleft()
                problem = f"is {size} bytes, more than the server takes: {self._max_message_bytes}"
                answer.set_exception(InvalidJob("request", problem))
            elif requests and size + ENVELOPE_BYTES > room:
                break
            else:
                self._outgoing.popleft()
                self._sent.add(request.request_id)
                requests.append(request)
                room -= size + ENVELOPE_BYTES
        return requests

    async def _read_all(self) -> None:
        error: SandboxError = Unavailable("the server ended the stream")
        try:
            while isinstance(message := await self._call.read(), pb.ExecuteResponses):  # else it is EOF
                for response in message.responses:
                    self._answered(response)
            status = await self._call.code()
            if status is not grpc.StatusCode.OK:
                error = error_of(status, await self._call.details(), await self._call.trailing_metadata())
        except grpc.aio.AioRpcError as failure:
            error = error_of(failure.code(), failure.details(), failure.trailing_metadata())
        self._end(error)

    def _answered(self, response: pb.ExecuteResponse) -> None:
        name = response.request_id
        full = len(self._sent) >= self._window
        self._sent.discard(name)
        if full and self._outgoing:
            self._wake.set()
        answer = self._answers.get(name)
        if answer is None or answer.done():
            return
        if response.HasField("refusal"):
            refusal = response.refusal
            after_ms = refusal.retry_after_ms if refusal.HasField("retry_after_ms") else None
            code = _CODES.get(refusal.code, grpc.StatusCode.UNKNOWN)
            answer.set_exception(error_of(code, refusal.message, retry_after_ms=after_ms))
        else:
            answer.set_result(response)

    def _end(self, error: SandboxError) -> None:
        self.ended = True
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)


def _expire(answer: asyncio.Future[pb.ExecuteResponse]) -> None:
    if not answer.done():
        answer.set_exception(DeadlineExceeded("the deadline passed before the run ended"))


def _open_channel(address: str, credentials: Credentials, server_name: str | None) -> grpc.aio.Channel:
    options: list[tuple[str, object]] = [
        ("grpc.max_receive_message_length", -1),  # the server bounds its answers
        ("grpc.max_send_message_length", -1),  # the server says what it takes
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment is not meant for this
        ("grpc.enable_retries", 0),  # the client retries, and knows what is safe
        ("grpc.use_local_subchannel_pool", 1),  # a connection of one's own
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    if not credentials.speak_tls or address.startswith("unix:"):
        return grpc.aio.insecure_channel(address, options=options)
    channel_credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(credentials.ca),
        private_key=_read(credentials.key),
        certificate_chain=_read(credentials.certificate),
    )
    return grpc.aio.secure_channel(address, channel_credentials, options=options)


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
