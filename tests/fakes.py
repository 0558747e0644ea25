"""Stand-ins that keep the contracts of the real ones."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from sandbox_server.jobs import (
    Assurance,
    Isolation,
    Job,
    Limits,
    Outcome,
    RuntimeInfo,
    SandboxInfo,
    TestReport,
    Verdict,
)

MIB = 1024 * 1024
LIMITS = Limits(
    wall_time_ms=10_000,
    cpu_time_ms=5_000,
    memory_bytes=256 * MIB,
    processes=16,
    open_files=64,
    file_size_bytes=16 * MIB,
    disk_bytes=32 * MIB,
    output_bytes=64 * 1024,
)
MAXIMUM = Limits(
    wall_time_ms=60_000,
    cpu_time_ms=60_000,
    memory_bytes=4096 * MIB,
    processes=256,
    open_files=1024,
    file_size_bytes=256 * MIB,
    disk_bytes=512 * MIB,
    output_bytes=4 * MIB,
)
INFO = SandboxInfo(
    version="0.0",
    runtimes=(
        RuntimeInfo("python", "CPython 3.11.2", ("six==1.17.0",), "f1", warm=False),
        RuntimeInfo("command", "", (), "f2", warm=False),
    ),
    default_limits=LIMITS,
    maximum_limits=MAXIMUM,
    slots=2,
    queue_size=4,
    isolation=Isolation(("user", "pid"), seccomp=True, cgroup="none", rootless=False, warnings=("it is a fake",)),
)

Behaviour = Callable[[Job], Awaitable[Outcome]]


async def passes(job: Job) -> Outcome:
    """Answer at once that the tests passed."""
    return Outcome(
        Verdict.PASSED,
        Assurance.TESTS_COMPLETED,
        request_id=job.request_id,
        exit_code=0,
        tests=TestReport(assertions_run=1, reached_end=True),
        runtime_fingerprint="f1",
    )


def answering_at_length(behaviour: Behaviour, request_id: str) -> Behaviour:
    """As `behaviour`, but the answer to one request is more than a connection takes in before its client reads."""

    async def at_length(job: Job) -> Outcome:
        outcome = await behaviour(job)
        return dataclasses.replace(outcome, stdout=bytes(24 << 20)) if job.request_id == request_id else outcome

    return at_length


class FakeSandbox:
    """A sandbox that runs nothing: `behaviour` answers every job after the first, which is the server's self-test.

    Attributes:
        started: the jobs that reached it.
        killed: those whose awaiting task was cancelled.
        running: how many run now.
        closed: whether it was closed.
    """

    def __init__(self, behaviour: Behaviour = passes, info: SandboxInfo = INFO) -> None:
        self.behaviour = behaviour
        self.started: list[Job] = []
        self.killed: list[Job] = []
        self.running = 0
        self.closed = False
        self._info = info

    async def run(self, job: Job) -> Outcome:
        self.started.append(job)
        self.running += 1
        try:
            return await self.behaviour(job)
        except asyncio.CancelledError:
            self.killed.append(job)
            raise
        finally:
            self.running -= 1

    async def info(self) -> SandboxInfo:
        return self._info

    async def close(self) -> None:
        self.closed = True
