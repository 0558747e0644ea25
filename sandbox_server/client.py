"""Reach a sandbox: `connect` gives one that behaves like any other `Sandbox`, wherever it runs.

    async with connect("127.0.0.1:50061") as sandbox:
        outcome = await sandbox.run(Job(code="def f(): return 1", tests="assert f() == 1"))

and `connect_blocking` the same without asyncio. Both need neither torch nor a database.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

from sandbox_server.blocking import BlockingSandbox, connect_blocking
from sandbox_server.endpoint import Credentials, Endpoint
from sandbox_server.errors import DeadlineExceeded, Overloaded, Retryable, SandboxError, Unavailable
from sandbox_server.jobs import Job, Outcome, SandboxInfo
from sandbox_server.wire import info_from_wire, job_to_wire, outcome_from_wire

__all__ = ["BlockingSandbox", "ClientConfig", "Credentials", "RemoteSandbox", "connect", "connect_blocking"]

EMBEDDED = "embedded"
_DNS = "dns:///"
_RESOLVE_AGAIN_S = 10.0
_AVOID_S = 1.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.05, 2.0


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How to call.

    Args:
        timeout_s: deadline of one `run`, waiting and retries included. None waits for ever.
        connect_timeout_s: how long `connect` waits for a server that is healthy.
        retry_for_s: how long a `Retryable` error is tried again; 0 never.
        credentials: token and TLS.
    """

    timeout_s: float | None = 600.0
    connect_timeout_s: float = 10.0
    retry_for_s: float = 120.0
    credentials: Credentials = Credentials()


@contextlib.asynccontextmanager
async def connect(address: str, config: ClientConfig | None = None) -> AsyncIterator[RemoteSandbox]:
    """Reach the sandbox at `address` and leave it when the block ends.

    Args:
        address: one or more, with commas between, of ``host:port``, ``unix:/path``, and ``dns:///name:port`` for every
            server that the name resolves to, now and later; or ``embedded``: a server of one's own, as long as the
            block runs.
        config: how to call.

    Raises:
        Unavailable: nothing serves there.
        Unauthenticated: it wants a token, or another one.
        HostUnfit: an embedded server cannot run on this host.
    """
    if address == EMBEDDED:
        from sandbox_server.embedded import embedded_sandbox  # it imports this module

        async with embedded_sandbox(client=config) as sandbox:
            yield sandbox
        return
    sandbox = RemoteSandbox(address, config)
    try:
        await sandbox.wait_until_serving()
        yield sandbox
    finally:
        await sandbox.close()


class RemoteSandbox:
    """The sandboxes behind one or more addresses, as one. Prefer `connect`, which waits for them and closes.

    With several servers a run goes to the one with the fewest in flight among the healthy (round robin between equals);
    one that drains or dies gets nothing more, and what it had in flight runs elsewhere.
    """

    def __init__(self, address: str, config: ClientConfig | None = None) -> None:
        self.address = address
        self._config = config or ClientConfig()
        self._parts = [part.strip() for part in address.split(",") if part.strip()]
        for part in self._parts or [""]:
            if not _is_address(part):
                raise Unavailable(
                    f"{part!r} is no address; expected host:port, [ipv6]:port, unix:/path or {EMBEDDED!r}"
                )
        self._name = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._turns = itertools.count()
        self._endpoints: dict[str, Endpoint] = {}
        self._last_turn: dict[str, int] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._resolver: asyncio.Task[None] | None = None
        self._closed = False
        self._set_addresses(part for part in self._parts if not part.startswith(_DNS))

    async def run(self, job: Job) -> Outcome:
        """Run one job, and again while no server can: a run has no effect that a second could harm.

        Cancelling the awaiting task kills the run.

        Raises:
            InvalidJob: the job is malformed.
            Unsupported: the server does not do what the job asks.
            DeadlineExceeded: `ClientConfig.timeout_s` passed.
            Retryable: the servers stayed overloaded or away for `ClientConfig.retry_for_s`.
            SandboxError: what else went wrong with the sandbox.
        """
        request = job_to_wire(job)
        clock = asyncio.get_running_loop().time
        started_s = clock()
        timeout_s = self._config.timeout_s
        for attempt in itertools.count():
            left_s = None if timeout_s is None else timeout_s - (clock() - started_s)
            if left_s is not None and left_s <= 0:
                raise DeadlineExceeded(f"no answer within {timeout_s:g} s")
            try:
                endpoint = self._choose(clock())
                try:
                    response = await endpoint.run(request, left_s)
                except Unavailable:
                    endpoint.avoid_until_s = clock() + _AVOID_S
                    raise
                response.request_id = job.request_id
                return outcome_from_wire(response)
            except Retryable as error:
                delay_s = _delay_s(attempt, error)
                if self._closed or clock() - started_s + delay_s > self._config.retry_for_s:
                    raise
            await asyncio.sleep(delay_s)
        raise AssertionError("unreachable")

    async def info(self) -> SandboxInfo:
        """Ask one server what it is; those behind one client should be alike."""
        endpoint = self._choose(asyncio.get_running_loop().time())
        return info_from_wire(await endpoint.info(self._config.connect_timeout_s))

    async def wait_until_serving(self) -> SandboxInfo:
        """Wait until a server is healthy, at most `ClientConfig.connect_timeout_s`, and ask it what it is."""
        limit_s = self._config.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._start()
                endpoint = await self._first_serving()
        except (TimeoutError, Retryable, DeadlineExceeded) as error:
            why = _why_silent(self._parts, self._config.credentials)
            raise Unavailable(
                f"no sandbox serves at {self.address} within {limit_s:g} s ({why}); start one with "
                f"`selfalign sandbox serve --address {self._parts[0]}`, or use the address {EMBEDDED!r}"
            ) from error
        return info_from_wire(await endpoint.info(limit_s))

    async def close(self) -> None:
        """Kill what is in flight and close the connections."""
        self._closed = True
        if self._resolver is not None:
            self._resolver.cancel()
            await asyncio.gather(self._resolver, return_exceptions=True)
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints.values()), *self._closing)

    async def _start(self) -> None:
        names = [part for part in self._parts if part.startswith(_DNS)]
        if names:
            await self._resolve(names)
            self._resolver = asyncio.create_task(self._resolve_for_ever(names))
        elif len(self._parts) > 1:
            for endpoint in self._endpoints.values():
                endpoint.watch()

    async def _first_serving(self) -> Endpoint:
        async def serving(endpoint: Endpoint) -> Endpoint:
            while not await endpoint.is_serving(self._config.connect_timeout_s):  # noqa: ASYNC110  # of another process
                await asyncio.sleep(0.02)
            return endpoint

        tasks = [asyncio.create_task(serving(endpoint)) for endpoint in self._endpoints.values()]
        try:
            trouble: SandboxError = Unavailable("no address")
            for task in asyncio.as_completed(tasks):
                try:
                    return await task
                except SandboxError as error:
                    trouble = error
            raise trouble
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _choose(self, now_s: float) -> Endpoint:
        if len(self._endpoints) == 1:
            return next(iter(self._endpoints.values()))
        if not self._endpoints:
            raise Unavailable(f"{self.address} has no server")
        best = min(
            self._endpoints.values(),
            key=lambda one: (not one.serving, one.avoid_until_s > now_s, one.in_flight, self._last_turn[one.address]),
        )
        self._last_turn[best.address] = next(self._turns)
        return best

    def _set_addresses(self, addresses: Iterable[str], server_names: dict[str, str] | None = None) -> list[Endpoint]:
        """Make the endpoints those of `addresses`; answers the new ones. Those that leave finish what they have."""
        wanted = list(dict.fromkeys(addresses))
        for address in [address for address in self._endpoints if address not in wanted]:
            leaving = self._endpoints.pop(address)
            task = asyncio.ensure_future(_close_when_idle(leaving))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        new = []
        for address in wanted:
            if address not in self._endpoints:
                name = (server_names or {}).get(address)
                self._endpoints[address] = Endpoint(address, self._config.credentials, self._name, name)
                self._last_turn[address] = next(self._turns)
                new.append(self._endpoints[address])
        return new

    async def _resolve_for_ever(self, names: list[str]) -> None:
        while True:
            await asyncio.sleep(_RESOLVE_AGAIN_S)
            with contextlib.suppress(Unavailable):  # what was known before still holds
                await self._resolve(names)

    async def _resolve(self, names: list[str]) -> None:
        addresses = [part for part in self._parts if not part.startswith(_DNS)]
        server_names: dict[str, str] = {}
        for name in names:
            host, _, port = name.removeprefix(_DNS).rpartition(":")
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
            except (OSError, ValueError) as error:
                raise Unavailable(f"{name} does not resolve: {error}") from error
            for _, _, _, _, (ip, *_) in found:
                address = f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"
                addresses.append(address)
                server_names[address] = host
        for endpoint in self._set_addresses(addresses, server_names):
            endpoint.watch()


def _why_silent(parts: list[str], credentials: Credentials) -> str:
    """What may be seen from here of why nobody answers."""
    for path in (Path(part.removeprefix("unix:")) for part in parts if part.startswith("unix:")):
        if not path.exists():
            return f"there is no socket {path}, or this user may not see it"
        if not os.access(path, os.W_OK):
            return f"{path} is another user's, who alone may use it"
        return f"{path} is there: its server is not ready, or was killed"
    return f"asked {'with' if credentials.speak_tls else 'without'} TLS"  # the wrong one looks like nobody


def _is_address(part: str) -> bool:
    """Whether it can be one at all: nobody should wait for a server at ``http://host`` or at a name without a port."""
    if part.startswith("unix:"):
        return part != "unix:"
    host, _, port = part.removeprefix(_DNS).rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return False
    return bool(host) and "/" not in host and port.isdecimal() and 0 < int(port) < 65536


async def _close_when_idle(endpoint: Endpoint) -> None:
    while endpoint.in_flight:  # noqa: ASYNC110  # runs take longer than looking
        await asyncio.sleep(0.1)
    await endpoint.close()


def _delay_s(attempt: int, trouble: Retryable) -> float:
    """Full jitter (Brooker 2015): uniform below a doubling ceiling, so that refused clients do not come back as one."""
    ceiling_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** min(attempt, 10))
    least_s = (trouble.retry_after_ms or 0) / 1000 if isinstance(trouble, Overloaded) else 0.0
    return least_s + random.uniform(0, ceiling_s)  # noqa: S311  # spreading load, not keeping a secret
