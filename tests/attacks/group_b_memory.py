"""B. Memory: everything that a process tree can make the kernel hold counts as its own."""

from __future__ import annotations

from sandbox_server.jobs import Verdict
from tests.attacks.attack import KIT, MIB, Attack, ended_with, found, limits, wrote

_MEMORY = limits(memory_bytes=64 * MIB)

ATTACKS = (
    Attack("list_growth", "a = []\nwhile True: a.append(bytes(100_000))", Verdict.MEMORY_LIMIT, limits=_MEMORY),
    Attack("one_block", "a = bytearray(b'x') * (300 << 20)", Verdict.MEMORY_LIMIT, limits=_MEMORY),
    Attack(
        "more_than_any_machine_has",  # the kernel refuses it on its own account
        "a = bytearray(1 << 45)",
        (Verdict.MEMORY_LIMIT, Verdict.ERROR),  # ERROR with MemoryError: no memory was ever used
        limits=_MEMORY,
    ),
    Attack("integer", "a = 1\nwhile True: a <<= 8_000_000", Verdict.MEMORY_LIMIT, limits=_MEMORY),
    Attack(
        "decompression",
        """
import zlib
packed = zlib.compress(bytes(1 << 22))
a = [zlib.decompress(packed).replace(b"\\0", b"x") for _ in range(100)]
""",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "each_child_below_the_limit",
        """
import os, time
for _ in range(8):
    if os.fork() == 0:
        block = bytearray(b"x") * (20 << 20)
        time.sleep(60)
time.sleep(2)
""",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "copies_on_write",
        """
import os, time
block = bytearray(b"x") * (24 << 20)
for _ in range(8):
    if os.fork() == 0:
        block[:] = b"y" * len(block)
        time.sleep(60)
time.sleep(60)
""",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "killed_child_hidden",  # the parent lives on and ends with 0
        """
import os
if os.fork() == 0:
    block = bytearray(b"x") * (300 << 20)
    os._exit(0)
os.wait()
os._exit(0)
""",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "memory_error_swallowed",
        """
blocks = []
while True:
    try:
        blocks.append(bytearray(b"x") * (1 << 20))
    except MemoryError:
        pass
""",
        (Verdict.MEMORY_LIMIT, Verdict.TIME_LIMIT),  # without a cgroup it is a loop over failing calls
        limits=_MEMORY,
    ),
    Attack(
        "thread_stacks",
        """
import ctypes, threading, time
threading.stack_size(32 << 20)
def fill():
    block = (ctypes.c_char * (24 << 20))
    ctypes.CDLL(None).memset(ctypes.create_string_buffer(24 << 20), 1, 24 << 20)
    time.sleep(60)
for _ in range(8):
    threading.Thread(target=fill).start()
""",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "anonymous_mapping",
        "import mmap\nm = mmap.mmap(-1, 300 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "for at in range(0, len(m), 4096): m[at] = 1",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "shared_mapping",
        "import mmap\nm = mmap.mmap(-1, 300 << 20)\nfor at in range(0, len(m), 4096): m[at] = 1",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "shared_mapping_outlives_its_child",
        """
import mmap, os
shared = [mmap.mmap(-1, 8 << 20) for _ in range(40)]
for m in shared:
    if os.fork() == 0:
        for at in range(0, len(m), 4096): m[at] = 1
        os._exit(0)
    os.wait()
""",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "nameless_file",
        """
import os
for _ in range(50):
    fd = os.memfd_create("x")
    os.write(fd, b"x" * (7 << 20))
""",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "files_count_as_memory",
        """
for n in range(100):
    with open(f"/tmp/{n}", "wb") as file:
        file.write(b"x" * (4 << 20))
""",
        Verdict.MEMORY_LIMIT,
        limits=limits(memory_bytes=64 * MIB, disk_bytes=256 * MIB),
    ),
    Attack(
        "dev_shm",
        """
for n in range(100):
    with open(f"/dev/shm/{n}", "wb") as file:
        file.write(b"x" * (4 << 20))
""",
        Verdict.MEMORY_LIMIT,
        limits=limits(memory_bytes=64 * MIB, disk_bytes=256 * MIB),
    ),
    Attack(
        "system_v_segment",
        KIT
        + """
libc.shmat.restype = ctypes.c_void_p
for n in range(40):
    segment = libc.shmget(0, 8 << 20, 0o1600)
    address = libc.shmat(segment, None, 0)
    if segment < 0 or address in (None, 2**64 - 1):
        raise OSError(ctypes.get_errno(), "shm")
    ctypes.memset(address, 1, 8 << 20)
""",
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "system_v_left_behind",
        KIT
        + """
attempt("shm", lambda: check(libc.shmget(@SYSV_KEY@, 4096, 0o1666)) >= 0)
attempt("sem", lambda: check(libc.semget(@SYSV_KEY@, 4, 0o1666)) >= 0)
attempt("msg", lambda: check(libc.msgget(@SYSV_KEY@, 0o1666)) >= 0)
""",
        Verdict.EXITED,
        (found(shm=("True", "EPERM"), sem=("True", "EPERM"), msg=("True", "EPERM")),),
    ),
    Attack(
        "message_queue_left_behind",
        KIT + 'attempt("mq", lambda: check(libc.mq_open(b"/@NAME@", 0o102, 0o666, None)) >= 0)',
        Verdict.EXITED,
        (found(mq=("True", "EACCES", "ENOSYS", "EPERM", "EMFILE")),),
    ),
    Attack(
        "shared_memory_left_behind",
        """
from multiprocessing.shared_memory import SharedMemory
from multiprocessing import resource_tracker
resource_tracker.register = resource_tracker.unregister = lambda *_: None
memory = SharedMemory("@NAME@", create=True, size=1 << 20)
memory.buf[0] = 1
""",
        Verdict.EXITED,
    ),
    Attack(
        "pipes_filled",
        KIT
        + """
import fcntl
held = []
try:
    while True:
        r, w = os.pipe()
        os.set_blocking(w, False)
        attempt("grow", lambda: fcntl.fcntl(w, 1031, 1 << 20))
        held.append((r, w))
        while os.write(w, bytes(65536)): pass
except BlockingIOError:
    pass
while True:
    try:
        held.append(os.pipe())
    except OSError as error:
        print(f"end={errno.errorcode[error.errno]}")
        break
""",
        Verdict.EXITED,
        (found(grow="EPERM", end="EMFILE"),),
    ),
    Attack(
        "sockets_filled",
        """
import errno, socket
held = []
try:
    while True:
        a, b = socket.socketpair()
        a.setblocking(False)
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
        held.append((a, b))
        try:
            while True: a.send(bytes(1 << 16))
        except BlockingIOError:
            pass
except OSError as error:
    print(f"end={errno.errorcode[error.errno]}")
""",
        (Verdict.EXITED, Verdict.MEMORY_LIMIT),  # how large a buffer may be is the host's setting
        limits=_MEMORY,
    ),
    Attack(
        "epolls_and_timers",
        KIT
        + """
held = []
for make in (lambda: libc.epoll_create1(0), lambda: libc.eventfd(0, 0), lambda: libc.timerfd_create(1, 0)):
    while (fd := make()) >= 0:
        held.append(fd)
    print(f"end={errno.errorcode[ctypes.get_errno()]}")
    for fd in held: os.close(fd)
    held.clear()
""",
        Verdict.EXITED,
        (found(end="EMFILE"),),
    ),
    Attack(
        "descriptors_raised",
        KIT
        + """
import resource
def raise_limit():
    try:
        return resource.prlimit(0, resource.RLIMIT_NOFILE, (10**6, 10**6))
    except (PermissionError, ValueError):
        return "refused"
attempt("limit", raise_limit)
held = []
try:
    while True: held.append(os.dup(0))
except OSError as error:
    print(f"end={errno.errorcode[error.errno]}")
print(f"below={len(held) < 64}")
""",
        Verdict.EXITED,
        (found(limit="refused", end="EMFILE", below="True"),),
    ),
    Attack(
        "deep_folders",
        """
import os
for _ in range(100_000):
    os.mkdir("d")
    os.chdir("d")
""",
        (Verdict.DISK_LIMIT, Verdict.MEMORY_LIMIT, Verdict.TIME_LIMIT),  # what runs out first is the host's speed
    ),
    Attack(
        "huge_arguments",
        """
import os, sys
for _ in range(4):
    if os.fork() == 0:
        try:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(0.2)", *["x" * 100_000] * 15])
        finally:
            os._exit(7)
codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(4)]
print(codes)
""",
        (Verdict.EXITED, Verdict.MEMORY_LIMIT),  # four more interpreters may be more than the limit
        limits=limits(memory_bytes=96 * MIB),
    ),
    Attack(
        "many_mappings",
        KIT
        + """
libc.mmap.restype = ctypes.c_void_p
count = 0
while libc.mmap(None, ctypes.c_size_t(4096), 1 + count % 2 * 2, 0x22, -1, ctypes.c_long(0)) != 2**64 - 1:
    count += 1
print(f"end={errno.errorcode[ctypes.get_errno()]}")
""",
        (Verdict.EXITED, Verdict.MEMORY_LIMIT),  # 65,530 mappings are allowed, unless their bookkeeping is too much
        limits=_MEMORY,
    ),
    Attack(
        "locked_memory",
        KIT + 'attempt("mlock", lambda: check(libc.mlockall(7)))\na = bytearray(b"x") * (300 << 20)',
        Verdict.MEMORY_LIMIT,
        limits=_MEMORY,
    ),
    Attack(
        "out_of_memory_score",  # to have somebody else killed
        KIT
        + """
def lower():
    with open("/proc/self/oom_score_adj", "w") as file: file.write("-1000")
attempt("lower", lower)
a = bytearray(b"x") * (300 << 20)
""",
        Verdict.MEMORY_LIMIT,
        (found(lower=("EACCES", "EPERM", "EROFS")),),
        limits=_MEMORY,
    ),
    Attack(
        "out_of_memory_score_of_the_jail",  # as small a victim as the jail's own first process, with all in files
        KIT
        + """
check(libc.prctl(4, 1, 0, 0, 0))
def lower():
    with open("/proc/self/oom_score_adj", "w") as file: file.write("0")
attempt("lower", lower)
for n in range(100):
    with open(f"/dev/shm/{n}", "wb") as file: file.write(b"x" * (4 << 20))
""",
        Verdict.MEMORY_LIMIT,
        limits=limits(memory_bytes=64 * MIB, disk_bytes=256 * MIB),
    ),
    Attack(
        "others_made_the_victim",
        KIT
        + """
for pid in ("1", str(os.getppid())):
    def raise_score():
        with open(f"/proc/{pid}/oom_score_adj", "w") as file: file.write("1000")
    attempt("raise", raise_score)
""",
        Verdict.EXITED,
        (found(**{"raise": ("EACCES", "EPERM", "ENOENT", "EROFS")}),),
    ),
    Attack(
        "memory_in_tests",
        "def f(): return bytearray(b'x') * (300 << 20)",
        Verdict.MEMORY_LIMIT,
        tests="assert len(f()) == 3",
        limits=_MEMORY,
    ),
    Attack(
        "large_reservation_is_no_attack",  # numerical libraries reserve far more than they touch
        "import mmap\nm = mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\n"
        "m[0] = 1\nprint('reserved')",
        Verdict.EXITED,
        (ended_with(0), wrote(b"reserved\n")),
        limits=_MEMORY,
    ),
)
