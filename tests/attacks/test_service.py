"""L. The service: whatever a client sends or does, it gets a clear answer and nobody else notices.

What does not need real jails is tested with a fake sandbox in tests/sandbox_server: streams (test_streams), queue and
fairness (test_admission), deadlines, cancelling, tokens and draining (test_server), every field's bounds
(test_validation), a server out of descriptors and one whose parent dies (test_embedded), a fuzz of the wire (test_fuzz).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from sandbox_server.client import ClientConfig, RemoteSandbox, connect
from sandbox_server.errors import DeadlineExceeded, InvalidJob, Overloaded, SandboxError, Unavailable
from sandbox_server.jobs import File, Job, LimitsRequest, Outcome, Verdict
from sandbox_server.v1 import sandbox_pb2 as pb
from tests.attacks.attack import MIB
from tests.attacks.host import Host, descendants
from tests.attacks.lanes import serve

pytestmark = pytest.mark.nsjail

INNOCENT = Job(code="def f(x): return 2 * x", tests="assert f(1) == 2")
# It forks, so that its processes tell that it runs: the one that becomes it was there before.
SLEEP = Job(code="import os, time; os.fork(); time.sleep(60)", limits=LimitsRequest(wall_time_ms=60_000))
EXECUTE = "/sandbox_server.v1.SandboxService/Execute"
_NOW = ClientConfig(retry_for_s=0.0, timeout_s=60.0, connect_timeout_s=60.0)


@dataclasses.dataclass
class Server:
    """A server of two slots and a client of it."""

    process: subprocess.Popen[bytes]
    address: str
    sandbox: RemoteSandbox

    async def is_whole(self) -> None:
        """It is the same process, runs programs in both slots, and keeps nothing of what went before."""
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}"
        async with asyncio.timeout(30):
            while True:
                try:
                    outcomes = await asyncio.gather(*(self.sandbox.run(INNOCENT) for _ in range(4)))
                    break
                except Unavailable:  # a slot is being replaced
                    await asyncio.sleep(0.1)
            assert [outcome.verdict for outcome in outcomes] == [Verdict.PASSED] * 4
            while self._is_busy():  # noqa: ASYNC110  # what is awaited is in other processes
                await asyncio.sleep(0.05)

    async def runs_two_sleepers(self) -> None:
        """Wait until two jobs that fork and sleep do."""
        while len(self.processes()) < self.processes_at_rest + 2:  # noqa: ASYNC110  # it is of other processes
            await asyncio.sleep(0.02)

    def _is_busy(self) -> bool:
        below = self.processes()
        return len(below) > self.processes_at_rest or any("zombie" in name for name in below.values())

    def processes(self) -> dict[int, str]:
        """What lives below the server."""
        return descendants(self.process.pid)

    processes_at_rest: int = 0


@pytest.fixture(scope="module")
def started(host: Host):
    """One server for the module."""
    with serve(host, "service", "sandbox.slots=2", "queue_size=16") as server:
        yield server


@pytest.fixture
async def server(started: tuple[subprocess.Popen[bytes], str]) -> AsyncIterator[Server]:
    """The server, whole before and after each test."""
    process, address = started
    async with connect(address, _NOW) as sandbox:
        server = Server(process, address, sandbox)
        await asyncio.gather(*(sandbox.run(INNOCENT) for _ in range(8)))
        # A slot prepares its next program's world while we have the answer already.
        while server.processes_at_rest != (seen := len(server.processes())):
            server.processes_at_rest = seen
            await asyncio.sleep(0.2)
        yield server
        await server.is_whole()


def _request(**fields: object) -> bytes:
    return pb.ExecuteRequest(**{"code": "x = 1", **fields}).SerializeToString()  # type: ignore[arg-type]


def _limit(name: str, value: int) -> bytes:
    return _request(limits=pb.Limits(**{name: value}))  # type: ignore[arg-type]


_LIMITS = [field.name for field in dataclasses.fields(LimitsRequest)]
MALFORMED: dict[str, tuple[bytes, str]] = {
    **{
        f"{name}={value}": (_limit(name, value), f"limits.{name}")
        for name in _LIMITS
        for value in (0, -1, -(2**63), 2**63 - 1)
    },
    "bytes_at_random": (b"\xff\xfe\x00\x01 no message", "request"),
    "cut_off": (_request(code="x" * 1000)[:500], "request"),
    "no_text": (b"\x1a\x02\xff\xfe", "request"),
    "deep_groups": (b"\x0b" * 200, "request"),
    "endless_length": (b"\x1a\xff\xff\xff\xff\x7f", "request"),
    "empty": (b"", "code"),
    "unknown_runtime": (_request(runtime="../../python"), "runtime"),
    "unknown_judge": (_request(judge=99), "judge"),
    "code_and_command": (_request(argv=["/bin/sh"]), "code"),
    "empty_command": (pb.ExecuteRequest(argv=[""]).SerializeToString(), "argv[0]"),
    "climbing_path": (_request(files=[pb.File(path="../x")]), "files[0].path"),
    "absolute_path": (_request(files=[pb.File(path="/etc/passwd")]), "files[0].path"),
    "path_with_nul": (_request(files=[pb.File(path="a\0b")]), "files[0].path"),
    "path_of_dots": (_request(files=[pb.File(path="a/./../../b")]), "files[0].path"),
    "path_too_long": (_request(files=[pb.File(path="a/" * 5000 + "b")]), "files[0].path"),
    "path_twice": (_request(files=[pb.File(path="a"), pb.File(path="a")]), "files[1].path"),
    "path_below_a_file": (_request(files=[pb.File(path="a"), pb.File(path="a/b")]), "files[1].path"),
    "climbing_glob": (_request(collect=["../*"]), "collect[0]"),
    "absolute_glob": (_request(collect=["/proc/self/environ"]), "collect[0]"),
    "too_many_globs": (_request(collect=["a"] * 10_000), "collect"),
    "preloaded": (_request(env={"LD_PRELOAD": "/work/x.so"}), "env"),
    "python_path": (_request(env={"PYTHONPATH": "/work"}), "env"),
    "loader_settings": (_request(env={"GLIBC_TUNABLES": "x"}), "env"),
    "shell_start": (_request(env={"BASH_ENV": "/work/x"}), "env"),
    "name_with_equals": (_request(env={"A=B": "c"}), "env"),
    "name_with_nul": (_request(env={"A\0": "c"}), "env"),
    "value_with_nul": (_request(env={"A": "c\0d"}), "env"),
    "huge_environment": (_request(env={f"V{n}": "x" * 100 for n in range(10_000)}), "env"),
    "expression_for_a_name": (_request(tests="x", entry_point="__import__('os')"), "entry_point"),
    "repeated_for_ever": (_request(repeat=2**32 - 1), "repeat"),
    "long_id": (_request(request_id="x" * 100_000), "request_id"),
    "negative_timeout": (_request(timeout_ms=-1), "timeout_ms"),
}


@pytest.mark.parametrize(("message", "field"), MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_is_told_its_field(server: Server, message: bytes, field: str) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary(EXECUTE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(message, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    assert (caught.value.details() or "").startswith(f"{field}: "), caught.value.details()


@pytest.mark.parametrize("name", [*_LIMITS, "all"])
async def test_the_smallest_limits_end_in_a_verdict(server: Server, name: str) -> None:
    """A limit that no program can live with is the caller's or the program's trouble: no slot is lost to it."""
    least = LimitsRequest(**dict.fromkeys(_LIMITS if name == "all" else [name], 1))
    code = "print('x' * 100)\nwith open('f', 'w') as file: file.write('y' * 100)\ndef f(): return 1"
    try:
        outcome = await server.sandbox.run(Job(code=code, tests="assert f() == 1", limits=least))
    except InvalidJob as error:
        assert str(error).startswith("limits.memory_bytes: ")  # noqa: PT017  # one of two right answers
    else:
        expected = {"output_bytes": Verdict.OUTPUT_LIMIT, "file_size_bytes": Verdict.DISK_LIMIT}
        assert outcome.verdict is expected.get(name, outcome.verdict), outcome


async def test_the_largest_limits_are_granted(server: Server) -> None:
    info = await server.sandbox.info()
    largest = LimitsRequest(**{name: getattr(info.maximum_limits, name) for name in _LIMITS})
    outcome = await server.sandbox.run(dataclasses.replace(INNOCENT, limits=largest))
    assert outcome.verdict is Verdict.PASSED
    flood = Job(code="import os\nwhile True: os.write(1, bytes(1 << 20)); os.write(2, bytes(1 << 20))", limits=largest)
    outcome = await server.sandbox.run(flood)
    assert outcome.verdict is Verdict.OUTPUT_LIMIT
    assert len(outcome.stdout) <= info.maximum_limits.output_bytes


async def test_sixteen_megabytes_of_source_and_more_than_a_message(server: Server) -> None:
    outcome = await server.sandbox.run(Job(code="# " + "x" * (16 * MIB) + "\nprint('end')"))
    assert (outcome.verdict, outcome.stdout) == (Verdict.EXITED, b"end\n")
    with pytest.raises(InvalidJob, match="request"):
        await server.sandbox.run(Job(code="#" + "x" * (64 * MIB)))


async def test_a_hundred_thousand_assertions(server: Server) -> None:
    job = Job(
        code="def f(x): return 2 * x",
        tests="assert f(1) == 2\n" * 100_000,
        limits=LimitsRequest(cpu_time_ms=60_000, wall_time_ms=120_000, memory_bytes=2048 * MIB),
    )
    outcome = await server.sandbox.run(job)
    assert outcome.verdict is Verdict.PASSED, outcome.error
    assert outcome.tests is not None
    assert outcome.tests.assertions_run == 100_000


async def test_files_that_do_not_fit_are_the_programs_limit(server: Server) -> None:
    """Together they hold no more bytes than the disk, but each takes a page of it."""
    files = tuple(File(f"f{number}", b"x") for number in range(1000))
    job = Job(code="print('ran')", files=files, limits=LimitsRequest(disk_bytes=64 * 1024))
    outcome = await server.sandbox.run(job)
    assert outcome.verdict is Verdict.DISK_LIMIT, outcome


async def test_cancelled_at_any_moment(server: Server) -> None:
    """In the queue, while a slot is taken, as the program starts, while it runs: its processes end and the slot is free."""
    job = Job(code="import os, time\nfor _ in range(5): os.fork()\ntime.sleep(60)", limits=LimitsRequest(processes=64))
    for delay_s in (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.12, 0.25):
        tasks = [asyncio.create_task(server.sandbox.run(job)) for _ in range(5)]
        await asyncio.sleep(delay_s)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results
    await server.is_whole()


async def test_a_deadline_shorter_than_the_queue_is_told_and_nothing_is_run(server: Server) -> None:
    running = [asyncio.create_task(server.sandbox.run(SLEEP)) for _ in range(2)]
    await server.runs_two_sleepers()
    async with connect(server.address, dataclasses.replace(_NOW, timeout_s=0.3)) as hasty:
        with pytest.raises((DeadlineExceeded, Overloaded)):
            await hasty.run(INNOCENT)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_crowd_is_refused_at_once_beyond_the_queue(server: Server) -> None:
    """Two hundred at once: everyone gets an answer, and every answer is a verdict or "come back later"."""
    job = dataclasses.replace(INNOCENT, code="import time; time.sleep(0.02)\ndef f(x): return 2 * x")
    results = await asyncio.gather(*(server.sandbox.run(job) for _ in range(200)), return_exceptions=True)
    passed = [result for result in results if isinstance(result, Outcome)]
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert len(passed) + len(refused) == 200, [result for result in results if isinstance(result, Exception)][:3]
    assert len(passed) >= 18  # both slots and the queue
    assert {outcome.verdict for outcome in passed} == {Verdict.PASSED}


CLIENT = """
import asyncio, sys
from sandbox_server.client import connect
from sandbox_server.jobs import Job, LimitsRequest
async def main():
    async with connect(sys.argv[1]) as sandbox:
        job = Job(code="import os, time\\nos.fork()\\ntime.sleep(60)", limits=LimitsRequest(wall_time_ms=60_000))
        runs = [asyncio.create_task(sandbox.run(job)) for _ in range(4)]
        await asyncio.sleep(0)
        print("running", flush=True)
        await asyncio.gather(*runs)
asyncio.run(main())
"""


async def test_a_client_that_is_killed_takes_its_runs_with_it(server: Server) -> None:
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, server.address, stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout is not None
    assert await client.stdout.readline() == b"running\n"
    await server.runs_two_sleepers()
    client.kill()
    await client.wait()
    await server.is_whole()


async def test_a_jail_that_is_killed_is_replaced(server: Server) -> None:
    """From outside, with programs inside: whoever was in it is told to try again, and the next one finds a slot."""
    for depth in ("nsjail", "first"):
        runs = [asyncio.create_task(server.sandbox.run(SLEEP)) for _ in range(2)]
        await server.runs_two_sleepers()
        below = server.processes()
        jails = [pid for pid, name in below.items() if "nsjail" in name or _parent(pid) == server.process.pid]
        victims = jails if depth == "nsjail" else [pid for pid in below if _parent(pid) in jails]
        assert victims
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        results = await asyncio.gather(*runs, return_exceptions=True)
        assert all(isinstance(result, Unavailable) for result in results), results
        await server.is_whole()


async def test_a_jail_that_is_stopped_does_not_hold_its_program_for_ever(server: Server) -> None:
    job = dataclasses.replace(SLEEP, limits=LimitsRequest(wall_time_ms=3000))
    runs = [asyncio.create_task(server.sandbox.run(job)) for _ in range(2)]
    await server.runs_two_sleepers()
    stopped = [pid for pid in server.processes() if _parent(pid) == server.process.pid]
    for pid in server.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    assert stopped
    results = await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 30)
    for result in results:
        assert isinstance(result, Unavailable) or (isinstance(result, Outcome) and result.verdict is Verdict.TIME_LIMIT)
    await server.is_whole()


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 4096, os.urandom(65536)]
)
async def test_who_does_not_speak_the_protocol_disturbs_nobody(server: Server, data: bytes) -> None:
    """Two hundred connections that say nothing more, or something else."""
    path = server.address.removeprefix("unix:")
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(path)
            with contextlib.suppress(OSError):
                one.send(data)
        assert (await server.sandbox.run(INNOCENT)).verdict is Verdict.PASSED


async def test_headers_without_end_are_refused(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary(EXECUTE)
        with pytest.raises(grpc.aio.AioRpcError):
            await call(_request(), metadata=[(f"x-{number}", "y" * 4000) for number in range(100)], timeout=20)


async def test_unknown_methods_and_fields_are_harmless(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/sandbox_server.v1.SandboxService/Shell")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        unknown = _request() + b"\xfa\x7f\x04evil" + b"\xf8\x7e\x01"
        answer = pb.ExecuteResponse.FromString(await channel.unary_unary(EXECUTE)(unknown, timeout=20))
    assert answer.verdict == pb.VERDICT_EXITED


async def test_an_identifier_cannot_forge_a_line_of_the_log(server: Server, host: Host) -> None:
    forged = "x\n2026-01-01 CRITICAL made up \x1b[2J"
    outcome = await server.sandbox.run(dataclasses.replace(INNOCENT, request_id=forged))
    assert outcome.request_id == forged
    with pytest.raises(SandboxError):
        await server.sandbox.run(dataclasses.replace(INNOCENT, request_id=forged, runtime="none\nCRITICAL made up"))
    log = (host.servers / "service.log").read_text()
    assert not [line for line in log.splitlines() if line.startswith(("2026-01-01 CRITICAL", "CRITICAL made up"))]


async def test_a_killed_server_leaves_nothing_and_its_successor_serves(host: Host) -> None:
    """Killed with programs running: every jail dies, and the next server on the same socket removes the control groups."""
    with serve(host, "mortal", "sandbox.slots=2") as (process, address):
        async with connect(address, _NOW) as sandbox:
            runs = [asyncio.create_task(sandbox.run(SLEEP)) for _ in range(2)]
            await asyncio.sleep(0.5)
            below = descendants(process.pid)
            groups = _groups_of(process.pid)
            assert len(below) >= 4
            process.kill()
            process.wait()
            results = await asyncio.gather(*runs, return_exceptions=True)
            assert all(isinstance(result, Unavailable) for result in results), results
        deadline = time.monotonic() + 10
        while alive := [pid for pid in below if _is_alive(pid)]:
            assert time.monotonic() < deadline, {pid: below[pid] for pid in alive}
            await asyncio.sleep(0.05)
    with serve(host, "mortal", "sandbox.slots=2") as (process, address):
        async with connect(address, _NOW) as sandbox:
            assert (await sandbox.run(INNOCENT)).verdict is Verdict.PASSED
        assert not [folder for folder in groups if folder.exists()]
        own = _groups_of(process.pid)
    assert not [folder for folder in own if folder.exists()], "a server that ended in good order left control groups"
    assert not host.harm()


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _groups_of(pid: int) -> list[Path]:
    """Control groups that bear a server's pid."""
    return [path for path in Path("/sys/fs/cgroup").rglob(f"selfalign-{pid}-*") if path.is_dir()]
