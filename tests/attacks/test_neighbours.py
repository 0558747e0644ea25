"""Two programs at once on one server: neither sees, reaches, disturbs or outlives into the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sandbox_server.client import connect
from sandbox_server.jobs import Job, Outcome, Verdict
from tests.attacks.attack import KIT, MIB, findings, limits
from tests.attacks.host import SYSV_KEY, Host
from tests.attacks.lanes import serve

pytestmark = pytest.mark.nsjail

# Offers itself in every way that it has, works for a second, and notices whether anybody came.
VICTIM = (
    KIT
    + f"""
import fcntl, socket, time
server = socket.socket(socket.AF_UNIX)
server.bind("\\0selfalign-neighbour")
server.listen()
server.setblocking(False)
inet = socket.socket()
try:
    inet.bind(("127.0.0.1", 40123)); inet.listen()
except OSError:
    pass
for folder in (".", "/tmp", "/dev/shm"):
    open(folder + "/neighbour", "w").write("PRIVATE-OF-THE-NEIGHBOUR")
os.chmod("/tmp/neighbour", 0o777)
segment = libc.shmget({SYSV_KEY}, 4096, 0o1666)
secret = "PRIVATE-OF-THE-NEIGHBOUR" * 1000
signals = []
for number in (1, 2, 10, 12, 15):
    signal.signal(number, lambda number, _: signals.append(number))
done = 0
end = time.monotonic() + 1.0
while time.monotonic() < end:
    done += sum(range(1000))
    time.sleep(0.001)
try:
    server.accept()
    print("reached=yes")
except BlockingIOError:
    print("reached=no")
print(f"signals={{signals}}")
print(f"files={{sorted(os.listdir('/tmp'))}}")
print(f"text={{open('/tmp/neighbour').read()}}")
def f(): return done > 0
"""
)

ATTACKERS = {
    "sockets": KIT
    + """
import socket, time
for _ in range(100):
    s = socket.socket(socket.AF_UNIX)
    attempt("abstract", lambda: s.connect("\\0selfalign-neighbour"))
    attempt("loopback", lambda: socket.create_connection(("127.0.0.1", 40123), 0.1))
    time.sleep(0.005)
""",
    "files": KIT
    + f"""
import time
for _ in range(100):
    for folder in (".", "/tmp", "/dev/shm", "/proc/1/root/tmp", "/proc/1/cwd"):
        try:
            if "neighbour" in os.listdir(folder): print("seen=" + folder)
        except OSError: pass
    if libc.shmget({SYSV_KEY}, 0, 0o666) >= 0: print("seen=segment")
    time.sleep(0.005)
""",
    "signals": KIT
    + """
import time
for _ in range(20):
    for pid in (-1, *range(1, 300)):
        if pid != os.getpid():
            for number in (15, 9):
                try: os.kill(pid, number)
                except OSError: pass
    time.sleep(0.02)
""",
    "memory": "a = []\nwhile True: a.append(bytearray(b'x') * (1 << 20))",
    "processes": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "disk": "n = 0\nwhile True:\n    try:\n        open(f'/tmp/{n}', 'wb').write(bytes(1 << 18)); n += 1\n    except OSError: pass",
    "output": "import os\nwhile True: os.write(1, bytes(65536))",
    "descriptors": "import os\nwhile True:\n    try: os.dup(0)\n    except OSError: pass",
    "watches": KIT
    + """
while True:
    fd = libc.inotify_init()
    if fd < 0:
        for n in range(3, 64):
            try: os.close(n)
            except OSError: pass
    else: libc.inotify_add_watch(fd, b"/", 0xFFF)
""",
}


@pytest.fixture(scope="module")
def address(host: Host):
    """A server of two slots."""
    with serve(host, "neighbours", "sandbox.slots=2") as (_, address):
        yield address


@pytest.fixture
async def sandbox(address: str) -> AsyncIterator[object]:
    """A client of it."""
    async with connect(address) as client:
        yield client


@pytest.mark.parametrize("name", ATTACKERS)
async def test_a_neighbour_is_neither_seen_nor_disturbed(sandbox, name: str) -> None:
    victim = Job(code=VICTIM, tests="assert f()", limits=limits(cpu_time_ms=10_000))
    attacker = Job(
        code=ATTACKERS[name],
        limits=limits(wall_time_ms=1500, cpu_time_ms=1200, memory_bytes=64 * MIB, processes=16, disk_bytes=8 * MIB),
    )
    outcome, attack = await asyncio.gather(sandbox.run(victim), sandbox.run(attacker))
    assert outcome.verdict is Verdict.PASSED, outcome
    seen = findings(outcome)
    assert seen["reached"] == "no"
    assert seen["signals"] == "[]"
    assert seen["files"] == "['neighbour']"
    assert seen["text"] == "PRIVATE-OF-THE-NEIGHBOUR"
    assert isinstance(attack, Outcome)
    assert b"PRIVATE" not in attack.stdout + attack.stderr
    told = findings(attack)
    assert "seen" not in told
    assert told.get("abstract", "ECONNREFUSED") == "ECONNREFUSED"
    assert told.get("loopback") in (None, "ENETUNREACH", "EADDRNOTAVAIL", "ECONNREFUSED")
