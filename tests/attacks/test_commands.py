"""Programs that are no Python: the command runtime, where the host's own programs are at hand, has the same walls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from sandbox_server.client import RemoteSandbox, connect
from sandbox_server.jobs import Job, LimitsRequest, Outcome, Verdict
from tests.attacks.attack import limits
from tests.attacks.host import Host, descendants
from tests.attacks.lanes import serve

pytestmark = pytest.mark.nsjail


@dataclass(frozen=True, slots=True)
class Script:
    """A shell script, how it must end, and what it must and must not print."""

    text: str
    verdict: Verdict | tuple[Verdict, ...] = Verdict.EXITED  # bash tries a refused fork again for a while
    prints: bytes = b""
    never: tuple[bytes, ...] = ()
    limits: LimitsRequest = limits()


SCRIPTS = {
    "environment": Script(
        "env; cat /proc/*/environ; cat /proc/*/cmdline", never=(b"API_KEY", b"sandbox_server", b"--parent-pid")
    ),
    "descriptors": Script(
        "for f in /proc/self/fd/*; do readlink $f; done | grep -v '^pipe\\|/dev/null\\|/fd$' || echo none"
    ),
    "identity": Script(
        "id -u; grep -E 'CapEff|CapPrm|CapBnd|NoNewPrivs' /proc/self/status",
        prints=b"NoNewPrivs:\t1",
        never=(b"\n0\n",),
    ),
    "setuid_programs": Script(
        "find / -xdev -perm /6000 -type f 2>/dev/null | while read f; do $f -c id </dev/null 2>&1; done | grep uid=0 || echo none",
        prints=b"none",
        limits=limits(wall_time_ms=60_000, cpu_time_ms=20_000),  # it goes through /usr, which may be on a slow disk
    ),
    "host_files": Script(
        "cat /etc/shadow /root/.bashrc /proc/1/root/etc/shadow /home/*/.ssh/* 2>/dev/null | wc -c", prints=b"0"
    ),
    "written_system": Script(
        "for d in / /usr /usr/bin /etc /lib /sandbox /dev /proc /proc/sys/kernel; do touch $d/x 2>/dev/null && echo wrote $d; done; echo end",
        prints=b"end",
        never=(b"wrote",),
    ),
    "network": Script(
        "for to in 127.0.0.1/22 169.254.169.254/80; do (exec 3<>/dev/tcp/$to) 2>/dev/null && echo reached $to; done; echo end",
        prints=b"end",
        never=(b"reached",),
    ),
    "mounts": Script(
        "mount -t tmpfs x /tmp; unshare -Ur id; chroot / id; nsenter -t 1 -a id; echo $?", never=(b"uid=0",)
    ),
    "fork_bomb": Script(
        "f() { f | f & }; f; sleep 5",
        (Verdict.PROCESS_LIMIT, Verdict.TIME_LIMIT),
        limits=limits(processes=16, wall_time_ms=4_000),
    ),
    "daemon": Script("setsid sleep 60 & setsid sleep 60 & echo end", prints=b"end"),
    "kill": Script("kill -9 1; kill -9 -1; echo alive", never=(b"reached",)),
    "kills_itself": Script("kill -SEGV $$", Verdict.KILLED),
    "busy": Script("while :; do :; done", Verdict.TIME_LIMIT, limits=limits(cpu_time_ms=300)),
    "sleep": Script("sleep 60", Verdict.TIME_LIMIT, limits=limits(wall_time_ms=500)),
    "flood": Script("yes", Verdict.OUTPUT_LIMIT),
    "pipe_held": Script("sleep 60 & echo end", prints=b"end"),
    "exit_code": Script("exit 137"),
    "disk": Script("for n in 1 2 3 4; do dd if=/dev/zero of=$n bs=1M count=7 2>/dev/null; done", Verdict.DISK_LIMIT),
}


@pytest.fixture(scope="module")
def started(host: Host):
    """A server with commands."""
    with serve(host, "commands", "sandbox.slots=2", 'sandbox.runtimes=["python","command"]') as server:
        yield server


@pytest.fixture
async def sandbox(started) -> AsyncIterator[RemoteSandbox]:
    """A client of it."""
    async with connect(started[1]) as client:
        yield client


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_command_is_held_as_a_program_is(started, sandbox: RemoteSandbox, host: Host, name: str) -> None:
    script = SCRIPTS[name]
    before = len(descendants(started[0].pid))
    outcome = await sandbox.run(
        Job(runtime="command", argv=("/bin/bash", "-c", script.text), limits=script.limits, stdin=b"")
    )
    assert isinstance(outcome, Outcome)
    said = outcome.stdout + outcome.stderr
    allowed = script.verdict if isinstance(script.verdict, tuple) else (script.verdict,)
    assert outcome.verdict in allowed, outcome
    assert script.prints in said, said[:2000]
    for word in (*script.never, *host.words_that_must_not_come_out()):
        assert word not in said, said[:2000]
    innocent = await sandbox.run(Job(runtime="command", argv=("/bin/bash", "-c", "ls -A . /tmp /dev/shm; echo end")))
    assert (innocent.verdict, innocent.stdout.split()) == (Verdict.EXITED, b".: /dev/shm: /tmp: end".split()), innocent
    assert not host.harm()
    assert len(descendants(started[0].pid)) <= before + 2
