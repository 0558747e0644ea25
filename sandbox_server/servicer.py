"""The gRPC service: read, validate, wait for a slot, run, answer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import grpc

from sandbox_server.admission import Admission
from sandbox_server.cache import VerdictCache
from sandbox_server.config import ServerConfig
from sandbox_server.errors import InvalidJob, Overloaded, Unavailable
from sandbox_server.jobs import Job, Outcome, SandboxInfo
from sandbox_server.records import CallRecord, Listener
from sandbox_server.sandbox import Sandbox
from sandbox_server.statuses import Context, code_of, errors_to_status
from sandbox_server.streams import BatchStream, Stream
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.validation import validate
from sandbox_server.wire import (
    CLIENT_KEY,
    MAX_MESSAGE_KEY,
    WINDOW_KEY,
    info_to_wire,
    job_from_wire,
    outcome_to_wire,
    request_from_bytes,
    requests_from_bytes,
)

_LOCAL_PEERS = ("unix:", "ipv4:127.", "ipv6:%5B::1%5D")
_MAX_CLIENT_CHARACTERS = 64
_MANY_PER_SLOT = 16  # programs in flight: no slot is idle while some milliseconds' answers are collected
# Nothing is wrong with the job, nor for good with the host: try again, or elsewhere.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EAGAIN, errno.EDQUOT})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and in which trace."""

    name: str
    traceparent: str


class SandboxServicer:
    """Serve one sandbox.

    Args:
        sandbox: what runs the jobs.
        info: what it is; asked once, because nothing of it changes while it lives.
        config: bounds of queue, streams, messages and cache.
    """

    def __init__(self, sandbox: Sandbox, info: SandboxInfo, config: ServerConfig) -> None:
        self._sandbox = sandbox
        self._config = config
        self._info = _served(info, config)
        self._info_message = info_to_wire(self._info)
        self._cache = VerdictCache(config.cache_bytes, self._info)
        self._streams: dict[Stream, str] = {}
        self._by_certificate = config.tls is not None and config.tls.client_ca is not None
        self._draining = False
        self._stream_bytes = config.queue_bytes // config.max_streams  # that a stream may hold
        self._unread_bytes: Counter[str] = Counter()  # of each client's calls of Execute
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.admission = Admission(self._info.slots, config.queue_size, config.queue_bytes)
        self.listeners: list[Listener] = []

    @errors_to_status
    async def execute(self, request: pb.ExecuteRequest | InvalidJob, context: Context) -> pb.ExecuteResponse:
        """Run one program. gRPC cancels this when the caller goes away or its deadline passes; that kills the run."""
        if isinstance(request, InvalidJob):
            raise request
        for field in ("cancel", "timeout_ms"):
            if getattr(request, field):
                raise InvalidJob(field, "is for ExecuteStream; here, cancel the call or set its deadline")
        if self._draining:
            raise Unavailable("the server is draining")
        caller = self._caller(context)
        with self._counted():
            response = await self._run(request, caller, context.time_remaining())
        self._count_until_read(response.ByteSize(), caller.name, context)
        return response

    @errors_to_status
    async def execute_stream(self, _requests: object, context: Context) -> None:
        """Run any number of programs on one call."""
        await self._serve(Stream, context)

    @errors_to_status
    async def execute_batches(self, _requests: object, context: Context) -> None:
        """Run any number of programs on one call, several in a message."""
        many = _MANY_PER_SLOT * self._info.slots
        await self._serve(functools.partial(BatchStream, many=many), context)

    async def _serve(self, kind: Callable[..., Stream], context: Context) -> None:
        caller = self._caller(context)

        async def run(request: pb.ExecuteRequest, remaining_s: float | None) -> pb.ExecuteResponse:
            await stream.until_read()
            return await self._run(request, caller, remaining_s, stream)

        stream = kind(run, context, self._config.stream_window, self._stream_bytes)
        with self._counted(), self._registered(stream, caller.name):
            await context.send_initial_metadata(
                (
                    (WINDOW_KEY, str(self._config.stream_window)),
                    (MAX_MESSAGE_KEY, str(self._config.max_message_bytes)),
                )
            )
            await stream.serve()

    @errors_to_status
    async def get_info(self, _request: pb.GetInfoRequest, _context: Context) -> pb.GetInfoResponse:
        """Tell what this server is."""
        return self._info_message

    async def drain(self) -> None:
        """Take no more, and wait until what was taken is answered."""
        self._draining = True
        for stream in self._streams:
            stream.drain()
        if self._calls:
            self._idle.clear()
        await self._idle.wait()

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Describe the methods to a gRPC server.

        Not by the generated registration: its deserialiser raises on malformed bytes, which gRPC answers as INTERNAL.
        """
        return {
            "Execute": grpc.unary_unary_rpc_method_handler(
                self.execute,
                request_deserializer=request_from_bytes,
                response_serializer=pb.ExecuteResponse.SerializeToString,
            ),
            "ExecuteStream": grpc.stream_stream_rpc_method_handler(
                self.execute_stream,
                request_deserializer=request_from_bytes,
                response_serializer=pb.ExecuteResponse.SerializeToString,
            ),
            "ExecuteBatches": grpc.stream_stream_rpc_method_handler(
                self.execute_batches,
                request_deserializer=requests_from_bytes,
                response_serializer=pb.ExecuteResponses.SerializeToString,
            ),
            "GetInfo": grpc.unary_unary_rpc_method_handler(
                self.get_info,
                request_deserializer=pb.GetInfoRequest.FromString,
                response_serializer=pb.GetInfoResponse.SerializeToString,
            ),
        }

    async def _run(
        self, request: pb.ExecuteRequest, caller: Caller, remaining_s: float | None, stream: Stream | None = None
    ) -> pb.ExecuteResponse:
        call = _Call(request, caller)
        try:
            job = job_from_wire(request)
            validate(job, self._info)
            key = self._cache.key(job) if job.cache else None
            outcome = self._cache.get(key, job.request_id) if key else None
            if outcome is None:
                outcome = await self._run_in_slot(job, request, call, remaining_s, stream)
                if key:
                    self._cache.put(key, outcome)
            response = outcome_to_wire(outcome)
        except BaseException as error:
            self._tell(call, code_of(error).name, None)
            raise
        response.request_id = job.request_id
        response.usage.queue_wait_ms += call.queue_wait_s * 1000
        if outcome.files:
            _fit(response, self._config.max_message_bytes)
        self._tell(call, "OK", outcome)
        return response

    async def _run_in_slot(
        self, job: Job, request: pb.ExecuteRequest, call: _Call, remaining_s: float | None, stream: Stream | None
    ) -> Outcome:
        size, client = request.ByteSize(), call.caller.name
        await self.admission.enter(client, size, remaining_s, patient=stream is not None)
        while stream is not None and not stream.is_read:  # a slot is not for waiting
            self.admission.leave(size, None)
            await stream.until_read()
            await self.admission.enter(client, size, remaining_s, patient=True)
        if stream is None and not self._is_read(client):
            self.admission.leave(size, None)
            raise Overloaded(f"this client leaves {self._unread_bytes[client]} bytes of answers unread")
        started_s = call.admitted()
        run_s = None
        try:
            outcome = await self._sandbox.run(job)
            run_s = call.run_s = time.monotonic() - started_s
            return outcome
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            logger.warning("the host is out of something: %s", error)
            raise Unavailable(f"the sandbox's host: {os.strerror(error.errno)}") from error
        finally:
            self.admission.leave(size, run_s)

    def _is_read(self, client: str) -> bool:
        """Whether a client of Execute reads its answers; they may fill as much memory as those of its streams."""
        return self._unread_bytes[client] <= self._stream_bytes * self._config.max_streams_per_client

    def _count_until_read(self, size: int, client: str, context: Context) -> None:
        def forget(_context: object) -> None:
            self._unread_bytes[client] -= size
            if not self._unread_bytes[client]:
                del self._unread_bytes[client]

        self._unread_bytes[client] += size
        context.add_done_callback(forget)  # type: ignore[arg-type]  # the stubs want a class of their own

    def _tell(self, call: _Call, status: str, outcome: Outcome | None) -> None:
        if not self.listeners:
            return
        record = CallRecord(
            request_id=call.request.request_id,
            client=call.caller.name,
            runtime=call.request.runtime or "python",
            status=status,
            verdict=str(outcome.verdict) if outcome else "",
            cached=outcome.cached if outcome else False,
            started_ns=call.started_ns,
            queue_wait_s=call.queue_wait_s,
            run_s=call.run_s,
            traceparent=call.caller.traceparent,
        )
        for listener in self.listeners:
            listener(record)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    @contextlib.contextmanager
    def _registered(self, stream: Stream, client: str) -> Iterator[None]:
        if len(self._streams) >= self._config.max_streams:
            raise Overloaded(f"there are {len(self._streams)} streams, as many as may be", retry_after_ms=1000)
        if Counter(self._streams.values())[client] >= self._config.max_streams_per_client:
            raise Overloaded(f"this client has {self._config.max_streams_per_client} streams, as many as it may")
        self._streams[stream] = client
        if self._draining:
            stream.drain()
        try:
            yield
        finally:
            del self._streams[stream]

    def _caller(self, context: Context) -> Caller:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        return Caller(self._client(context, metadata), metadata.get("traceparent", ""))

    def _client(self, context: Context, metadata: dict[str, str]) -> str:
        if self._by_certificate:
            return b",".join(context.peer_identities() or ()).decode("utf-8", "replace")
        peer = context.peer()
        if not peer.startswith(_LOCAL_PEERS):
            return peer.rpartition(":")[0]
        return metadata.get(CLIENT_KEY, peer)[:_MAX_CLIENT_CHARACTERS]


class _Call:
    """When what happened to one request."""

    __slots__ = ("_arrived_s", "caller", "queue_wait_s", "request", "run_s", "started_ns")

    def __init__(self, request: pb.ExecuteRequest, caller: Caller) -> None:
        self.request = request
        self.caller = caller
        self.started_ns = time.time_ns()
        self._arrived_s = time.monotonic()
        self.queue_wait_s = 0.0
        self.run_s = 0.0

    def admitted(self) -> float:
        """Note that it has a slot; answers the time."""
        now_s = time.monotonic()
        self.queue_wait_s = now_s - self._arrived_s
        return now_s


def _served(info: SandboxInfo, config: ServerConfig) -> SandboxInfo:
    """What the sandbox is once it is served: with a queue, and with output that fits a message."""
    most = config.max_message_bytes // 4
    default, maximum = info.default_limits, info.maximum_limits
    return replace(
        info,
        queue_size=config.queue_size,
        default_limits=replace(default, output_bytes=min(default.output_bytes, most)),
        maximum_limits=replace(maximum, output_bytes=min(maximum.output_bytes, most)),
    )


def _fit(response: pb.ExecuteResponse, max_bytes: int) -> None:
    """Leave out the last files until the rest fits into a message."""
    while response.files and response.ByteSize() > max_bytes:
        file = response.files.pop()
        response.files_refused.append(f"{file.path}: the files together are too large for one message")
