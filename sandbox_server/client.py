"""Reach a sandbox: `connect` gives one that behaves like any other `Sandbox`, wherever it runs.

async with connect("127.0.0.1:50061") as sandbox:
    outcome = await sandbox.run(Job(code="def f(): return 1", tests="assert f() == 1"))
    print(outcome.verdict)
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sandbox_server.errors import Broken, DeadlineExceeded, InvalidJob, Overloaded, Retryable, SandboxError, Unavailable
from sandbox_server.jobs import Job, Outcome, SandboxInfo
from sandbox_server.statuses import error_of
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.v1 import sandbox_pb2_grpc as pb_grpc
from sandbox_server.wire import SERVICE, info_from_wire, job_to_wire, outcome_from_wire

EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How to call.

    Args:
        timeout_s: deadline of one `run`, waiting and retries included. None waits for ever.
        connect_timeout_s: how long `connect` waits for a server that answers.
        retry_for_s: how long a `Retryable` error is tried again; 0 never.
        token: sent as ``authorization: Bearer ...``.
        ca: certificate authority to check the server by; set it (or `tls`) to use TLS.
        certificate: this client's certificate, for mTLS; with `key`.
        key: the key of `certificate`.
        tls: use TLS, trusting the system's authorities when `ca` is not set.
        max_message_bytes: largest request and largest response; not above the server's.
    """

    timeout_s: float | None = 600.0
    connect_timeout_s: float = 10.0
    retry_for_s: float = 120.0
    token: str | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    tls: bool = False
    max_message_bytes: int = 32 * 1024 * 1024


@contextlib.asynccontextmanager
async def connect(address: str, config: ClientConfig | None = None) -> AsyncIterator[RemoteSandbox]:
    """Reach the sandbox at `address` and leave it when the block ends.

    Args:
        address: ``host:port``, ``unix:/path``, or ``embedded`` for a server of one's own, as long as the block runs.
        config: how to call.

    Raises:
        Unavailable: nothing answers there.
        Unauthenticated: it wants a token, or another one.
        HostUnfit: an embedded server cannot run on this host.
    """
    if address == EMBEDDED:
        from sandbox_server.embedded import embedded_sandbox  # it imports this module

        async with embedded_sandbox(client=config) as sandbox:
            yield sandbox
        return
    sandbox = RemoteSandbox(address, config or ClientConfig())
    try:
        await sandbox.wait_until_serving()
        yield sandbox
    finally:
        await sandbox.close()


class RemoteSandbox:
    """A sandbox behind gRPC. Prefer `connect`, which also waits for the server and closes."""

    def __init__(self, address: str, config: ClientConfig) -> None:
        self.address = address
        self._config = config
        self._channel = _open_channel(address, config)
        self._stub = pb_grpc.SandboxServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._metadata = (("authorization", f"Bearer {config.token}"),) if config.token else None

    async def run(self, job: Job) -> Outcome:
        """Run one job, and again while the server is overloaded or away: a run has no effect that a second could harm.

        Cancelling the awaiting task kills the run.

        Raises:
            InvalidJob: the job is malformed.
            Unsupported: the server does not do what the job asks.
            DeadlineExceeded: `ClientConfig.timeout_s` passed.
            Retryable: the server stayed overloaded or away for `ClientConfig.retry_for_s`.
            SandboxError: what else went wrong with the sandbox.
        """
        request = job_to_wire(job)
        if request.ByteSize() > self._config.max_message_bytes:
            raise InvalidJob(
                "request",
                f"is {request.ByteSize()} bytes, more than a message may hold: {self._config.max_message_bytes}",
            )
        clock = asyncio.get_running_loop().time
        started = clock()
        attempt = 0
        while True:
            timeout = None if self._config.timeout_s is None else self._config.timeout_s - (clock() - started)
            try:
                if timeout is not None and timeout <= 0:
                    raise DeadlineExceeded(f"no answer within {self._config.timeout_s} s")
                return outcome_from_wire(await self._stub.Execute(request, timeout=timeout, metadata=self._metadata))
            except grpc.aio.AioRpcError as error:
                trouble = _error_of(error)
            if not isinstance(trouble, Retryable):
                raise trouble
            delay = _delay_s(attempt, trouble)
            if clock() - started + delay > self._config.retry_for_s:
                raise trouble
            await asyncio.sleep(delay)
            attempt += 1

    async def info(self) -> SandboxInfo:
        """Ask the server what it is."""
        try:
            return info_from_wire(
                await self._stub.GetInfo(
                    pb.GetInfoRequest(), timeout=self._config.connect_timeout_s, metadata=self._metadata
                )
            )
        except grpc.aio.AioRpcError as error:
            raise _error_of(error) from error

    async def wait_until_serving(self) -> SandboxInfo:
        """Wait until the server is healthy, at most `ClientConfig.connect_timeout_s`, and ask it what it is."""
        limit_s = self._config.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                while not await self._is_serving():  # noqa: ASYNC110  # what is awaited is in another process
                    await asyncio.sleep(0.02)
        except (TimeoutError, Retryable, DeadlineExceeded) as error:
            raise Unavailable(
                f"no sandbox serves at {self.address} within {limit_s:g} s; start one with "
                f"`selfalign sandbox serve --address {self.address}`, or use the address {EMBEDDED!r}"
            ) from error
        return await self.info()

    async def _is_serving(self) -> bool:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            answer = await self._health.Check(request, timeout=self._config.connect_timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise _error_of(error) from error
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Cancel what is in flight and close the connection."""
        await self._channel.close()


def _error_of(error: grpc.aio.AioRpcError) -> SandboxError:
    return error_of(error.code(), error.details(), error.trailing_metadata())


def _delay_s(attempt: int, trouble: Retryable) -> float:
    """Full jitter (Brooker 2015): uniform below a doubling ceiling, so that refused clients do not come back as one."""
    ceiling = min(2.0, 0.05 * 2**attempt)
    least = (trouble.retry_after_ms or 0) / 1000 if isinstance(trouble, Overloaded) else 0.0
    return least + random.uniform(0, ceiling)  # noqa: S311  # spreading load, not keeping a secret


def _open_channel(address: str, config: ClientConfig) -> grpc.aio.Channel:
    options: Sequence[tuple[str, object]] = (
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment is not meant for this
        ("grpc.enable_retries", 0),  # `run` retries, and knows what is safe
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    )
    if not (config.tls or config.ca or config.certificate):
        return grpc.aio.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(config.ca), private_key=_read(config.key), certificate_chain=_read(config.certificate)
    )
    return grpc.aio.secure_channel(address, credentials, options=options)


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise Broken(f"{path}: cannot be read: {error.strerror}") from error
