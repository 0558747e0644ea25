"""A server of one's own: it runs real jails, drains when left, dies with its parent, and says why it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sandbox_server import errors
from sandbox_server.client import ClientConfig, connect
from sandbox_server.embedded import embedded_sandbox
from sandbox_server.jobs import Job, Verdict

pytestmark = pytest.mark.nsjail


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """Every process below `pid`, the deepest last."""
    tree: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            tree.setdefault(parent, []).append(int(entry.name))
    found = list(tree.get(pid, ()))
    for child in found:
        found.extend(tree.get(child, ()))
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def slices_ns(tasks: list[int]) -> set[int]:
    """How long threads may have a processor at a time; 0 where the kernel does not tell (before Linux 6.12)."""
    found = set()
    attributes = ctypes.create_string_buffer(48)
    number = 315 if os.uname().machine == "x86_64" else 275  # sched_getattr
    for task in tasks:
        if ctypes.CDLL(None).syscall(number, task, attributes, len(attributes), 0) == 0:  # else it is gone
            found.add(int(struct.unpack_from("=Q", attributes, 24)[0]))
    return found


def wait_until(condition, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


async def test_it_runs_programs_and_leaves_no_process() -> None:
    before = set(children_of(os.getpid()))
    async with connect("embedded") as sandbox:
        info = await sandbox.info()
        assert [runtime.name for runtime in info.runtimes] == ["python"]
        jobs = [Job(code="def f(x): return x + 1", tests=f"assert f(1) == {n}", request_id=str(n)) for n in (2, 3)]
        right, wrong = await asyncio.gather(*map(sandbox.run, jobs))
        pids = set(children_of(os.getpid())) - before
        assert pids
    assert (right.verdict, right.request_id) == (Verdict.PASSED, "2")
    assert (wrong.verdict, wrong.request_id) == (Verdict.FAILED, "3")
    assert not [pid for pid in pids if is_alive(pid)]


async def test_settings_reach_it() -> None:
    async with embedded_sandbox(("--set", "sandbox.slots=1", "--set", "sandbox.default_limits.processes=7")) as sandbox:
        info = await sandbox.info()
    assert (info.slots, info.default_limits.processes) == (1, 7)


async def test_a_setting_that_it_refuses_is_told_in_its_own_words() -> None:
    with pytest.raises(errors.HostUnfit, match=r"unknown key 'slot'; did you mean 'slots'\?"):
        async with embedded_sandbox(("--set", "sandbox.slot=1")):
            pytest.fail("started")


async def test_a_server_that_ends_early_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(errors.HostUnfit, match="ended at once, with status 1"):
        async with embedded_sandbox():
            pytest.fail("started")


async def test_a_server_of_another_is_not_disturbed_by_settings_in_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("SELFALIGN_SANDBOX_ADDRESS", "0.0.0.0:1")
    monkeypatch.setenv("SELFALIGN_SANDBOX_SANDBOX__SLOTS", "1")
    async with embedded_sandbox() as sandbox:
        assert (await sandbox.info()).slots == 1


async def test_a_server_without_descriptors_says_unavailable_and_recovers() -> None:
    job = Job(code="x = 1", tests="assert x == 1")
    before = set(children_of(os.getpid()))
    async with connect("embedded", ClientConfig(retry_for_s=0)) as sandbox:
        assert (await sandbox.run(job)).verdict is Verdict.PASSED
        (pid,) = [pid for pid in set(children_of(os.getpid())) - before if "sandbox_server" in command_of(pid)]
        used = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        normal = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 1, normal[1]))
        with contextlib.ExitStack() as stack:
            for _ in range(50):
                one = stack.enter_context(socket.socket(socket.AF_UNIX))
                one.connect(sandbox.address.removeprefix("unix:"))
            with pytest.raises(errors.Unavailable):
                await sandbox.run(job)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, normal)
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(errors.Unavailable):
                    assert (await sandbox.run(job)).verdict is Verdict.PASSED
                    break


async def test_a_server_that_is_killed_is_started_again_and_its_runs_are_run_there(caplog) -> None:
    """By the host's want of memory, say: a night's build does not end with it, and no answer is lost."""
    before = set(children_of(os.getpid()))
    async with connect("embedded") as sandbox:
        slow = [Job(f"import time\ntime.sleep(1)\nx = {n}", f"assert x == {n}", request_id=str(n)) for n in range(4)]
        runs = [asyncio.create_task(sandbox.run(job)) for job in slow]
        await asyncio.sleep(0.5)
        (pid,) = [pid for pid in set(children_of(os.getpid())) - before if "sandbox_server" in command_of(pid)]
        os.kill(pid, signal.SIGKILL)
        outcomes = await asyncio.gather(*runs)
    assert [(seen.verdict, seen.request_id) for seen in outcomes] == [(Verdict.PASSED, str(n)) for n in range(4)]
    assert "ended with status -9 and is started again" in caplog.text
    assert not [pid for pid in set(children_of(os.getpid())) - before if is_alive(pid)]


async def test_a_host_without_room_for_a_temporary_folder_is_told_what_to_do(monkeypatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(errors.HostUnfit, match=r"No usable temporary directory .* set TMPDIR"):
        async with embedded_sandbox():
            pytest.fail("started")


PARENT = """
import asyncio
from sandbox_server.client import ClientConfig, connect
from sandbox_server.jobs import Job
async def main():
    async with connect("embedded") as sandbox:
        run = asyncio.create_task(sandbox.run(Job(code="import time; time.sleep(60)")))
        await asyncio.sleep(0.5)
        print("ready", flush=True)
        await run
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_parent_however_that_dies(number) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == "ready\n"
        pids = children_of(parent.pid)
        assert len(pids) >= 2  # the server and a jail
        parent.send_signal(number)
        parent.wait()
    assert wait_until(lambda: not any(map(is_alive, pids))), [pid for pid in pids if is_alive(pid)]


def threads_of(pid: int) -> list[int]:
    return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]


async def test_the_server_goes_before_programs_and_programs_go_as_others_do() -> None:
    """Its threads and each jail's first process ask for the shortest slices; what waits to be a program does not."""
    if slices_ns([0]) == {0}:
        pytest.skip("this kernel has no slices of a process's own")
    others = set(children_of(os.getpid()))
    async with embedded_sandbox(("--set", "sandbox.slots=1")) as sandbox:
        await sandbox.run(Job(code="x = 1"))
        (server,) = (p for p in children_of(os.getpid()) if p not in others and "sandbox_server" in command_of(p))
        zygote, *_ = (p for p in children_of(server) if "selfalign_guest" in command_of(p))  # the deepest last
        assert wait_until(lambda: children_of(zygote))

        assert len(threads_of(server)) > 1
        assert slices_ns(threads_of(server)) == {100_000}
        assert slices_ns([zygote]) == {100_000}
        assert 100_000 not in slices_ns(children_of(zygote))
