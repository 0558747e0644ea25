"""Real servers of one slot each, and the attacks spread over them.

One slot a server, so that the run after an attack is the next one in the very slot that was attacked; several servers, so
that the many attacks that wait for a limit wait together.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_server.client import ClientConfig, RemoteSandbox
from sandbox_server.errors import SandboxError
from sandbox_server.jobs import Outcome
from tests.attacks.attack import Attack
from tests.attacks.host import Host, descendants
from tests.attacks.probe import PROBE, differences, world

_REPOSITORY = Path(__file__).resolve().parents[2]
_SERVE = (sys.executable, "-m", "sandbox_server", "serve")
_CLIENT = ClientConfig(timeout_s=60.0, connect_timeout_s=60.0, retry_for_s=20.0)


@dataclass(slots=True)
class Report:
    """What came of an attack."""

    outcome: Outcome | None = None
    error: SandboxError | None = None
    harm: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve(
    host: Host, name: str, *settings: str, as_user: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start a server in the middle of the host's secrets, and give its process and address.

    Args:
        host: where.
        name: of its socket and log.
        settings: for ``--set``.
        as_user: a command that starts another as some user.
    """
    address = f"unix:{host.servers}/{name}.sock"
    leak = os.open(host.files[0], os.O_RDONLY)  # a descriptor that it inherits without wanting to
    arguments = [part for setting in (*settings, "log_level=warning") for part in ("--set", setting)]
    try:
        with (host.folder / "secret").open("rb") as stdin, (host.servers / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*as_user, *_SERVE, "--address", address, "--parent-pid", str(os.getpid()), *arguments],
                cwd=host.cwd,
                env={
                    **os.environ,
                    "HOME": str(host.home),
                    "PYTHONPATH": str(_REPOSITORY),
                    "API_KEY": host.secret,
                    "LANG": "C.UTF-8",
                },
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(leak,),
            )
    finally:
        os.close(leak)
    try:
        yield process, address
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Lanes:
    """The servers, and a thread that talks to them."""

    def __init__(self, host: Host, processes: list[tuple[subprocess.Popen[bytes], str]]) -> None:
        self._host = host
        self._servers = processes
        self._reports: dict[str, Future[Report]] = {}
        self._thread = threading.Thread(target=self._main, name="attacks")
        self._attacks: list[tuple[str, Attack]] = []
        self.restarts = 0

    def start(self, attacks: Iterable[tuple[str, Attack]]) -> None:
        """Begin with these; `report` waits for one."""
        self._attacks = list(attacks)
        self._reports = {key: Future() for key, _ in self._attacks}
        self._thread.start()

    def report(self, key: str) -> Report:
        """What came of the attack with this key, when it is known."""
        return self._reports[key].result()

    def join(self) -> None:
        """Wait until all is done."""
        if self._thread.ident is not None:
            self._thread.join()

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            for report in self._reports.values():
                if not report.done():
                    report.set_exception(RuntimeError(f"no lane is left: {error!r}"))

    async def _run(self) -> None:
        waiting = iter(self._attacks)
        lanes = [Lane(self._host, process, address) for process, address in self._servers]
        results = await asyncio.gather(*(self._work(lane, waiting) for lane in lanes), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _work(self, lane: Lane, waiting: Iterator[tuple[str, Attack]]) -> None:
        async with lane:
            for key, attack in waiting:
                report = self._reports[key]
                try:
                    report.set_result(await lane.attack(attack))
                except BaseException as error:
                    report.set_exception(error)
                    if lane.is_dead():
                        raise


class Lane:
    """One server of one slot.

    Args:
        host: where it runs.
        process: the server.
        address: where it listens.
    """

    def __init__(self, host: Host, process: subprocess.Popen[bytes], address: str) -> None:
        self._host = host
        self._process = process
        self._processes = 0
        self._facts = {
            **host.facts,
            "SERVER_SOCKET": address.removeprefix("unix:"),
            "SERVER_PID": str(process.pid),
        }
        self._sandbox = RemoteSandbox(address, _CLIENT)
        self._words = host.words_that_must_not_come_out()

    async def __aenter__(self) -> None:
        ready = asyncio.ensure_future(self._sandbox.wait_until_serving())
        while not ready.done() and not self.is_dead():
            await asyncio.wait((ready,), timeout=0.1)
        if self.is_dead():
            ready.cancel()
            log = self._host.servers / Path(self._facts["SERVER_SOCKET"]).with_suffix(".log").name
            raise RuntimeError(f"the server does not start: {log.read_text()[-1000:]}")
        await ready
        self._fresh = world(await self._sandbox.run(PROBE))
        world(await self._sandbox.run(PROBE))  # descriptors and threads that come with use are there from now on
        # A slot makes the next program's process while we have the answer already.
        while self._processes != (seen := len(descendants(self._process.pid))):
            self._processes = seen
            await asyncio.sleep(0.2)
        self._descriptors = self._count_descriptors()

    async def __aexit__(self, *_: object) -> None:
        await self._sandbox.close()

    def is_dead(self) -> bool:
        """True if the server has ended."""
        return self._process.poll() is not None

    async def attack(self, attack: Attack) -> Report:
        """Run it, then the probe, then look over the host."""
        report = Report()
        try:
            for job in attack.jobs(self._facts):
                report.outcome = await self._sandbox.run(job)
        except SandboxError as error:
            report.error = error
        else:
            answer = _bytes(report.outcome)
            report.harm += [f"came out: {word.decode()}" for word in self._words if word in answer]
        report.harm += differences(self._fresh, world(await self._sandbox.run(PROBE)))
        report.harm += self._host.harm()
        report.harm += await self._leftovers()
        return report

    async def _leftovers(self) -> list[str]:
        """What the run left below the server; a slot that is being replaced gets a moment."""
        if self.is_dead():
            return [f"the server ended with {self._process.returncode}"]
        deadline = time.monotonic() + 5
        while True:
            found = []
            below = descendants(self._process.pid)
            if len(below) != self._processes or any("zombie" in name for name in below.values()):
                found.append(f"{len(below)} processes below the server and not {self._processes}: {below}")
            if self._count_descriptors() > self._descriptors:
                found.append(f"{self._count_descriptors()} descriptors in the server and not {self._descriptors}")
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.02)

    def _count_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))


def _bytes(outcome: Outcome | None) -> bytes:
    """Everything that an outcome says."""
    assert outcome is not None
    files = [part for file in outcome.files for part in (file.path.encode("utf-8", "surrogateescape"), file.content)]
    return b"\n".join([outcome.stdout, outcome.stderr, *files, repr((outcome.error, outcome.tests)).encode()])
