"""The one interface of every sandbox: in this process, behind gRPC, or a fake in a test."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from sandbox_server.jobs import Job, Outcome, SandboxInfo


class Sandbox(Protocol):
    """Runs jobs. Any number may be in flight; cancelling the awaiting task kills its run."""

    async def run(self, job: Job) -> Outcome:
        """Run one job.

        Returns:
            How the program ended, whatever it did.

        Raises:
            SandboxError: the sandbox's own trouble; `Retryable` ones may be tried again.
        """
        ...

    async def info(self) -> SandboxInfo:
        """Tell what this sandbox is, can run and enforces."""
        ...

    async def close(self) -> None:
        """Kill what runs and give everything back."""
        ...


@runtime_checkable
class CountsJails(Protocol):
    """A sandbox that tells how its jails fare, for metrics."""

    @property
    def jails_started(self) -> int:
        """Jails that were started, renewed ones included."""
        ...

    @property
    def jails_lost(self) -> int:
        """Jails that broke and were thrown away."""
        ...
