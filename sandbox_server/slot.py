"""One slot: a jail and its control group, which runs one program at a time.

Everything that a verdict rests on is gathered here, from outside the program: the wait status that the jail's first
process saw, our own timers, the control group's counters, and what came through the pipes, drained while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
from dataclasses import dataclass, field
from typing import Any

from sandbox_server import nsjail
from sandbox_server.cgroup import Group
from sandbox_server.errors import Broken, HostUnfit, Unavailable
from sandbox_server.guest.wire import DONE, HAS_COLLECT, HAS_LINK, HAS_STDIN, SETTINGS
from sandbox_server.jobs import Limits

_logger = logging.getLogger(__name__)
_START_SECONDS = 30.0
_KILL_SECONDS = 5.0  # from asking for a run's end to giving the slot up
_REPORT_BYTES = 1 << 20
_COLLECTED_BYTES = 80 << 20
_PIPE_READ = 1 << 16
_SPARE_PROCESSES = 4  # what the jail itself needs below a limit on processes


@dataclass(slots=True)
class Evidence:
    """What was seen of a run, before any judgement."""

    status: int = 0  # as from wait(2)
    stopped: str = ""  # why we killed it: "wall", "cpu", "output"; empty if we did not
    wall_time_ms: float = 0.0
    cpu_time_ms: float = 0.0
    peak_memory_bytes: int = 0
    memory_kills: int = 0
    process_refusals: int = 0
    cpu_limit_reached: bool = False
    disk_full: bool = False
    slot_lost: bool = False
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    report: bytearray = field(default_factory=bytearray)
    collected: bytearray = field(default_factory=bytearray)


class Slot:
    """A started jail. Not for two runs at once."""

    def __init__(
        self, process: subprocess.Popen[bytes], control: socket.socket, group: Group, log: int, nested: bool
    ) -> None:
        self.healthy = True
        self.nested = nested
        self.served = 0
        self._process = process
        self._control = control
        self._group = group
        self._log = log
        self._run: _Run | None = None

    @classmethod
    async def start(cls, jail_of: Any, group: Group, program_filter: bytes, nested: bool) -> Slot:
        """Start a jail and wait until its first process is ready.

        Args:
            jail_of: makes the `nsjail.Jail`, given the descriptors of the control socket and of the log.
            group: the slot's own control group.
            program_filter: the compiled system call filter of programs.
            nested: the jail can run many programs; else one.

        Raises:
            HostUnfit: the jail did not start; the message is nsjail's own.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        log = os.memfd_create("nsjail-log")
        try:
            process = nsjail.start(jail_of(theirs.fileno(), log))
        except OSError as error:
            ours.close()
            os.close(log)
            raise HostUnfit(f"nsjail does not start: {error}") from error
        finally:
            theirs.close()
        slot = cls(process, ours, group, log, nested)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await slot._handshake(program_filter)
        except (OSError, TimeoutError, ValueError) as error:
            said = slot._log_text()
            await slot.close()
            raise HostUnfit(f"the jail did not start: {said or error}") from error
        except BaseException:
            await slot.close()
            raise
        return slot

    async def _handshake(self, program_filter: bytes) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._control, ready.set_result, None)
        try:
            await ready
        finally:
            loop.remove_reader(self._control)
        message, ancillary, _, _ = self._control.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("3i")))
        if not message:
            raise OSError("its first process ended at once")
        self.hello: dict[str, Any] = json.loads(message)
        # The kernel translates the sender's pid to our namespace.
        pids = [
            struct.unpack("3i", data[:12])[0]
            for level, kind, data in ancillary
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS
        ]
        if not pids or pids[0] <= 0:
            raise OSError("its first process has no pid here")
        self._group.attach(pids[0])
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        self._control.send(program_filter)

    async def run(
        self, request: bytes, stdin: bytes, limits: Limits, collect: bool, link: int | None = None
    ) -> Evidence:
        """Run one program.

        Args:
            request: what the guest's `candidate` reads.
            stdin: the program's standard input.
            limits: complete limits.
            collect: the request names files to return.
            link: one end of a socket for the program to speak to its judge; it stays the caller's.

        Raises:
            Unavailable: the slot was lost with the program in it.
        """
        self.served += 1
        run = self._run = _Run(self._control, self._group, limits)
        try:
            run.send(request, stdin, collect, link)
            evidence = await run.finish()
            self.healthy = not evidence.slot_lost
            return evidence
        except (Unavailable, Broken, OSError) as error:
            self.healthy = False
            _logger.warning("a slot was lost: %s; the jail said: %s", error, self._log_text() or "nothing")
            if isinstance(error, OSError):
                raise Unavailable(f"the slot was lost: {error}") from error
            raise
        except asyncio.CancelledError:
            # The slot is whole again once the program is dead.
            run.stop("cancelled")
            try:
                await run.finish()
            except (Unavailable, OSError):
                self.healthy = False
            raise
        finally:
            self._run = None
            run.release()

    def stop(self) -> None:
        """Kill the program of the run under way, which has done its part."""
        if self._run is not None:
            self._run.stop("done")

    async def close(self) -> None:
        """Kill the jail with all that runs in it, and remove its control group."""
        self.healthy = False
        with contextlib.suppress(OSError):
            self._control.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._end)

    def _end(self) -> None:
        # Closing the control socket ends the jail's first process, and the kernel everything below it.
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._group.remove()  # kills what is inside
            self._process.kill()
            self._process.wait()
        else:
            self._group.remove()
        with contextlib.suppress(OSError):
            os.close(self._log)

    def _log_text(self) -> str:
        """nsjail's own complaints, one line."""
        text = os.pread(self._log, 4096, 0).decode(errors="replace")
        lines = [line for line in text.splitlines() if "no version information" not in line]
        return " ".join(lines)[-1000:]


class _Run:
    """One program on its way through a slot."""

    def __init__(self, control: socket.socket, group: Group, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._group = group
        self._limits = limits
        self._evidence = Evidence()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._readers: dict[int, tuple[bytearray, int, str]] = {}
        self._timers: list[asyncio.TimerHandle] = []
        self._stopping = False

    def send(self, request: bytes, stdin: bytes, collect: bool, link: int | None) -> None:
        """Hand the program to the slot's first process and start the clocks."""
        limits, evidence, group = self._limits, self._evidence, self._group
        group.set_limits(limits.memory_bytes, limits.processes + _SPARE_PROCESSES)
        group.begin()
        counted = group.version != "none"
        settings = SETTINGS.pack(
            0 if counted else limits.memory_bytes,
            -(-limits.cpu_time_ms // 1000) + 1,
            0 if counted else limits.processes,
            limits.open_files,
            limits.file_size_bytes,
            limits.disk_bytes,
            (HAS_STDIN if stdin else 0) | (HAS_COLLECT if collect else 0) | (0 if link is None else HAS_LINK),
        )
        given = [_memory_file(request)]
        try:
            given.append(self._pipe(evidence.report, _REPORT_BYTES, "report"))
            given.append(self._pipe(evidence.stdout, limits.output_bytes, "stdout"))
            given.append(self._pipe(evidence.stderr, limits.output_bytes, "stderr"))
            if stdin:
                given.append(_memory_file(stdin))
            if link is not None:
                given.append(os.dup(link))
            if collect:
                given.append(self._pipe(evidence.collected, _COLLECTED_BYTES, "collected"))
            socket.send_fds(self._control, [b"R" + settings], given)
        finally:
            for fd in given:
                os.close(fd)
        for fd in self._readers:
            self._loop.add_reader(fd, self._drain, fd)
        self._loop.add_reader(self._control, self._on_control)
        self._timers = [self._loop.call_later(limits.wall_time_ms / 1000, self.stop, "wall")]
        if counted:
            self._watch_cpu()

    def _pipe(self, buffer: bytearray, cap: int, name: str) -> int:
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        self._readers[read] = (buffer, cap, name)
        return write

    async def finish(self) -> Evidence:
        """Wait until every process of the run is dead."""
        await asyncio.shield(self._done)
        return self._evidence

    def stop(self, reason: str) -> None:
        """Kill the program."""
        if self._stopping or self._done.done():
            return
        self._stopping = True
        self._evidence.stopped = reason
        self._timers.append(self._loop.call_later(_KILL_SECONDS, self._give_up))
        try:
            self._control.send(b"K")
        except OSError:
            self._give_up()

    def release(self) -> None:
        """Give back every descriptor and timer."""
        for timer in self._timers:
            timer.cancel()
        self._loop.remove_reader(self._control)
        for fd in self._readers:
            self._loop.remove_reader(fd)
            os.close(fd)
        self._readers.clear()

    def _give_up(self) -> None:
        if not self._done.done():
            self._done.set_exception(Unavailable("the slot does not answer; it is replaced, try again"))

    def _watch_cpu(self) -> None:
        """Stop the program at its CPU limit; looks again no earlier than all processors together could reach it."""
        left = self._limits.cpu_time_ms - self._group.cpu_time_ns() / 1e6
        if left <= 0:
            self.stop("cpu")
        else:
            pause = max(left / 1000 / _PROCESSORS, 0.002)
            self._timers[1:] = [self._loop.call_later(pause, self._watch_cpu), *self._timers[2:]]

    def _on_control(self) -> None:
        try:
            message = self._control.recv(256)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if self._done.done():
            return
        if len(message) != DONE.size:
            self._evidence.slot_lost = True
            self._measure()
            if self._evidence.memory_kills:
                # The kernel took the jail's first process along: the program's doing all the same.
                self._evidence.status = signal.SIGKILL
                self._done.set_result(None)
            else:
                self._done.set_exception(Unavailable("the slot was lost; it is replaced, try again"))
            return
        evidence = self._evidence
        evidence.status, wall, cpu, largest, full = DONE.unpack(message)
        evidence.wall_time_ms = wall / 1e6
        evidence.cpu_time_ms = cpu / 1e6
        evidence.peak_memory_bytes = largest * 1024
        evidence.disk_full = bool(full)
        self._measure()
        for fd in self._readers:
            while self._drain(fd):
                pass
        self._done.set_result(None)

    def _measure(self) -> None:
        group, evidence = self._group, self._evidence
        if group.version != "none":
            evidence.cpu_time_ms = group.cpu_time_ns() / 1e6
            evidence.peak_memory_bytes = group.peak_memory_bytes() or evidence.peak_memory_bytes
            evidence.memory_kills = group.memory_kills()
            evidence.process_refusals = group.process_refusals()
        evidence.cpu_limit_reached = evidence.cpu_time_ms >= self._limits.cpu_time_ms

    def _drain(self, fd: int) -> bool:
        """Read what is there; past the cap it is dropped, and the program stopped."""
        try:
            data = os.read(fd, _PIPE_READ)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(fd)
            return False
        buffer, cap, name = self._readers[fd]
        room = cap - len(buffer)
        buffer += data[:room]
        if len(data) > room:
            if name == "stdout":
                self._evidence.stdout_truncated = True
            elif name == "stderr":
                self._evidence.stderr_truncated = True
            self.stop("output")
        return True


_PROCESSORS = os.cpu_count() or 1


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
