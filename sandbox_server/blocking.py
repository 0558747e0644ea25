"""The client without asyncio: the same one, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from sandbox_server.jobs import Job, Outcome, SandboxInfo

if TYPE_CHECKING:
    from sandbox_server.client import ClientConfig, RemoteSandbox

T = TypeVar("T")


@contextlib.contextmanager
def connect_blocking(address: str, config: ClientConfig | None = None) -> Iterator[BlockingSandbox]:
    """Reach the sandbox at `address` and leave it when the block ends; see `connect`.

    with connect_blocking("127.0.0.1:50061") as sandbox:
        print(sandbox.run(Job(code="x = 1", tests="assert x == 1")).verdict)
    """
    from sandbox_server.client import connect  # it exports this function

    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sandbox-client", daemon=True)
    thread.start()
    try:
        connection = connect(address, config)
        remote = _wait(loop, connection.__aenter__())
        try:
            yield BlockingSandbox(loop, remote)
        finally:
            _wait(loop, connection.__aexit__(None, None, None))
    finally:
        _wait(loop, loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class BlockingSandbox:
    """A sandbox whose calls block. Any number of threads may use it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, remote: RemoteSandbox) -> None:
        self._loop = loop
        self._remote = remote

    @property
    def address(self) -> str:
        """Where it is."""
        return self._remote.address

    def run(self, job: Job) -> Outcome:
        """Run one job; see `RemoteSandbox.run`. An interrupt (Ctrl-C) kills the run."""
        return _wait(self._loop, self._remote.run(job))

    def map(self, jobs: Iterable[Job], in_flight: int = 64) -> Iterator[Outcome]:
        """Run many jobs at once and yield their outcomes in order.

        Args:
            jobs: taken as they are needed; there may be endlessly many.
            in_flight: runs at once.

        Raises:
            SandboxError: of the first job that has one, when its turn comes; the others are killed.
        """
        rest = iter(jobs)
        pending: deque[concurrent.futures.Future[Outcome]] = deque()
        try:
            for job in itertools.islice(rest, in_flight):
                pending.append(self._submit(job))
            while pending:
                outcome = pending.popleft().result()
                pending.extend(self._submit(job) for job in itertools.islice(rest, 1))
                yield outcome
        finally:
            for future in pending:
                future.cancel()

    def info(self) -> SandboxInfo:
        """Tell what this sandbox is."""
        return _wait(self._loop, self._remote.info())

    def _submit(self, job: Job) -> concurrent.futures.Future[Outcome]:
        return asyncio.run_coroutine_threadsafe(self._remote.run(job), self._loop)


def _wait(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
