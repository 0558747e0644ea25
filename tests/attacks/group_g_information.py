"""G. Information: a program learns of its own world and of no other."""

from __future__ import annotations

from sandbox_server.jobs import Verdict
from tests.attacks.attack import KIT, Attack, found

ATTACKS = (
    Attack(
        "processes",
        """
import os
pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
print(f"few={len(pids) <= 3}")
print(f"own={os.getpid() in pids and max(pids) < 1000}")
names = {open(f"/proc/{pid}/comm").read().strip() for pid in pids}
print(f"foreign={sorted(n for n in names if 'nsjail' in n or 'serve' in n or 'pytest' in n)}")
""",
        Verdict.EXITED,
        (found(few="True", own="True", foreign="[]"),),
    ),
    Attack(
        "init",
        KIT
        + """
for name in ("environ", "mem", "maps", "auxv", "stack", "syscall", "io", "pagemap"):
    attempt(name, lambda: open(f"/proc/1/{name}", "rb").read(64) and "read")
for name in ("fd", "map_files", "task/1/fd"):
    attempt(name, lambda: os.listdir(f"/proc/1/{name}") and "read")
for name in ("cwd", "root", "exe"):
    attempt(name, lambda: os.readlink(f"/proc/1/{name}"))
attempt("ns", lambda: os.open("/proc/1/ns/mnt", os.O_RDONLY))
""",
        Verdict.EXITED,
        (
            found(
                **dict.fromkeys(
                    ("environ", "mem", "maps", "fd", "map_files", "cwd", "root", "exe", "io", "ns"),
                    ("EACCES", "EPERM", "ENOENT"),
                )
            ),
        ),
    ),
    Attack(
        "host_files",
        KIT
        + """
for path in ("@SECRET_FILE@", "@HOME@", "@CWD@", "@SERVER_SOCKET@", "/etc/shadow", "/root/.bashrc", "/home", "/var/log", "/boot",
             "/opt", "/srv", "/mnt", "/media", "/run", "/sys", "/usr/bin", "/bin/sh", "/var/run/docker.sock"):
    print(f"{path}={exists(path)}")
""",
        Verdict.EXITED,
        (
            found(
                **dict.fromkeys(
                    ("/etc/shadow", "/root/.bashrc", "/home", "/var/log", "/boot", "/mnt", "/run", "/sys", "/bin/sh"),
                    ("ENOENT", "EACCES", "ENOTDIR"),
                )
            ),
        ),
    ),
    Attack(
        "server_files",
        """
import os
seen = []
for folder, folders, names in os.walk("/"):
    if folder.startswith("/proc"): folders.clear(); continue
    seen += [os.path.join(folder, n) for n in names + folders if n in ("sandbox_server", "site-packages", ".git", "pyproject.toml", ".ssh", ".env", "grpc")]
print(f"seen={seen}")
""",
        Verdict.EXITED,
        (found(seen="[]"),),
    ),
    Attack(
        "host_name",
        KIT
        + """
import socket
print(f"names={sorted({socket.gethostname(), os.uname().nodename, platform.node()})}")
print(f"domain={read('/proc/sys/kernel/hostname')}{read('/proc/sys/kernel/domainname')}")
""",
        Verdict.EXITED,
        (found(names="['sandbox']"),),
    ),
    Attack(
        "kernel_files",
        KIT
        + """
def symbols():
    return {line.split()[0] for line in open("/proc/kallsyms")} <= {"0" * 16} and "zero"
attempt("kallsyms", symbols)
attempt("kcore", lambda: open("/proc/kcore", "rb").read(16) and "read")
attempt("kmsg", lambda: os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK))
attempt("syslog", lambda: check(libc.klogctl(3, ctypes.create_string_buffer(4096), 4096)))
attempt("timers", lambda: open("/proc/timer_list").read(16) and "read")
attempt("iomem", lambda: {line.split()[0] for line in open("/proc/iomem")} <= {"00000000-00000000"} and "zero")
attempt("pages", lambda: open("/proc/kpagecount", "rb").read(8) and "read")
attempt("interrupts", lambda: open("/proc/sysrq-trigger", "w"))
""",
        Verdict.EXITED,
        (
            found(
                kallsyms=("zero", "ENOENT", "EACCES", "EPERM"),
                kcore=("EACCES", "EPERM", "ENOENT"),
                kmsg=("EACCES", "EPERM", "ENOENT"),
                syslog="EPERM",
                timers=("EACCES", "EPERM", "ENOENT"),
                iomem=("zero", "EACCES", "EPERM", "ENOENT", "False"),
                pages=("EACCES", "EPERM", "ENOENT"),
                interrupts=("EACCES", "EPERM", "EROFS", "ENOENT"),
            ),
        ),
    ),
    Attack(
        "sockets_of_the_host",
        KIT
        + """
rows = []
for folder in ("net/", "self/net/", "thread-self/net/"):
    for name in ("unix", "tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6", "packet", "route",
                 "arp", "netlink"):
        lines = read("/proc/" + folder + name).splitlines()[1:]
        if name == "netlink":  # the kernel's own, which every network namespace has, are bound to port 0
            lines = [line for line in lines if line.split()[2] != "0"]
        rows += [line for line in lines if line.strip()]
print(f"looked={len(read('/proc/self/net/unix').splitlines()) == 1}")
print(f"rows={rows}")
print(f"used={read('/proc/self/net/sockstat').splitlines()[0]}")
""",
        Verdict.EXITED,
        (found(looked="True", rows="[]", used="sockets: used 0"),),
    ),
    Attack(
        "control_group",
        """
import os
text = open("/proc/self/cgroup").read()
print(f"paths={sorted({line.split(':', 2)[2] for line in text.splitlines()})}")
print(f"mounted={os.path.exists('/sys/fs/cgroup')}")
""",
        Verdict.EXITED,
        (found(paths="['/']", mounted="False"),),
    ),
    Attack(
        "mounts",
        KIT
        + """
text = read("/proc/self/mountinfo") + read("/proc/self/mounts") + read("/proc/self/mountstats")
print(f"host={[word for word in ('@HOME@', '@CWD@', '/home/', 'overlay', 'upperdir') if word in text]}")
points = sorted(line.split()[4] for line in open("/proc/self/mountinfo"))
print(points)
""",
        Verdict.EXITED,
        (found(host="[]"),),
    ),
    Attack(
        "random_state_is_not_shared",  # two runs of one interpreter must not draw the same numbers
        """
import os, random, tempfile, uuid
print(f"same={'@NAME@' in str(random.getstate())}")
print(random.random(), next(tempfile._get_candidate_names()))
""",
        Verdict.EXITED,
    ),
    Attack(
        "memory_of_the_run_before",  # neither its program nor its input is in what the interpreter was forked from
        KIT
        + """
import re
wanted = bytes(c ^ 1 for c in b"QM@OUDE")
other = bytes(c ^ 1 for c in b"LHOD")
check(libc.prctl(4, 1, 0, 0, 0))
seen, own = 0, 0
own_text = "MINE-AND-NOT-OF-ANOTHER"
for line in open("/proc/self/maps").read().splitlines():
    match = re.match("([0-9a-f]+)-([0-9a-f]+) r", line)
    if not match or "[v" in line: continue
    start, end = (int(part, 16) for part in match.groups())
    data = ctypes.string_at(start, end - start)
    seen += data.count(wanted + b"-OF-ANOTHER")
    own += data.count(other + b"-AND-NOT")
    del data
print(f"seen={seen}")
print(f"looked={own > 0}")
""",
        Verdict.EXITED,
        (found(seen="0", looked="True"),),
        first="secret = 'PLANTED-OF-ANOTHER' * 10000\nopen('/tmp/f', 'w').write(secret)\nprint(len(secret))",
    ),
    Attack(
        "files_of_the_run_before",
        """
import os
seen = []
for folder in ("/tmp", "/work", "/box", "/dev/shm", "."):
    for path, _, names in os.walk(folder): seen += names
print(f"seen={seen}")
""",
        Verdict.EXITED,
        (found(seen="[]"),),
        first="for f in ('/tmp/a', 'b', '/dev/shm/c'): open(f, 'w').write('x')",
    ),
    Attack(
        "uninitialised_memory",  # the kernel clears pages; an allocator of the run before must not hand its own on
        KIT
        + """
libc.malloc.restype = ctypes.c_void_p
blocks = [libc.malloc(1 << size) for size in range(4, 20) for _ in range(50)]
dirty = b"".join(ctypes.string_at(libc.malloc(1 << size), 1 << size) for size in range(4, 20) for _ in range(20))
print(f"seen={dirty.count(bytes(c ^ 1 for c in b'QM@OUDE') + b'-OF-ANOTHER')}")
""",
        Verdict.EXITED,
        (found(seen="0"),),
        first="blocks = [('PLANTED-OF-ANOTHER' * 50) + str(n) for n in range(10000)]",
    ),
    Attack(
        "system_v_of_the_run_before",
        KIT
        + """
attempt("shm", lambda: check(libc.shmget(@SYSV_KEY@, 0, 0o666)))
attempt("msg", lambda: check(libc.msgget(@SYSV_KEY@, 0o666)))
print(f"lines={[len(read('/proc/sysvipc/' + n).splitlines()) > 1 for n in ('shm', 'sem', 'msg')]}")
""",
        Verdict.EXITED,
        (found(shm="ENOENT", msg="ENOENT", lines="[False, False, False]"),),
        first=KIT + "libc.shmget(@SYSV_KEY@, 4096, 0o1666); libc.msgget(@SYSV_KEY@, 0o1666)",
    ),
    Attack(
        "hardware",
        """
import os
paths = ("/sys/class/net", "/sys/class/dmi/id/product_uuid", "/sys/firmware", "/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg",
         "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/nvidia0", "/dev/dri", "/dev/vsock", "/dev/vhost-vsock", "/dev/mqueue", "/dev/pts")
print(f"there={[path for path in paths if os.path.exists(path)]}")
""",
        Verdict.EXITED,
        (found(there="[]"),),
    ),
    Attack(
        "parent",
        """
import os
print(f"parent={os.getppid()}")
for name in ("NSpid", "NStgid", "Uid"):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"): print(f"{name}={line.split()[1:]}")
print(f"login={os.path.exists('/proc/self/loginuid') and open('/proc/self/loginuid').read()}")
""",
        Verdict.EXITED,
        (found(parent=("0", "1")),),
    ),
)
