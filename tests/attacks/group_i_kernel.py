"""I. Kernel surface: calls that no program needs are refused, those that are only ever an attack end it."""

from __future__ import annotations

import platform

from sandbox_server.jobs import Outcome, Verdict
from tests.attacks.attack import KIT, Attack, found, killed_by, limits

_SIGSYS = 31
_X86 = platform.machine() == "x86_64"


def _names_the_call(outcome: Outcome) -> None:
    assert outcome.error is not None
    assert outcome.error.type == "SIGSYS", outcome.error
    assert "system call" in outcome.error.message, outcome.error


def _killed(name: str, x86: int, arm: int, arguments: str) -> Attack:
    """A call that only attacks make."""
    return Attack(
        name,
        KIT + f'attempt("call", lambda: call({x86}, {arm}, {arguments}))\nprint("alive=yes")',
        Verdict.KILLED,
        (killed_by(_SIGSYS), _names_the_call, found(alive=(None,))),  # type: ignore[arg-type]
    )


_KILLED = (
    _killed("ptrace_self", 101, 117, "0, 0, 0, 0"),
    _killed("ptrace_attach", 101, 117, "16, 1, 0, 0"),
    _killed("process_vm_writev", 311, 271, "1, 0, 0, 0, 0, 0"),
    _killed("process_vm_readv", 310, 270, "1, 0, 0, 0, 0, 0"),
    _killed("bpf", 321, 280, "5, 0, 0"),
    _killed("perf_event_open", 298, 241, "0, 0, -1, -1, 0"),
    _killed("userfaultfd", 323, 282, "0"),
    _killed("io_uring_setup", 425, 425, "1, 0"),
    _killed("kexec_load", 246, 104, "0, 0, 0, 0"),
    _killed("kexec_file_load", 320, 294, "-1, -1, 0, 0, 0"),
    _killed("init_module", 175, 105, "0, 0, 0"),
    _killed("finit_module", 313, 273, "0, 0, 0"),
    _killed("delete_module", 176, 106, "0, 0"),
    _killed("mount", 165, 40, "0, 0, 0, 0, 0"),
    _killed("umount", 166, 39, "0, 2"),
    _killed("pivot_root", 155, 41, "0, 0"),
    _killed("setns", 308, 268, "0, 0"),
    _killed("unshare_user", 272, 97, "0x10000000"),
    _killed("unshare_nothing", 272, 97, "0"),
    _killed("open_by_handle_at", 304, 265, "-1, 0, 0"),
    _killed("reboot", 169, 142, "0, 0, 0, 0"),
    _killed("swapon", 167, 224, "0, 0"),
    _killed("kcmp", 312, 272, "1, 2, 0, 0, 0"),
)

_REFUSED = Attack(
    "refused_calls",
    KIT
    + """
for name, x86, arm, *arguments in (
    ("chroot", 161, 51, b"/"), ("acct", 163, 89, b"/f"), ("sethostname", 170, 161, b"x", 1), ("setdomainname", 171, 162, b"x", 1),
    ("syslog", 103, 116, 3, 0, 0), ("quotactl", 179, 60, 0, 0, 0, 0), ("fanotify", 300, 262, 0, 0), ("mbind", 237, 235, 0, 0, 0, 0, 0, 0),
    ("migrate", 256, 238, 0, 0, 0, 0), ("move_pages", 279, 239, 0, 0, 0, 0, 0, 0), ("vmsplice", 278, 75, 1, 0, 0, 0),
    ("open_tree", 428, 428, -100, b"/", 1), ("move_mount", 429, 429, -1, b"", -1, b"", 0), ("fsopen", 430, 430, b"tmpfs", 0),
    ("fspick", 433, 433, -100, b"/", 0), ("mount_setattr", 442, 442, -100, b"/", 0, 0, 0), ("pidfd_getfd", 438, 438, 0, 0, 0),
    ("process_madvise", 440, 440, 0, 0, 0, 0, 0), ("memfd_secret", 447, 447, 0), ("handle", 303, 264, -100, b"/", 0, 0, 0),
    ("clock", 227, 112, 0, 0), ("keyctl", 250, 219, 0, 0, 0, 0, 0), ("process_mrelease", 448, 448, 0, 0)):
    attempt(name, lambda: call(x86, arm, *arguments))
""",
    Verdict.EXITED,
    (
        found(
            **dict.fromkeys(
                (
                    "chroot",
                    "acct",
                    "sethostname",
                    "setdomainname",
                    "syslog",
                    "quotactl",
                    "fanotify",
                    "mbind",
                    "migrate",
                    "move_pages",
                    "vmsplice",
                    "open_tree",
                    "move_mount",
                    "fsopen",
                    "fspick",
                    "mount_setattr",
                    "pidfd_getfd",
                    "process_madvise",
                    "memfd_secret",
                    "handle",
                    "clock",
                    "keyctl",
                    "process_mrelease",
                ),
                "EPERM",
            )
        ),
    ),
)

ATTACKS = (
    *_KILLED,
    _REFUSED,
    Attack(
        "unknown_calls",
        KIT
        + """
for number in (453, 460, 470, 500, 999, 4096, 1 << 20, (1 << 31) - 1):
    attempt(f"n{number}", lambda: call(number, number, 0, 0, 0))
""",
        Verdict.EXITED,
        (found(**{f"n{number}": "ENOSYS" for number in (453, 460, 470, 500, 999, 4096, 1 << 20, (1 << 31) - 1)}),),
    ),
    Attack(
        "clone_namespaces",
        KIT
        + """
for name, flag in (("user", 0x10000000), ("pid", 0x20000000), ("mount", 0x20000), ("net", 0x40000000), ("ipc", 0x8000000),
                   ("uts", 0x4000000), ("cgroup", 0x2000000), ("time", 0x80)):
    attempt(name, lambda: call(56, 220, flag | 17, 0, 0, 0, 0))
""",
        Verdict.EXITED,
        (found(**dict.fromkeys(("user", "pid", "mount", "net", "ipc", "uts", "cgroup", "time"), "EPERM")),),
    ),
    Attack(
        "clone3",  # its flags are in memory, where no filter can read them
        KIT
        + """
arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
attempt("clone3", lambda: call(435, 435, arguments, 88))
""",
        Verdict.EXITED,
        (found(clone3="ENOSYS"),),
    ),
    Attack(
        "clone_through_upper_bits",  # the kernel takes 32 bits of the flags, and so must the filter
        KIT + 'attempt("clone", lambda: call(56, 220, (1 << 40) | 0x10000000 | 17, 0, 0, 0, 0))',
        Verdict.EXITED,
        (found(clone="EPERM"),),
    ),
    Attack(
        "arguments_with_upper_bits",  # where the kernel takes an int, high bits must not slip past a comparison
        KIT
        + """
high = 1 << 32
attempt("socket", lambda: call(41, 198, high | 16, 3, 0))
attempt("packet", lambda: call(41, 198, 17, high | 3, 0))
attempt("push", lambda: call(16, 29, 0, high | 0x5412, b"x"))
attempt("personality", lambda: call(135, 92, high | 0x0400000))
attempt("seccomp", lambda: call(157, 167, high | 22, 2, 0, 0, 0))
attempt("pipe", lambda: call(72, 25, 1, high | 1031, 1 << 20))
""",
        Verdict.EXITED,
        (
            found(
                socket="EAFNOSUPPORT",
                packet="EAFNOSUPPORT",
                push="EPERM",
                personality="EPERM",
                seccomp="EPERM",
                pipe="EPERM",
            ),
        ),
    ),
    Attack(
        "filters_of_its_own",
        KIT
        + """
filter = (ctypes.c_uint64 * 1)(0x7FC00000 << 32 | 0x06)
program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(filter))
attempt("listener", lambda: call(317, 277, 1, 8, program))
attempt("prctl", lambda: call(157, 167, 22, 2, program, 0, 0))
attempt("strict", lambda: call(157, 167, 22, 1, 0, 0, 0))
attempt("off", lambda: call(157, 167, 22, 0, 0, 0, 0))
attempt("landlock", lambda: call(444, 444, 0, 0, 0) and "made")
""",
        Verdict.EXITED,
        (found(listener="EPERM", prctl="EPERM", strict="EPERM", off="EPERM"),),
    ),
    Attack(
        "watches",  # other slots open the same image, and the host the same devices
        KIT
        + """
attempt("watch", lambda: check(libc.inotify_init1(0)))
attempt("add", lambda: check(libc.inotify_add_watch(0, b"/dev/null", 0xFFF)))
folder = os.open("/dev", os.O_RDONLY)
attempt("notify", lambda: call(72, 25, folder, 1026, 0x20))
""",
        Verdict.EXITED,
        (found(watch="EPERM", add="EPERM", notify="EPERM"),),
    ),
    Attack(
        "host_wide_room",
        KIT
        + """
context = ctypes.c_ulong(0)
attempt("aio", lambda: call(206, 0, 65536, ctypes.byref(context)))
attempt("sync", lambda: os.sync())
attempt("syncfs", lambda: check(libc.syncfs(0)))
attempt("file", lambda: os.fsync(os.open("x", os.O_CREAT | os.O_WRONLY)))
""",
        Verdict.EXITED,
        (found(aio="EPERM", sync="None", syncfs="0", file="None"),),
    ),
    Attack(
        "memory_of_the_host",  # huge pages of its pool are counted for nobody; pages joined with others' tell what they hold
        KIT
        + """
libc.mmap.restype = ctypes.c_void_p
attempt("huge", lambda: call(9, 222, 0, 2 << 20, 3, 0x40022, -1, 0))
attempt("file", lambda: call(319, 279, b"huge", 4))
page = libc.mmap(None, 4096, 3, 0x22, -1, 0)
attempt("merge", lambda: call(28, 233, page, 4096, 12))
attempt("all", lambda: call(157, 167, 67, 1, 0, 0, 0))
attempt("cached", lambda: call(451, 451, 0, (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 5)(), 0))
attempt("core", lambda: call(157, 167, 62, 1, 0, 0, 0))
""",
        Verdict.EXITED,
        (found(huge="ENOMEM", file="ENOMEM", merge="EPERM", all="EPERM", cached="EPERM", core="EPERM"),),
    ),
    Attack(
        "exec_from_memory",  # a program that is on no file system is held as any other
        KIT
        + """
fd = os.memfd_create("own", 0)
with open("/proc/self/exe", "rb") as exe:
    for chunk in iter(lambda: exe.read(1 << 20), b""): os.write(fd, chunk)
code = "import ctypes; print('run=yes', flush=True); ctypes.CDLL(None).ptrace(0, 0, 0, 0)"
os.execve(fd, ["python", "-S", "-c", code], {"PYTHONHOME": sys.prefix})
""",
        Verdict.KILLED,
        (found(run="yes"), killed_by(_SIGSYS)),
        limits=limits(file_size_bytes=64 << 20, disk_bytes=64 << 20),
    ),
    Attack(
        "personality",
        KIT
        + """
for name, flags in (("layout", 0x0040000), ("executable", 0x0400000), ("zero", 0x0100000), ("short", 0x0200000), ("i386", 8)):
    attempt(name, lambda: call(135, 92, flags))
print(f"now={call(135, 92, 0xFFFFFFFF)}")
""",
        Verdict.EXITED,
        (found(layout="EPERM", executable="EPERM", zero="EPERM", short="EPERM", i386="EPERM", now="0"),),
    ),
    Attack(
        "memory_map_rewritten",
        KIT
        + """
attempt("mm", lambda: call(157, 167, 35, 8, 0, 0, 0))
attempt("name", lambda: check(libc.prctl(15, b"kworker/0:0", 0, 0, 0)))
""",
        Verdict.EXITED,
        (found(mm="EPERM"),),
    ),
    Attack(
        "proc_written",
        KIT
        + """
def write(path, text="1"):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
    return "written"
for path in ("sys/kernel/core_pattern", "sys/kernel/hostname", "sys/kernel/modprobe", "sys/kernel/yama/ptrace_scope", "sys/vm/drop_caches",
             "sys/vm/overcommit_memory", "sys/fs/binfmt_misc/register", "sys/kernel/sysrq", "sysrq-trigger", "self/setgroups",
             "self/uid_map", "self/gid_map", "1/oom_score_adj", "1/mem", "1/attr/current", "1/clear_refs", "1/coredump_filter",
             "sys/net/ipv4/ip_forward", "sys/kernel/shmmax", "sys/user/max_user_namespaces", "sys/kernel/ns_last_pid", "irq/0/smp_affinity",
             "scsi/scsi", "fs/nfsd", "acpi", "timer_list", "self/timerslack_ns", "sys/kernel/msgmax", "sys/kernel/sem"):
    attempt(path.replace("/", "_"), lambda: write("/proc/" + path))
""",
        Verdict.EXITED,
        (lambda outcome: _never(outcome, b"=written", allowed=(b"self_timerslack_ns=written",)),),
    ),
    Attack(
        "control_groups_written",
        KIT
        + """
for path in ("/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/release_agent",
             "/sys/kernel/uevent_helper", "/sys/fs/cgroup/memory.max"):
    print(f"{os.path.basename(path)}={exists(path)}")
""",
        Verdict.EXITED,
        (
            found(
                **{
                    "cgroup.procs": "ENOENT",
                    "release_agent": "ENOENT",
                    "uevent_helper": "ENOENT",
                    "memory.max": "ENOENT",
                }
            ),
        ),
    ),
    Attack(
        "memory_of_others",
        KIT
        + """
for pid in {1, os.getppid(), os.getpid() - 1} - {0}:
    for mode in (os.O_RDONLY, os.O_RDWR):
        attempt("mem", lambda: os.open(f"/proc/{pid}/mem", mode) and "opened")
""",
        Verdict.EXITED,
        (lambda outcome: _never(outcome, b"opened"),),
    ),
    Attack(
        "own_memory_rewritten",  # its own text may be written; no other process and no later run has it
        KIT
        + """
address = ctypes.cast(libc.getpid, ctypes.c_void_p).value
with open("/proc/self/mem", "r+b", buffering=0) as memory:
    memory.seek(address)
    memory.write(b"\\xb8\\x2a\\0\\0\\0\\xc3" if X86 else memory.read(0))
print(f"pid={libc.getpid()}")
""",
        (Verdict.EXITED, Verdict.ERROR),  # newer kernels may be told to refuse it
    ),
    Attack(
        "namespaces_opened",
        KIT
        + """
import fcntl
check(libc.prctl(4, 1, 0, 0, 0))
for name in os.listdir("/proc/self/ns"):
    fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    attempt(f"parent_{name}", lambda: fcntl.ioctl(fd, 0xB702) and "opened")
    attempt(f"owner_{name}", lambda: fcntl.ioctl(fd, 0xB701) and "opened")
""",
        Verdict.EXITED,
        (lambda outcome: _never(outcome, b"parent_user=opened", b"parent_pid=opened"),),
    ),
    Attack(
        "loops_and_devices",
        KIT
        + """
for name in ("loop-control", "loop0", "fuse", "kvm", "mem", "port", "kmsg", "sda", "vda", "mapper/control", "net/tun", "uinput", "userfaultfd"):
    print(f"{name}={exists('/dev/' + name)}")
for name in ("null", "zero", "full", "random", "urandom"):
    attempt("chmod", lambda: os.chmod("/dev/" + name, 0))
    attempt("unlink", lambda: os.unlink("/dev/" + name))
import fcntl, struct
attempt("entropy", lambda: fcntl.ioctl(os.open("/dev/urandom", os.O_RDWR), 0x5204, struct.pack("i", 0)))
attempt("credit", lambda: fcntl.ioctl(os.open("/dev/urandom", os.O_RDWR), 0x40085203, struct.pack("iii", 8, 4, 0)))
""",
        Verdict.EXITED,
        (
            found(
                chmod=("EPERM", "EROFS"),
                unlink=("EROFS", "EACCES", "EBUSY"),
                entropy="EPERM",
                credit="EPERM",
                **dict.fromkeys(("loop-control", "fuse", "kvm", "mem", "kmsg", "userfaultfd"), "ENOENT"),
            ),
        ),
    ),
    *(
        (
            Attack(
                "i386_calls",  # another table of numbers: 26 is ptrace there and msync here
                KIT
                + """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\\xb8\\x1a\\0\\0\\0\\x31\\xdb\\x31\\xc9\\xcd\\x80\\xc3")
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print("alive=yes")
""",
                Verdict.KILLED,
                (found(alive=(None,)),),  # type: ignore[arg-type]
            ),
            Attack(
                "x32_calls",
                KIT
                + """
for number in (39, 41, 56, 57, 101, 165, 272, 425, 512, 520, 545):
    attempt(f"n{number}", lambda: call(0x40000000 | number, 0, 0, 0, 0, 0))
""",
                Verdict.EXITED,
                (found(**{f"n{n}": "ENOSYS" for n in (39, 41, 56, 57, 101, 165, 272, 425, 512, 520, 545)}),),
            ),
            _killed("modify_ldt", 154, 0, "0, 0, 0"),
            _killed("iopl", 172, 0, "3"),
        )
        if _X86
        else ()
    ),
)


def _never(outcome: Outcome, *parts: bytes, allowed: tuple[bytes, ...] = ()) -> None:
    lines = [line for line in outcome.stdout.splitlines() if line not in allowed]
    for part in parts:
        assert not [line for line in lines if part in line], outcome.stdout.decode()
