"""One slot: a jail and its control group, which runs one program at a time.

Everything that a verdict rests on is gathered here, from outside the program: the wait status that the jail's first
process saw, our own timers, the control group's counters, and what came through the pipes, drained while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from sandbox_server import nsjail
from sandbox_server.cgroup import Group
from sandbox_server.errors import Broken, HostUnfit, InvalidJob, Unavailable
from sandbox_server.guest.wire import COLLECT, DONE, HAS_LINK, HAS_STDIN, KILL, ORDER, SETTINGS
from sandbox_server.jobs import Limits
from sandbox_server.tasks import to_the_end

_logger = logging.getLogger(__name__)
_START_SECONDS = 30.0
_KILL_SECONDS = 5.0  # from asking for a run's end to giving the slot up
_REPORT_BYTES = 1 << 20
_COLLECTED_BYTES = 80 << 20
_PIPE_READ = 1 << 16
_QUICK_SECONDS = 0.02
_LOOK_SECONDS = 1.0  # between two looks at the clock
_LATE_SECONDS = 0.1  # a look that comes so late shows that we stood still, and perhaps the program too
_PROCESSORS = os.cpu_count() or 1
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
    host_short: str = ""  # of what the host ran short, so that the program was hurt below its own limits
    cpu_limit_reached: bool = False
    disk_full: bool = False
    slot_lost: bool = False
    slot_spent: bool = False  # the run is sound, but something of it is left in the jail
    counted: bool = True  # by a control group; else nobody counts forks that the kernel refused
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
        self._jobs: socket.socket | None = None
        self._begun = 0  # runs that were handed over; the first process counts them too
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
        with contextlib.ExitStack() as undo:
            undo.callback(group.remove)
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo.callback(ours.close)
                with theirs:
                    ours.setblocking(False)
                    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                    log = os.memfd_create("nsjail-log")
                    undo.callback(os.close, log)
                    process = nsjail.start(jail_of(theirs.fileno(), log))
            except OSError as error:
                raise HostUnfit(f"nsjail does not start: {error}") from error
            undo.pop_all()
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
        loop.add_reader(self._control, _resolve, ready)
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
        self._jobs, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._jobs.setblocking(False)
            self._control.sendmsg((program_filter,), (_rights([theirs.fileno()]),))
        loop.add_reader(self._control, self._on_control)

    def _on_control(self) -> None:
        try:
            message = self._control.recv(256)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self.healthy = False
            asyncio.get_running_loop().remove_reader(self._control)
        if self._run is not None:
            self._run.ended(message)
        else:
            self.healthy = False  # the process that waited for the next program is dead

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
            InvalidJob: the memory limit is below what the jail's first process holds.
            Unavailable: the slot was lost with the program in it.
        """
        self.served += 1
        assert self._jobs is not None  # since the handshake
        run = self._run = _Run(self._control, self._begun + 1, self._group, limits)
        try:
            run.send(self._jobs, request, stdin, collect, link)
            self._begun += 1
            evidence = await run.finish()
            self.healthy = self.healthy and not (evidence.slot_lost or evidence.slot_spent)
            return evidence
        except (Unavailable, Broken, OSError) as error:
            self.healthy = False
            _logger.warning("a slot was lost: %s; the jail said: %s", error, self._log_text() or "nothing")
            if isinstance(error, OSError):
                raise Unavailable(f"the slot was lost: {error}") from error
            raise
        except asyncio.CancelledError:
            # The slot is whole again once the program is dead.
            self.healthy = await run.abandon() and self.healthy
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
        loop = asyncio.get_running_loop()
        if self._control.fileno() >= 0:
            loop.remove_reader(self._control)
            self._control.close()
        if self._jobs is not None:
            self._jobs.close()
        await to_the_end(loop.run_in_executor(None, self._end))

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
        """What nsjail complained of, in one line."""
        text = os.pread(self._log, 4096, 0).decode(errors="replace")
        lines = [line for line in text.splitlines() if "no version information" not in line]
        return " ".join(lines)[-1000:]


class _Pipe:
    """Our end of one of a program's pipes, and what came through it."""

    __slots__ = ("buffer", "cap", "fd", "overflowed")

    def __init__(self, fd: int, buffer: bytearray, cap: int) -> None:
        self.fd = fd
        self.buffer = buffer
        self.cap = cap
        self.overflowed = False

    def read(self) -> int | None:
        """Take some of what is there; past the cap it is dropped. Answers how many bytes; 0: the end, None: not yet."""
        try:
            data = os.read(self.fd, _PIPE_READ)
        except BlockingIOError:
            return None
        room = self.cap - len(self.buffer)
        if len(data) > room:
            self.overflowed = True
            self.buffer += data[:room]
        else:
            self.buffer += data
        return len(data)


class _Run:
    """One program on its way through a slot.

    Most programs end within milliseconds and write less than a pipe holds, so nothing is watched at first: what they
    wrote is read when they have ended. Only one that still runs after `_QUICK_SECONDS` gets readers and clocks.
    """

    def __init__(self, control: socket.socket, number: int, group: Group, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._number = number
        self._group = group
        self._limits = limits
        self._evidence = Evidence()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._over = False  # the first process said so, or is gone
        self._pipes: list[_Pipe] = []
        self._watched: set[int] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def send(self, jobs: socket.socket, request: bytes, stdin: bytes, collect: bool, link: int | None) -> None:
        """Hand the program to the process that waits for it and start the clocks."""
        limits, evidence, group = self._limits, self._evidence, self._group
        try:
            group.set_limits(limits.memory_bytes, limits.processes + _SPARE_PROCESSES)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise InvalidJob(
                "limits.memory_bytes", f"{limits.memory_bytes} is less than the runtime alone takes; ask for more"
            ) from error
        group.begin()
        counted = group.version != "none"
        settings = SETTINGS.pack(
            0 if counted else limits.memory_bytes,
            # Where a group counts, its clock decides, and the process's own limit stands far behind it: that one counts
            # in ticks, which a busy host charges to whoever runs when one falls due.
            -(-limits.cpu_time_ms // 1000) * (2 if counted else 1) + (2 if counted else 1),
            0 if counted else limits.processes,
            limits.open_files,
            limits.file_size_bytes,
            limits.disk_bytes,
            (HAS_STDIN if stdin else 0) | (0 if link is None else HAS_LINK),
        )
        given = [_memory_file(request)]
        try:
            given.append(self._pipe(evidence.report, _REPORT_BYTES))
            given.append(self._pipe(evidence.stdout, limits.output_bytes))
            given.append(self._pipe(evidence.stderr, limits.output_bytes))
            if stdin:
                given.append(_memory_file(stdin))
            if link is not None:
                given.append(os.dup(link))
            self._started_ns = time.monotonic_ns()
            if collect:  # the first process must know it before the program can be over
                files = self._pipe(evidence.collected, _COLLECTED_BYTES)
                try:
                    self._control.sendmsg((ORDER.pack(COLLECT, self._number),), (_rights([given[0], files]),))
                finally:
                    os.close(files)
            jobs.sendmsg((settings,), (_rights(given),))
        finally:
            for fd in given:
                os.close(fd)
        self._started = self._loop.time()
        self._stop_at = self._started + limits.wall_time_ms / 1000
        self._look_at = self._started + min(_QUICK_SECONDS, limits.wall_time_ms / 1000, limits.cpu_time_ms / 1000)
        self._timers["watch"] = self._loop.call_at(self._look_at, self._watch)

    async def finish(self) -> Evidence:
        """Wait until every process of the run is dead."""
        await self._done
        return self._evidence

    async def abandon(self) -> bool:
        """Kill the program and wait until it is dead, for a caller that was cancelled. Answers whether that worked."""
        if self._over:  # in the very moment
            return True
        self._done = self._loop.create_future()  # cancelling the caller cancelled the other
        self.stop("cancelled")
        self._timers["abandon"] = self._loop.call_later(_KILL_SECONDS, self._give_up)
        while True:
            try:
                await asyncio.shield(self._done)
                return True
            except Unavailable:
                return False
            except asyncio.CancelledError:
                continue  # again: the slot must be whole first, and `_give_up` bounds the wait

    def stop(self, reason: str) -> None:
        """Kill the program."""
        if self._evidence.stopped or self._done.done():
            return
        self._evidence.stopped = reason
        self._timers["kill"] = self._loop.call_later(_KILL_SECONDS, self._give_up)
        try:
            self._control.send(ORDER.pack(KILL, self._number))
        except OSError:
            self._give_up()

    def ended(self, message: bytes) -> None:
        """Take the first process's word that all is over, or its death."""
        self._over = True
        if self._done.done():
            return
        evidence = self._evidence
        if len(message) != DONE.size:
            evidence.slot_lost = True
            self._measure()
            if evidence.memory_kills:
                # The kernel took the jail's first process along: the program's doing all the same.
                evidence.status = signal.SIGKILL
                self._done.set_result(None)
            else:
                self._done.set_exception(Unavailable("the slot was lost; it is replaced, try again"))
            return
        evidence.status, ended_ns, cpu, largest, evidence.disk_full, evidence.slot_spent = DONE.unpack(message)
        if evidence.slot_spent:
            _logger.warning("a program's sockets stayed in the kernel after its end; the slot is replaced")
        evidence.wall_time_ms = (ended_ns - self._started_ns) / 1e6
        in_time = evidence.wall_time_ms < self._limits.wall_time_ms and not os.WIFSIGNALED(evidence.status)
        if evidence.stopped == "wall" and in_time:
            evidence.stopped = ""  # it had ended by itself before we looked
        evidence.cpu_time_ms = cpu / 1e6
        evidence.peak_memory_bytes = largest * 1024
        self._measure()
        # Every writer is dead. A short read is not the end: a program can make its pipe one of packets (O_DIRECT).
        for pipe in self._pipes:
            while pipe.read():
                pass
        self._note_overflow()
        self._done.set_result(None)

    def release(self) -> None:
        """Give back every descriptor and timer."""
        for timer in self._timers.values():
            timer.cancel()
        for fd in self._watched:
            self._loop.remove_reader(fd)
        for pipe in self._pipes:
            os.close(pipe.fd)
        self._pipes.clear()

    def _pipe(self, buffer: bytearray, cap: int) -> int:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        self._pipes.append(_Pipe(read, buffer, cap))
        return write

    def _give_up(self) -> None:
        if not self._done.done():
            self._done.set_exception(Unavailable("the slot does not answer; it is replaced, try again"))

    def _watch(self) -> None:
        """Attend to a program that takes its time."""
        for pipe in self._pipes:
            self._loop.add_reader(pipe.fd, self._on_output, pipe)
            self._watched.add(pipe.fd)
        self._watch_wall()
        if self._group.version != "none":
            self._watch_cpu()

    def _watch_wall(self) -> None:
        """Stop the program at its wall time limit.

        Time in which we stood still (stopped, swapped out, a host that slept) is not on its account, for it may have
        stood still with us; at most it gets its whole time anew.
        """
        now = self._loop.time()
        late = now - self._look_at
        if late > _LATE_SECONDS:
            self._stop_at = min(self._stop_at + late, now + self._limits.wall_time_ms / 1000)
        if now >= self._stop_at:
            self.stop("wall")
        else:
            self._look_at = min(self._stop_at, now + _LOOK_SECONDS)
            self._timers["wall"] = self._loop.call_at(self._look_at, self._watch_wall)

    def _watch_cpu(self) -> None:
        """Stop the program at its CPU limit; looks again no earlier than all processors together could reach it."""
        left = self._limits.cpu_time_ms - self._group.cpu_time_ns() / 1e6
        if left <= 0:
            self.stop("cpu")
        else:
            pause = max(left / 1000 / _PROCESSORS, 0.002)
            self._timers["cpu"] = self._loop.call_later(pause, self._watch_cpu)

    def _on_output(self, pipe: _Pipe) -> None:
        if pipe.read() == 0:
            self._loop.remove_reader(pipe.fd)
            self._watched.discard(pipe.fd)
        self._note_overflow()

    def _note_overflow(self) -> None:
        report, stdout, stderr, *more = self._pipes
        evidence = self._evidence
        evidence.stdout_truncated, evidence.stderr_truncated = stdout.overflowed, stderr.overflowed
        if report.overflowed or stdout.overflowed or stderr.overflowed or any(pipe.overflowed for pipe in more):
            self.stop("output")

    def _measure(self) -> None:
        group, evidence, limits = self._group, self._evidence, self._limits
        evidence.counted = group.version != "none"
        if evidence.counted:
            evidence.cpu_time_ms = group.cpu_time_ns() / 1e6
            evidence.process_refusals, refused = group.process_refusals()
            evidence.peak_memory_bytes = group.peak_memory_bytes() or evidence.peak_memory_bytes
            evidence.memory_kills, killed = group.memory_kills()
            evidence.host_short = "memory" if killed else "processes" if refused else ""
        elif evidence.status == signal.SIGKILL and not evidence.stopped and group.memory_kills().host:
            evidence.host_short = "memory"
        evidence.cpu_limit_reached = evidence.cpu_time_ms >= limits.cpu_time_ms


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _rights(descriptors: list[int]) -> tuple[int, int, bytes]:
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors)


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("input", os.MFD_CLOEXEC)
    written = os.pwrite(fd, content, 0)  # which leaves its position at the beginning
    while written < len(content):
        written += os.pwrite(fd, memoryview(content)[written:], written)
    return fd
