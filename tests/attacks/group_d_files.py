"""D. Files: what a program writes is bounded, gone with it, and never a way out when it is collected."""

from __future__ import annotations

from sandbox_server.jobs import Verdict
from tests.attacks.attack import KIT, MIB, Attack, collected, ended_with, found, limits, refused, small_answer

_DISK = limits(disk_bytes=4 * MIB, file_size_bytes=2 * MIB)


def _collect(*globs: str) -> dict[str, tuple[str, ...]]:
    return {"collect": globs}


ATTACKS = (
    Attack(
        "disk_filled",
        "for n in range(100): open(str(n), 'wb').write(bytes(1 << 20))",
        Verdict.DISK_LIMIT,
        limits=_DISK,
    ),
    Attack(
        "disk_filled_and_swallowed",
        """
for n in range(100):
    try:
        open(f"/tmp/{n}", "wb").write(bytes(1 << 20))
    except OSError:
        pass
""",
        (Verdict.EXITED, Verdict.DISK_LIMIT),  # a program that copes with a full disk may end well
        limits=_DISK,
    ),
    Attack(
        "disk_reserved",
        """
import os
fd = os.open("f", os.O_CREAT | os.O_RDWR)
os.posix_fallocate(fd, 0, 1 << 40)
""",
        Verdict.DISK_LIMIT,
        limits=_DISK,
    ),
    Attack("large_file", "open('f', 'wb').write(bytes(3 << 20))", Verdict.DISK_LIMIT, limits=_DISK),
    Attack(
        "sparse_file",
        KIT + 'attempt("size", lambda: os.truncate(os.open("f", os.O_CREAT | os.O_RDWR), 1 << 40))',
        (Verdict.EXITED, Verdict.DISK_LIMIT),
        (found(size="EFBIG"),),
        limits=_DISK,
    ),
    Attack(
        "size_limit_raised",
        """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
except (OSError, ValueError):
    pass
open("f", "wb").write(bytes(3 << 20))
""",
        Verdict.DISK_LIMIT,
        limits=_DISK,
    ),
    Attack("inodes_filled", "for n in range(10**7): open(str(n), 'w').close()", Verdict.DISK_LIMIT, limits=_DISK),
    Attack("folders_filled", "import os\nfor n in range(10**7): os.mkdir(str(n))", Verdict.DISK_LIMIT, limits=_DISK),
    Attack(
        "symlinks_filled",
        "import os\nfor n in range(10**7): os.symlink('x' * 1000, str(n))",
        Verdict.DISK_LIMIT,
        limits=_DISK,
    ),
    Attack(
        "hardlinks_filled",
        "import os\nopen('f', 'w').close()\nfor n in range(10**7): os.link('f', str(n))",
        Verdict.DISK_LIMIT,
        limits=_DISK,
    ),
    Attack("pipes_made", "import os\nfor n in range(10**7): os.mkfifo(str(n))", Verdict.DISK_LIMIT, limits=_DISK),
    Attack(
        "attributes_filled",
        KIT
        + """
open("f", "w").close()
def fill():
    for n in range(10**6): os.setxattr("f", f"user.{n}", bytes(30_000))
attempt("xattr", fill)
""",
        (Verdict.EXITED, Verdict.DISK_LIMIT, Verdict.MEMORY_LIMIT),  # tmpfs has had attributes only since Linux 6.6
        limits=_DISK,
    ),
    Attack(
        "deleted_and_held",
        """
import os
held = []
while True:
    held.append(open("f", "w+b"))
    held[-1].write(bytes(1 << 20))
    held[-1].flush()
    os.unlink("f")
""",
        Verdict.DISK_LIMIT,
        limits=_DISK,
    ),
    Attack(
        "long_and_deep_names",
        KIT
        + """
attempt("long", lambda: open("n" * 256, "w"))
attempt("path", lambda: open("n/" * 3000, "w"))
for _ in range(400):
    os.mkdir("n" * 250)
    os.chdir("n" * 250)
print(f"cwd={os.path.exists('.')}")
""",
        (Verdict.EXITED, Verdict.DISK_LIMIT),
        (found(long="ENAMETOOLONG", path="ENAMETOOLONG"),),
    ),
    Attack(
        "strange_names",
        r"""
import os
for name in (b"\xff\xfe", b"a\nb", b"\x1b[2J", b"-rf", b" ", b"\xe2\x80\xae", b"'$(id)'", b"..."):
    open(name, "wb").close()
    os.mkdir(b"d" + name)
""",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack(
        "leftovers",
        """
import os
for folder in (".", "/tmp", "/dev/shm"):
    for name in ("@NAME@", ".hidden", "sitecustomize.py", "usercustomize.py", "conftest.py", "pytest.ini", "json.py",
                 "solution.py", "x.pth"):
        with open(os.path.join(folder, name), "w") as file: file.write("raise SystemExit(0)")
""",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack(
        "system_overwritten",
        KIT
        + """
import json, stat
targets = [os.path.realpath(sys.executable), "/proc/self/exe", json.__file__, os.__file__, "/etc/passwd", "/etc/hosts",
           json.__cached__, *(f"/sandbox/{n}" for n in (os.listdir("/sandbox") if os.path.isdir("/sandbox") else ()))]
seen = set()
for target in targets:
    for action in (lambda: open(target, "r+b"), lambda: os.unlink(target), lambda: os.chmod(target, 0o777),
                   lambda: os.utime(target), lambda: os.rename(target, target + "x"), lambda: os.truncate(target, 0),
                   lambda: os.link(target, "/tmp/link")):
        try:
            action()
            seen.add("done")
        except OSError as error:
            seen.add(errno.errorcode[error.errno])
print(f"writable={'done' in seen}")
""",
        Verdict.EXITED,
        (found(writable="False"),),
    ),
    Attack(
        "nothing_is_writable_but_its_own",
        """
import os
own = {os.path.realpath(path) for path in (".", "/tmp", "/dev/shm")}
writable = set()
for folder, folders, names in os.walk("/"):
    if folder.startswith("/proc"): continue
    if os.path.realpath(folder) in own: folders.clear()
    for name in (".", *names):
        path = os.path.realpath(os.path.join(folder, name))
        if os.access(path, os.W_OK) and not path.startswith("/dev/") and not path.startswith("/proc"): writable.add(path)
        if name == "." and os.access(path, os.W_OK):
            try:
                os.mkdir(os.path.join(path, "@NAME@"))
            except OSError:
                writable.discard(path)
print(f"writable={sorted(w for w in writable - own if not any(o.startswith(w) for o in own))}")
""",
        Verdict.EXITED,
        (found(writable="[]"),),
    ),
    Attack(
        "own_folders_replaced",
        """
import os, shutil
for path in (".", "/tmp", "/dev/shm"):
    real = os.path.realpath(path)
    for action in (lambda: os.chmod(real, 0), lambda: os.rename(real, real + "x"), lambda: os.rmdir(real),
                   lambda: os.symlink("/etc", real)):
        try:
            action()
        except OSError:
            pass
""",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack("umask", "import os\nos.umask(0o777)\nopen('f', 'w').close()", Verdict.EXITED, (ended_with(0),)),
    Attack(
        "links_out",
        """
import os
seen = []
for path in ("@SECRET_FILE@", "@HOME@/secret", "@CWD@/.env", "/etc/shadow", "/root/.ssh/id_rsa", "/proc/1/root@SECRET_FILE@",
             "/proc/self/root@SECRET_FILE@", "/proc/self/cwd/../../../../@SECRET_FILE@", "/../../..@SECRET_FILE@"):
    os.symlink(path, f"l{len(seen)}")
    try:
        seen.append(open(f"l{len(seen)}").read())
    except OSError as error:
        seen.append(error.errno)
print(f"read={[s for s in seen if isinstance(s, str)]}")
""",
        Verdict.EXITED,
        (found(read="[]"),),
    ),
    Attack(
        "immutable_file",
        KIT
        + """
import fcntl, struct
fd = os.open("f", os.O_CREAT | os.O_RDWR)
attempt("flags", lambda: fcntl.ioctl(fd, 0x40086602, struct.pack("l", 0x10)))
""",
        Verdict.EXITED,
        (found(flags=("EPERM", "ENOTTY", "EOPNOTSUPP")),),
    ),
    Attack(
        "devices_made",
        KIT
        + """
import stat
attempt("block", lambda: os.mknod("b", stat.S_IFBLK | 0o666, os.makedev(8, 0)))
attempt("char", lambda: os.mknod("c", stat.S_IFCHR | 0o666, os.makedev(1, 1)))
print(f"devices={sorted(os.listdir('/dev'))}")
""",
        Verdict.EXITED,
        (found(block="EPERM", char="EPERM"),),
    ),
    # ------------------------------------------------------------------------------------------------- collected files
    Attack(
        "collected_links",
        """
import os
os.symlink("@SECRET_FILE@", "a.txt")
os.symlink("/proc/self/environ", "b.txt")
os.symlink("/etc/passwd", "c.txt")
os.symlink("/dev/zero", "d.txt")
os.symlink("a.txt", "e.txt")
open("honest.txt", "w").write("mine")
""",
        Verdict.EXITED,
        (collected({"honest.txt": b"mine"}), refused("a.txt", "b.txt", "c.txt", "d.txt", "e.txt")),
        job=_collect("*.txt"),
    ),
    Attack(
        "collected_through_linked_folder",
        """
import os
os.symlink("/etc", "etc")
os.symlink("@HOME@", "home")
os.symlink("..", "up")
""",
        Verdict.EXITED,
        (collected({}),),
        job=_collect("etc/passwd", "home/secret", "up/*", "*/secret", "etc/*"),
    ),
    Attack(
        "collected_hardlink",
        KIT + 'attempt("link", lambda: os.link("/etc/passwd", "f"))\nopen("g", "w").close(); os.link("g", "h")',
        Verdict.EXITED,
        (found(link=("EXDEV", "EPERM", "EROFS")), collected({"g": b"", "h": b""})),
        job=_collect("*"),
    ),
    Attack(
        "collected_pipe_socket_folder",
        """
import os, socket
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
os.mkdir("folder")
""",
        Verdict.EXITED,
        (collected({}), refused("pipe", "socket")),
        job=_collect("pipe", "socket", "folder"),
    ),
    Attack(
        "collected_race",
        """
import os
open("real", "w").write("mine")
os.symlink("@SECRET_FILE@", "link")
if os.fork() == 0:
    while True:
        for source in ("real", "link"):
            os.link(source, "tmp", follow_symlinks=False)
            os.rename("tmp", "f")
""",
        Verdict.EXITED,
        (ended_with(0),),
        job=_collect("f"),
    ),
    Attack(
        "collected_without_permission",
        """
import os
open("f", "w").write("x"); os.chmod("f", 0)
os.mkdir("d"); open("d/g", "w").write("y"); os.chmod("d", 0)
os.chmod(".", 0)
""",
        Verdict.EXITED,
        (small_answer(),),
        job=_collect("f", "d/*", "*"),
    ),
    Attack(
        "collected_sparse_and_large",
        """
import os
with open("sparse", "wb") as file: file.truncate(2 << 20)
for n in range(3): open(f"large{n}", "wb").write(bytes(1 << 20))
""",
        Verdict.EXITED,
        (ended_with(0),),
        limits=_DISK,
        job=_collect("*"),
    ),
    Attack(
        "collected_by_the_thousand",
        "for n in range(3000): open(f'f{n}', 'w').close()",
        Verdict.EXITED,
        (ended_with(0),),
        job=_collect("f*"),
    ),
    Attack(
        "collected_strange_names",
        r"""
for name in (b"\xff\xfe", b"a\nb", b"\x1b[2J", b"\xed\xa0\x80"):
    open(name, "wb").close()
""",
        Verdict.EXITED,
        (ended_with(0),),
        job=_collect("*"),
    ),
    Attack(
        "collected_deep",
        """
import os
for n in range(300):
    os.mkdir("d"); os.chdir("d")
open("f", "w").close()
""",
        Verdict.EXITED,
        (collected({}),),
        job=_collect("**/f", "*/*/*/f"),
    ),
    Attack(
        "collected_near_the_memory_limit",  # returning files must not cost the program what it did not use
        """
for n in range(25): open(str(n), "wb").write(bytes(1 << 20))
""",
        Verdict.EXITED,
        (ended_with(0),),
        limits=limits(disk_bytes=32 * MIB, memory_bytes=48 * MIB),
        job=_collect("*"),
    ),
    Attack(
        "collected_more_than_a_message_holds",
        """
for n in range(45): open(str(n), "wb").write(bytes(1 << 20))
""",
        Verdict.EXITED,
        (ended_with(0),),
        limits=limits(disk_bytes=64 * MIB, memory_bytes=256 * MIB),
        job=_collect("*"),
    ),
    Attack(
        "stars_bomb",
        """
import os
for _ in range(30):
    os.mkdir("a"); os.chdir("a")
open("a", "w").close()
""",
        Verdict.EXITED,
        (collected({}),),
        job=_collect("**/a/" * 15 + "b", "**/" * 30 + "b"),
    ),
    Attack(
        "glob_bomb",
        """
import os
for a in range(6):
    os.makedirs("/".join("a" * 30 + str(a)), exist_ok=True)
open("a" * 200, "w").close()
""",
        Verdict.EXITED,
        (ended_with(0),),
        job=_collect(
            "*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*ab", "**/**/**/**/**/**/**/b", "[" * 100, "[!a-" + "a" * 100
        ),
    ),
)
