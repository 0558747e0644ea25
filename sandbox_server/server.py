"""Serve a sandbox over gRPC: the composition root."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from sandbox_server.auth import RequireToken, read_token, server_credentials
from sandbox_server.config import ServerConfig
from sandbox_server.errors import HostUnfit
from sandbox_server.jobs import Job, SandboxInfo, Verdict
from sandbox_server.logs import is_no_departure
from sandbox_server.metrics import exposing
from sandbox_server.pressure import watching_pressure
from sandbox_server.records import log_call
from sandbox_server.sandbox import Sandbox
from sandbox_server.servicer import SandboxServicer
from sandbox_server.settings import SettingsError
from sandbox_server.tracing import tracing
from sandbox_server.wire import ENVELOPE_BYTES, SERVICE

logger = logging.getLogger(__name__)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_FLUSH_S = 0.1  # for the last answers to leave
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextlib.asynccontextmanager
async def serving(sandbox: Sandbox, config: ServerConfig) -> AsyncIterator[str]:
    """Serve `sandbox` until the block is left, then drain.

    Health turns SERVING once a real job has passed in every Python runtime. Draining turns it NOT_SERVING, refuses new
    calls, and lets those in flight finish for `config.drain_grace_s`; cancelling the drain ends them at once. The
    sandbox stays open: it is the caller's.

    Yields:
        The address that is bound, with the real port.

    Raises:
        SettingsError: the address, a certificate or the token cannot be used.
        HostUnfit: the sandbox does not pass its own self-test.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(is_no_departure)
    info = await sandbox.info()
    health = health_aio.HealthServicer()
    for name in ("", SERVICE):
        await health.set(name, _NOT_SERVING)
    server = grpc.aio.server(
        interceptors=[RequireToken(read_token(config.token_file))] if config.token_file else [],
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes + ENVELOPE_BYTES),
            ("grpc.max_send_message_length", config.max_message_bytes + ENVELOPE_BYTES),
            ("grpc.so_reuseport", 0),  # or a second server would silently share the port
            ("grpc.keepalive_time_ms", 60_000),  # a client whose machine is gone does not hold a stream for ever
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # what our own client sends is no abuse
        ],
    )
    servicer = SandboxServicer(sandbox, info, config)
    server.add_registered_method_handlers(SERVICE, servicer.handlers())
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    health_service = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((SERVICE, health_service, reflection.SERVICE_NAME), server)
    async with contextlib.AsyncExitStack() as stack:
        if config.log_runs:
            servicer.listeners.append(log_call)
        if config.metrics_address:
            servicer.listeners.append(
                stack.enter_context(exposing(config.metrics_address, servicer.admission, sandbox))
            )
        if config.trace_endpoint:
            servicer.listeners.append(stack.enter_context(tracing(config.trace_endpoint)))
        limits = {"memory": config.max_memory_pressure_percent, "cpu": config.max_cpu_pressure_percent}
        await stack.enter_async_context(watching_pressure(servicer.admission, limits))
        if config.health_address:
            await stack.enter_async_context(_telling_health(config.health_address, health))
        address = _bind(server, config)
        await server.start()
        try:
            await _self_test(sandbox, info)
            for name in ("", SERVICE):
                await health.set(name, _SERVING)
            logger.info("serving", extra={"address": address, "slots": info.slots})
            yield address
        finally:
            await _drain(server, servicer, health, config)


async def _drain(
    server: grpc.aio.Server, servicer: SandboxServicer, health: health_aio.HealthServicer, config: ServerConfig
) -> None:
    await health.enter_graceful_shutdown()
    try:
        await asyncio.sleep(config.drain_pause_s)
        # Not by server.stop(grace), which would also wait for those who watch our health, and they never end.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(servicer.drain(), config.drain_grace_s)
        await server.stop(_FLUSH_S)
    finally:
        await server.stop(None)  # after a cancelled drain: what is still in flight ends now
    logger.info("stopped")


@contextlib.asynccontextmanager
async def _telling_health(address: str, health: health_aio.HealthServicer) -> AsyncIterator[None]:
    """Answer health checks, and nothing else, in plain text: Kubernetes' probes know no TLS."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=64)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise SettingsError(f"health_address: {address} cannot be bound: in use, or not of this machine") from error
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


async def _self_test(sandbox: Sandbox, info: SandboxInfo) -> None:
    for runtime in info.runtimes:
        if not runtime.interpreter:  # a command runtime: what its commands are is not known here
            continue
        job = Job(code="def double(x):\n    return 2 * x\n", tests="assert double(21) == 42\n", runtime=runtime.name)
        outcome = await sandbox.run(job)
        if outcome.verdict is not Verdict.PASSED:
            reason = outcome.error.message if outcome.error else outcome.stderr.decode("utf-8", "replace")[-500:]
            raise HostUnfit(f"the self-test of runtime {runtime.name!r} ended with {outcome.verdict}: {reason}")


def _bind(server: grpc.aio.Server, config: ServerConfig) -> str:
    if config.address.startswith("unix:"):
        return _bind_unix(server, config)
    try:
        if config.tls:
            port = server.add_secure_port(config.address, server_credentials(config.tls))
        else:
            port = server.add_insecure_port(config.address)
    except RuntimeError as error:
        raise SettingsError(f"address: {config.address} cannot be bound: in use, or not of this machine") from error
    return f"{config.address.rpartition(':')[0]}:{port}"


def _bind_unix(server: grpc.aio.Server, config: ServerConfig) -> str:
    path = Path(config.address.removeprefix("unix:"))
    if _is_listening(path):
        raise SettingsError(f"address: {config.address} is in use by another server")
    mask = os.umask(0o177)  # whoever can connect can run programs: this user only
    try:
        server.add_insecure_port(config.address)
    except RuntimeError as error:
        raise SettingsError(f"address: {config.address} cannot be bound: {_why_not(path)}") from error
    finally:
        os.umask(mask)
    return config.address


def _why_not(path: Path) -> str:
    """Why a unix socket cannot be made there: gRPC does not tell."""
    if os.path.lexists(path) and not path.is_socket():
        return "what is there is no socket"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    return f"{path.parent} cannot be written to: it is another user's, read-only, or its disk is full"


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
