"""The sandbox in this process: limits, life and death of slots, files, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_server import jail
from sandbox_server.errors import HostUnfit, InvalidJob, Unavailable, Unsupported
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Assurance, File, Job, LimitsRequest, Outcome, Verdict
from sandbox_server.sandbox import Sandbox

pytestmark = [pytest.mark.nsjail]

MIB = 1 << 20
PASSING = Job(code="def f(x):\n    return x + 1", tests="assert f(1) == 2")


@contextlib.asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Sandbox]:
    sandbox = await open_sandbox(SandboxConfig(**{"slots": 1, **settings}))
    try:
        yield sandbox
    finally:
        await sandbox.close()


@pytest.fixture(params=["warm", "cold"])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    async with opened(warm=request.param == "warm") as sandbox:
        yield sandbox


async def run(sandbox: Sandbox, code: str, tests: str = "", **fields: Any) -> Outcome:
    limits = LimitsRequest(**{name: fields.pop(name) for name in list(fields) if name in LimitsRequest.__slots__})
    return await sandbox.run(Job(code=code, tests=tests, limits=limits, **fields))


def jails() -> set[int]:
    """Pids of this process' nsjails."""
    found = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,comm="], capture_output=True, check=False)
    return {int(line.split()[0]) for line in found.stdout.decode().splitlines() if "nsjail" in line}


def children(pid: int) -> list[int]:
    """Pids of a process' children, the oldest first."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def groups(pid: int) -> list[Path]:
    """Control groups of the sandboxes of process `pid`."""
    return list(Path("/sys/fs/cgroup").rglob(f"selfalign-{pid}-*"))


# Limits


async def test_computing_ends_at_the_cpu_limit(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "while True: pass", cpu_time_ms=300, wall_time_ms=20_000)

    assert outcome.verdict is Verdict.TIME_LIMIT
    assert 300 <= outcome.usage.cpu_time_ms < 3_000
    assert outcome.usage.wall_time_ms < 15_000


async def test_sleeping_ends_at_the_wall_limit(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "import time\ntime.sleep(60)", wall_time_ms=400)

    assert outcome.verdict is Verdict.TIME_LIMIT
    assert outcome.usage.wall_time_ms >= 200  # the clock starts before the fork
    assert outcome.usage.cpu_time_ms < 400


@pytest.mark.parametrize("program_too", [False, True], ids=["the server", "server and program"])
async def test_time_in_which_the_server_stood_still_is_not_the_programs(program_too: bool) -> None:
    """A server that was stopped, or a host that slept, for longer than the wall time limit makes no TIME_LIMIT."""
    async with opened() as sandbox:
        told = asyncio.create_task(
            run(sandbox, "import time\nfor x in range(10):\n    time.sleep(0.05)", "assert x == 9", wall_time_ms=2000)
        )
        await asyncio.sleep(0.1)
        zygote = children(min(jails()))[0]
        processes = [pid for child in children(zygote) for pid in (child, *children(child))] if program_too else []
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2.3)  # noqa: ASYNC251  # the whole server stands still
        for pid in processes:
            os.kill(pid, signal.SIGCONT)

        assert (await told).verdict is Verdict.PASSED


async def test_the_cpu_time_of_all_processes_counts(sandbox: Sandbox) -> None:
    code = "import os, time\nfor _ in range(3):\n    if not os.fork():\n        while True: pass\ntime.sleep(60)"

    outcome = await run(sandbox, code, cpu_time_ms=400, wall_time_ms=30_000)

    assert outcome.verdict is Verdict.TIME_LIMIT
    assert outcome.usage.cpu_time_ms >= 400


async def test_memory_ends_at_its_limit(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "x = []\nwhile True: x.append(bytearray(1 << 20))", memory_bytes=64 * MIB)

    assert outcome.verdict is Verdict.MEMORY_LIMIT
    assert (await run(sandbox, "x = bytearray(32 << 20)", memory_bytes=64 * MIB)).verdict is Verdict.EXITED


async def test_the_memory_of_all_processes_counts(sandbox: Sandbox) -> None:
    code = "import os, time\nfor _ in range(8):\n    if not os.fork(): break\nx = b'x' * (16 << 20)\ntime.sleep(1)"

    outcome = await run(sandbox, code, memory_bytes=64 * MIB)

    assert outcome.verdict is Verdict.MEMORY_LIMIT


async def test_peak_memory_is_measured_for_each_run(sandbox: Sandbox) -> None:
    large = await run(sandbox, "x = b'x' * (48 << 20)")
    small = await run(sandbox, "pass")

    assert large.usage.peak_memory_bytes > 48 * MIB
    assert 0 < small.usage.peak_memory_bytes < 24 * MIB


async def test_processes_end_at_their_limit(sandbox: Sandbox) -> None:
    code = "import os, time\nwhile True:\n    if not os.fork():\n        time.sleep(60)"

    outcome = await run(sandbox, code, processes=8, wall_time_ms=10_000)

    assert outcome.verdict is Verdict.PROCESS_LIMIT


async def test_output_ends_at_its_limit(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "while True: print('x' * 1000)", output_bytes=10_000)

    assert outcome.verdict is Verdict.OUTPUT_LIMIT
    assert len(outcome.stdout) == 10_000
    assert (outcome.stdout_truncated, outcome.stderr_truncated) == (True, False)


async def test_output_up_to_the_limit_is_whole(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "import sys\nsys.stdout.write('x' * 300_000)", output_bytes=300_000)

    assert outcome.verdict is Verdict.EXITED
    assert outcome.stdout == b"x" * 300_000
    assert not outcome.stdout_truncated


async def test_files_end_at_the_disk_limit(sandbox: Sandbox) -> None:
    code = "for n in range(100):\n    open(f'f{n}', 'wb').write(bytes(1 << 20))"

    assert (await run(sandbox, code, disk_bytes=8 * MIB)).verdict is Verdict.DISK_LIMIT
    assert (await run(sandbox, code, file_size_bytes=MIB // 2)).verdict is Verdict.DISK_LIMIT


async def test_open_files_end_at_their_limit(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "fs = [open('/dev/null') for _ in range(100)]", open_files=32)

    assert outcome.verdict is Verdict.ERROR
    assert outcome.error is not None
    assert "Too many open files" in outcome.error.message


async def test_a_program_that_opens_nothing_runs_whatever_it_may_open(sandbox: Sandbox) -> None:
    """However few; the sandbox's own descriptors are out of the way of each other and of the program's."""
    for few in (1, 3, 5, 6, 7, 8, 12):
        outcome = await run(sandbox, "import sys", "assert sys.stdin.read() == 'in'", stdin=b"in", open_files=few)

        assert outcome.verdict is Verdict.PASSED, few


async def test_a_disk_of_any_size_may_be_asked_for(sandbox: Sandbox) -> None:
    """Not only what the process that waits for a program has made its world with."""
    for size in (MIB, 128 * MIB, 256 * MIB):
        outcome = await run(sandbox, "import os\ns = os.statvfs('.')\nprint(s.f_blocks * s.f_frsize)", disk_bytes=size)

        assert int(outcome.stdout) == size


async def test_signals_and_forbidden_calls_are_named(sandbox: Sandbox) -> None:
    crash = await run(sandbox, "import ctypes\nctypes.string_at(0)")
    forbidden = await run(sandbox, "import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)")

    assert (crash.verdict, crash.signal, crash.exit_code) == (Verdict.KILLED, signal.SIGSEGV, None)
    assert crash.error is not None
    assert crash.error.type == "SIGSEGV"
    assert (forbidden.verdict, forbidden.signal) == (Verdict.KILLED, signal.SIGSYS)
    assert forbidden.error is not None
    assert "system call" in forbidden.error.message


@pytest.mark.parametrize("field", LimitsRequest.__slots__)
async def test_a_limit_out_of_bounds_is_refused_by_name(field: str) -> None:
    async with opened() as sandbox:
        for value in (0, -1, 1 << 62):
            with pytest.raises(InvalidJob, match=rf"limits\.{field}"):
                await run(sandbox, "pass", **{field: value})


# What goes in and out


async def test_stdin_files_and_environment_go_in_and_files_come_out(sandbox: Sandbox) -> None:
    code = (
        "import os, subprocess, sys\n"
        "open('out/made.txt', 'w').write(sys.stdin.read() + open('in/a.txt').read() + os.environ['COLOUR'])\n"
        "assert os.access('in/tool', os.X_OK)"
    )

    outcome = await run(
        sandbox,
        code,
        stdin=b"1",
        files=(File("in/a.txt", b"2"), File("in/tool", b"#!", True), File("out/.keep", b"")),
        env=(("COLOUR", "3"),),
        collect=("out/*.txt", "in/tool"),
    )

    assert outcome.verdict is Verdict.EXITED, outcome
    assert outcome.files == (File("in/tool", b"#!", True), File("out/made.txt", b"123"))
    assert outcome.files_refused == ()


async def test_only_regular_files_come_out(sandbox: Sandbox) -> None:
    code = (
        "import os, socket\nos.symlink('/etc/passwd', 'link')\nos.mkfifo('fifo')\nos.mkdir('d')\n"
        "socket.socket(socket.AF_UNIX).bind('socket')\nos.symlink('/', 'd/root')\nopen('ok', 'w').write('x')\n"
        "open('shut', 'w').write('y')\nos.chmod('shut', 0)\nos.link('ok', 'hard')"
    )

    outcome = await run(sandbox, code, collect=("**",))

    assert {file.path: file.content for file in outcome.files} == {"ok": b"x", "hard": b"x", "shut": b"y"}
    assert sorted(line.split(":")[0] for line in outcome.files_refused) == ["d/root", "fifo", "link", "socket"]


async def test_files_come_out_of_a_program_that_was_killed(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "open('a', 'w').write('x')\nwhile True: pass", cpu_time_ms=300, collect=("a",))

    assert outcome.verdict is Verdict.TIME_LIMIT
    assert outcome.files == (File("a", b"x"),)


async def test_a_large_program_and_a_large_input_go_in(sandbox: Sandbox) -> None:
    outcome = await run(
        sandbox,
        f"text = '{'x' * (4 * MIB)}'",
        "import sys\nassert len(sys.stdin.read()) == 5 << 20",
        stdin=b"y" * (5 * MIB),
    )

    assert outcome.verdict is Verdict.PASSED


# Determinism


async def test_hash_order_is_fixed_and_random_numbers_are_not(sandbox: Sandbox) -> None:
    code = "import random\nprint(hash('a'))\nprint(random.random())"

    first, second = [(await run(sandbox, code)).stdout.split() for _ in range(2)]

    assert first[0] == second[0]
    assert first[1] != second[1]


async def test_a_seed_fixes_random_numbers_and_hashes(sandbox: Sandbox) -> None:
    code = "import random\nprint(hash('a'), random.random())"

    zero, same, other = [(await run(sandbox, code, random_seed=seed)).stdout for seed in (0, 0, 7)]

    assert zero == same
    assert zero.split()[0] != other.split()[0]
    assert zero.split()[1] != other.split()[1]
    assert other == (await run(sandbox, code, random_seed=7)).stdout


async def test_repeating_tells_disagreement() -> None:
    async with opened() as sandbox:
        steady = await sandbox.run(Job(code="x = 1", tests="assert x == 1", repeat=3))
        flaky = await sandbox.run(Job(code="import random", tests="assert random.random() < 0.5", repeat=20))

    assert (steady.verdict, steady.flaky, len(steady.repeat_verdicts)) == (Verdict.PASSED, False, 3)
    assert (flaky.verdict, flaky.flaky) == (Verdict.FAILED, True)


async def test_time_zone_and_encoding_are_fixed(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "import sys, time\nprint(time.tzname, sys.stdout.encoding)")

    assert outcome.stdout == b"('UTC', 'UTC') utf-8\n"


# Nothing survives a run


async def test_nothing_survives_a_run(sandbox: Sandbox) -> None:
    leave = (
        "import os, socket, sys, json, math\nsys.stdout.flush()\n"
        "if not os.fork():\n    os.setsid()\n    import time\n    time.sleep(60)\n"
        "open('/tmp/left', 'w').write('x')\nopen('/dev/shm/left', 'w').write('x')\nopen('left', 'w').write('x')\n"
        "json.left = math.left = 1\nos.environ['LEFT'] = '1'\nos.set_blocking(1, False)\nos.umask(0)\n"
        "s = socket.socket(socket.AF_UNIX)\ns.bind('\\0left')\ns.listen()\n"
    )
    look = (
        "import json, math, os, socket\n"
        "s = socket.socket(socket.AF_UNIX)\ns.bind('\\0left')\n"
        "print(os.listdir('/tmp'), os.listdir('/dev/shm'), os.listdir('.'), hasattr(json, 'left'), hasattr(math, 'left'))\n"
        "print('LEFT' in os.environ, os.get_blocking(1), oct(os.umask(0)))\n"
        "print([p for p in os.listdir('/proc') if p.isdigit() and p != str(os.getpid())])\n"
    )

    left = await run(sandbox, leave)
    seen = await run(sandbox, look)

    assert left.verdict is Verdict.EXITED, left
    assert seen.stdout.decode().splitlines() == ["[] [] [] False False", "False True 0o22", "[]"], seen


async def test_sockets_that_hold_each_other_end_with_their_program(sandbox: Sandbox) -> None:
    """The next one finds neither them, nor their names, nor the memory that was sent along."""
    leave = (
        "import os, socket\n"
        "listener, datagram = socket.socket(1, 1), socket.socket(1, 2)\n"
        "listener.bind('\\0left')\nlistener.listen()\ndatagram.bind('\\0left-datagram')\n"
        "memory = os.memfd_create('left')\nos.write(memory, bytes(80 << 20))\n"
        "inner, outer = socket.socketpair(), socket.socketpair()\n"
        "socket.send_fds(inner[0], [b'x'], [memory, inner[0].fileno(), inner[1].fileno(), datagram.fileno()])\n"
        "socket.send_fds(outer[0], [b'x'], [e.fileno() for e in (*outer, inner[0], listener)])\n"
        "print(open('/proc/self/net/sockstat').readline())\nos._exit(0)\n"
    )
    look = (
        "print(open('/proc/self/net/sockstat').readline().strip(), len(open('/proc/self/net/unix').readlines()))\n"
        "held = bytearray(80 << 20)\n"
        "for at in range(0, len(held), 4096): held[at] = 1\n"
        "import errno, socket\n"
        "for name, kind in (('left', 1), ('left-datagram', 2)):\n"
        "    print(errno.errorcode[socket.socket(1, kind).connect_ex('\\0' + name)])\n"
        "    socket.socket(1, kind).bind('\\0' + name)\n"
    )
    before = jails()
    for _ in range(3):
        left = await run(sandbox, leave, memory_bytes=128 * MIB)
        seen = await run(sandbox, look, memory_bytes=128 * MIB)

        assert left.verdict is Verdict.EXITED, left
        assert seen.verdict is Verdict.EXITED, seen
        assert seen.stdout.decode().splitlines() == ["sockets: used 0 1", "ECONNREFUSED", "ECONNREFUSED"], seen
    assert jails() == before


async def test_a_program_sees_nothing_of_the_server(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "sesame")
    code = (
        "import os, sys\nprint(sorted(os.environ))\nprint(sorted(os.listdir('/')))\n"
        "print([fd for fd in os.listdir('/proc/self/fd') if int(fd) < 200])\nprint(os.getuid(), os.getgid(), os.getgroups())\n"
        "print(any('site-packages' in path for path in sys.path), os.uname().nodename)"
    )

    lines = (await run(sandbox, code)).stdout.decode().splitlines()

    assert "SECRET_TOKEN" not in lines[0]
    assert lines[1] == str(
        sorted(["box", "dev", "etc", "lib", "lib64", "proc", "python", "sandbox", "tmp", "usr", "work"])
    )
    assert lines[2] == "['0', '1', '2', '3']"  # the last is the listing's own
    assert lines[3] == "1000 1000 []"
    assert lines[4] == "False sandbox"


# Slots


async def test_as_many_run_at_once_as_there_are_slots() -> None:
    async with opened(slots=3) as sandbox:
        started = time.monotonic()
        await asyncio.gather(*(run(sandbox, "import time\ntime.sleep(1)") for _ in range(3)))
        elapsed = time.monotonic() - started

    assert elapsed < 2.9


async def test_cancelling_kills_the_program_and_keeps_the_slot() -> None:
    async with opened() as sandbox:
        before = jails()
        task = asyncio.ensure_future(run(sandbox, "import time\ntime.sleep(60)"))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        after = await sandbox.run(PASSING)

        assert after.verdict is Verdict.PASSED
        assert jails() == before


async def test_a_lost_slot_is_replaced() -> None:
    async with opened() as sandbox:
        (pid,) = jails()
        task = asyncio.ensure_future(run(sandbox, "import time\ntime.sleep(60)"))
        await asyncio.sleep(0.3)
        os.kill(pid, signal.SIGKILL)

        with pytest.raises(Unavailable, match="slot was lost"):
            await task
        assert (await sandbox.run(PASSING)).verdict is Verdict.PASSED
        assert pid not in jails()


async def test_an_idle_slot_that_died_is_replaced_unseen() -> None:
    async with opened() as sandbox:
        (pid,) = jails()
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.3)

        assert (await sandbox.run(PASSING)).verdict is Verdict.PASSED


async def test_an_idle_slot_without_its_waiting_process_is_replaced_unseen() -> None:
    """The process that would become the next program may die too, and no run is mistaken for its death."""
    async with opened() as sandbox:
        await sandbox.run(PASSING)
        (before,) = jails()
        await asyncio.sleep(0.3)  # it waits by now
        (zygote,) = children(before)
        os.kill(children(zygote)[-1], signal.SIGKILL)
        await asyncio.sleep(0.3)

        assert (await sandbox.run(PASSING)).verdict is Verdict.PASSED
        assert before not in jails()


async def test_a_run_cancelled_at_once_is_not_taken_for_the_next() -> None:
    """Cancelled before, while or after a process takes it: each later run gets its own program and its own answer."""
    async with opened() as sandbox:
        for number in range(40):
            task = asyncio.ensure_future(run(sandbox, "print('cancelled')\nimport time\ntime.sleep(0.002)"))
            await asyncio.sleep(number / 5000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            outcome = await run(sandbox, f"print({number})", f"assert {number} == {number}")

            assert (outcome.verdict, outcome.stdout) == (Verdict.PASSED, b"%d\n" % number)


async def test_after_a_refused_run_a_slot_still_kills_what_it_should() -> None:
    """Slot and jail count runs alike, those included that never came to the jail."""
    async with opened() as sandbox:
        with contextlib.suppress(InvalidJob):  # without a control group it is the program's own failure
            await run(sandbox, "x = 1", memory_bytes=MIB)
        outcome = await run(sandbox, "import time\ntime.sleep(60)", wall_time_ms=200)

        assert outcome.verdict is Verdict.TIME_LIMIT
        assert len(jails()) == 1


def piped(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def test_a_slot_in_which_a_socket_stays_is_replaced() -> None:
    """The run is answered as it was, and no other comes to where something of it may be left."""
    async with opened() as sandbox:
        (before,) = jails()
        (zygote,) = children(before)
        if os.geteuid() != 0:
            pytest.skip("needs root, to hold a socket in the jail's network from outside")
        hold = (
            "import ctypes, os, socket, sys\n"
            f"if ctypes.CDLL(None, use_errno=True).setns(os.open('/proc/{zygote}/ns/net', os.O_RDONLY), 0x40000000):\n"
            "    sys.exit(os.strerror(ctypes.get_errno()))\n"
            "held = socket.socket()\nprint(flush=True)\nsys.stdin.read()\n"
        )
        with piped(hold) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"\n"
            outcome = await run(sandbox, "print('mine')")
            after = await sandbox.run(PASSING)

            assert (outcome.verdict, outcome.stdout) == (Verdict.EXITED, b"mine\n")
            assert after.verdict is Verdict.PASSED
            assert before not in jails()
            assert holder.stdin is not None
            holder.stdin.close()


async def test_a_slot_is_renewed_after_its_share_of_runs() -> None:
    async with opened(runs_per_jail=3) as sandbox:
        first = jails()
        for _ in range(3):
            await sandbox.run(PASSING)

        assert (await sandbox.run(PASSING)).verdict is Verdict.PASSED
        assert jails() != first


async def test_two_sandboxes_of_one_process_do_not_disturb_each_other() -> None:
    async with opened() as first:
        async with opened() as second:
            task = asyncio.ensure_future(run(first, "x = bytearray(100 << 20)", memory_bytes=300 * MIB))
            small = await run(second, "x = bytearray(100 << 20)", memory_bytes=64 * MIB)
            assert (await task).verdict is Verdict.EXITED
            assert small.verdict is Verdict.MEMORY_LIMIT
        assert (await first.run(PASSING)).verdict is Verdict.PASSED


async def test_closing_leaves_nothing_behind() -> None:
    async with opened(slots=2) as sandbox:
        task = asyncio.ensure_future(run(sandbox, "import time\ntime.sleep(60)"))
        await asyncio.sleep(0.3)

    with pytest.raises((asyncio.CancelledError, Unavailable)):
        await task
    assert jails() == set()
    assert groups(os.getpid()) == []
    with pytest.raises(Unavailable):
        await sandbox.run(PASSING)


VICTIM = """
import asyncio, os, sys
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Job
async def main():
    sandbox = await open_sandbox(SandboxConfig(slots=2))
    print(os.getpid(), flush=True)
    await asyncio.gather(*(sandbox.run(Job(code="import time; time.sleep(600)")) for _ in range(2)))
asyncio.run(main())
"""


def start_victim() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", VICTIM], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def is_alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


def descendants(pid: int) -> Iterator[int]:
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, check=False)
    for child in map(int, found.stdout.split()):
        yield child
        yield from descendants(child)


async def test_a_killed_server_takes_its_jails_along_and_the_next_clears_up() -> None:
    server = start_victim()
    assert server.stdout is not None
    server.stdout.readline()
    await asyncio.sleep(0.5)
    family = list(descendants(server.pid))
    assert len(family) >= 6  # two slots of nsjail, zygote, init and program
    own_groups = groups(server.pid)

    server.kill()
    server.wait()
    server.stdout.close()

    deadline = time.monotonic() + 10
    while any(map(is_alive, family)):
        assert time.monotonic() < deadline, "jails outlive their server"
        await asyncio.sleep(0.05)
    async with opened() as sandbox:
        assert own_groups or (await sandbox.info()).isolation.cgroup == "none"
        assert groups(server.pid) == []
        assert (await sandbox.run(PASSING)).verdict is Verdict.PASSED


# Without control groups


async def test_without_control_groups_limits_hold_for_each_process() -> None:
    async with opened(cgroup="none") as sandbox:
        info = await sandbox.info()
        memory = await run(sandbox, "x = []\nwhile True: x.append(bytearray(1 << 20))", memory_bytes=64 * MIB)
        forks = await run(sandbox, "import os, time\nwhile True:\n    if not os.fork(): time.sleep(60)", processes=8)
        cpu = await run(sandbox, "while True: pass", cpu_time_ms=1000)
        passed = await sandbox.run(PASSING)

    assert info.isolation.cgroup == "none"
    assert any("control groups" in warning for warning in info.isolation.warnings)
    assert memory.verdict is Verdict.MEMORY_LIMIT
    assert forks.verdict is Verdict.PROCESS_LIMIT
    assert cpu.verdict is Verdict.TIME_LIMIT
    assert passed.verdict is Verdict.PASSED
    assert passed.usage.peak_memory_bytes > 0


# Without further namespaces


async def test_where_a_jail_makes_no_worlds_each_program_gets_a_jail(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "import selfalign_guest.kernel as k; k.SleepingInit.start = lambda self: 1 / 0; main(int"
    monkeypatch.setattr(jail, "_BOOT", jail._BOOT.replace("main(int", broken))

    async with opened() as sandbox:
        info = await sandbox.info()
        outcome = await sandbox.run(PASSING)

    assert outcome.verdict is Verdict.PASSED
    assert not info.runtimes[0].warm
    assert any("interpreter of its own" in warning for warning in info.isolation.warnings)


# What it says of itself


async def test_info_tells_what_is_in_force() -> None:
    async with opened(slots=2) as sandbox:
        info = await sandbox.info()

    assert info.slots == 2
    assert [runtime.name for runtime in info.runtimes] == ["python"]
    assert info.runtimes[0].interpreter == f"CPython {sys.version.split()[0]}"
    assert info.isolation.seccomp
    assert info.isolation.namespaces == ("user", "pid", "mount", "net", "ipc", "uts", "cgroup")
    assert json.dumps([info.version, info.runtimes[0].fingerprint])


@pytest.mark.parametrize(
    ("line", "wall"),
    [
        ("print('net', os.readlink('/proc/self/ns/net'))", ""),
        ("print('net', NET)", "the server's net namespace"),
        ("print('Seccomp: 0')", "no system call filter"),
        ("print('CapEff: 0000000000000001')", "has capabilities"),
    ],
)
async def test_a_wall_that_is_missing_keeps_it_from_opening(
    monkeypatch: pytest.MonkeyPatch, line: str, wall: str
) -> None:
    """What a program sees of its own namespaces, filter and rights is looked at, not assumed."""
    own = os.readlink("/proc/self/ns/net")  # noqa: PTH115
    monkeypatch.setattr(jail, "_LOOK", f"{jail._LOOK}\n{line.replace('NET', repr(own))}\n")

    with pytest.raises(HostUnfit, match=wall) if wall else contextlib.nullcontext():
        async with opened():
            pass
    assert jails() == set()


async def test_outcomes_carry_request_fingerprint_and_assurance() -> None:
    async with opened() as sandbox:
        outcome = await sandbox.run(Job(code="x = 1", tests="assert x == 1", request_id="mine"))
        plain = await sandbox.run(Job(code="x = 1"))
        info = await sandbox.info()

    assert outcome.request_id == "mine"
    assert outcome.runtime_fingerprint == info.runtimes[0].fingerprint
    assert (outcome.assurance, plain.assurance) == (Assurance.TESTS_COMPLETED, Assurance.EXIT_CLEAN)


async def test_an_unknown_runtime_is_refused_by_name() -> None:
    async with opened() as sandbox:
        with pytest.raises(InvalidJob, match="runtime"):
            await sandbox.run(Job(code="x = 1", runtime="cobol"))


# Commands


async def test_commands_run_with_the_hosts_programs() -> None:
    async with opened(runtimes=("python", "command")) as sandbox:

        async def command(*argv: str, **fields: Any) -> Outcome:
            return await sandbox.run(Job(argv=argv, runtime="command", **fields))

        shell = await command("sh", "-c", "yes | head -1; cat; id -u; exit 3", stdin=b"in\n")
        killed = await command("sh", "-c", "kill -9 $$")
        missing = await command("no-such-command")
        made = await command("sh", "-c", "echo x > made; chmod +x made", collect=("*",))
        limited = await command("sh", "-c", "while :; do :; done", limits=LimitsRequest(cpu_time_ms=200))
        info = await sandbox.info()

    assert (shell.verdict, shell.exit_code, shell.stdout) == (Verdict.EXITED, 3, b"y\nin\n1000\n")
    assert (killed.verdict, killed.signal) == (Verdict.KILLED, signal.SIGKILL)
    assert (missing.verdict, missing.exit_code) == (Verdict.EXITED, 127)
    assert made.files == (File("made", b"x\n", True),)
    assert limited.verdict is Verdict.TIME_LIMIT
    assert [(runtime.name, bool(runtime.interpreter)) for runtime in info.runtimes] == [
        ("python", True),
        ("command", False),
    ]


async def test_a_command_needs_a_command_runtime() -> None:
    async with opened(runtimes=("python", "command")) as sandbox:
        with pytest.raises(Unsupported, match="argv"):
            await sandbox.run(Job(argv=("true",)))
        with pytest.raises(Unsupported, match="argv"):
            await sandbox.run(Job(code="x = 1", runtime="command"))
