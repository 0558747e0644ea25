"""F. Environment: a program inherits nothing of the server, and nothing of the run before it."""

from __future__ import annotations

from sandbox_server.jobs import Verdict
from tests.attacks.attack import KIT, Attack, ended_with, found, wrote

ATTACKS = (
    Attack(
        "variables_of_the_server",
        """
import os
known = {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONHASHSEED", "USER", "LOGNAME", "TMPDIR", "SHELL", "TERM", "PWD",
         "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8", "PYTHONIOENCODING", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
         "MKL_NUM_THREADS"}
print(f"unknown={sorted(set(os.environ) - known)}")
print(f"values={[v for v in os.environ.values() if '@HOME@' in v or '@CWD@' in v]}")
""",
        Verdict.EXITED,
        (found(unknown="[]", values="[]"),),
    ),
    Attack(
        "variables_in_proc",
        """
seen = b""
import os
for pid in (name for name in os.listdir("/proc") if name.isdigit() or name in ("self", "thread-self")):
    for name in ("environ", "cmdline"):
        try:
            seen += open(f"/proc/{pid}/{name}", "rb").read()
        except OSError:
            pass
print(seen)
print(f"server={b'API_KEY' in seen or b'@CWD@' in seen or b'serve' in seen}")
""",
        Verdict.EXITED,
        (found(server="False"),),
    ),
    Attack(
        "variables_of_the_caller",
        "import os\nprint(os.environ['A'], os.environ.get('HOME'))",
        Verdict.EXITED,
        (wrote(b"b\n c\n"),),
        job={"env": (("A", "b\n"), ("HOME", "c"))},
    ),
    Attack(
        "variables_kept_for_the_next",
        "import os\nprint(f\"seen={os.environ.get('LEFT')}\")",
        Verdict.EXITED,
        (found(seen="None"),),
        first="import os\nos.environ['LEFT'] = 'x'\nos.putenv('LEFT', 'x')",
    ),
    Attack(
        "descriptors_inherited",
        # The report's pipe is the one descriptor more, past the program's own limit; it can only be written to.
        """
import fcntl, os, stat
there = []
for fd in range(1 << 16):
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        continue
    there.append(fd)
    if fd > 2:
        print(f"pipe={stat.S_ISFIFO(mode)}")
        print(f"access={fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY}")
print(f"open={there}")
print(f"kinds={[os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in range(3)]}")
""",
        Verdict.EXITED,
        (found(open="[0, 1, 2, 65]", pipe="True", access="True", kinds="['/dev/null', 'pipe', 'pipe']"),),
    ),
    Attack(
        "descriptors_by_number",
        KIT
        + """
import stat
seen = b""
for fd in range(3, 4096):
    for action in (lambda: os.read(fd, 4096), lambda: os.pread(fd, 4096, 0), lambda: bytes(os.listdir(fd)),
                   lambda: open(f"/proc/self/fd/{fd}", "rb").read(1)):
        try:
            seen += action()
        except OSError:
            pass
print(f"seen={seen}")
""",
        Verdict.EXITED,
        (found(seen="b''"),),
    ),
    Attack(
        "descriptors_after_exec",
        r"""
import os, sys
program = "import os\nfor n in range(1 << 16):\n try: os.fstat(n); print(n, end=' ')\n except OSError: pass\nprint(end='open=yes')"
os.execv(sys.executable, [sys.executable, "-c", program])
""",
        Verdict.EXITED,
        (wrote(b"0 1 2 open=yes"),),
    ),
    Attack(
        "input_of_the_server",
        "import os, sys\nprint(f'read={os.read(0, 100)}')\nos.lseek(0, 0, 0)",
        (Verdict.ERROR, Verdict.EXITED),  # seeking works on a file and not on a pipe; either is the run's own
        (found(read="b''"),),
    ),
    Attack(
        "terminal",
        KIT
        + """
import fcntl, termios
attempt("tty", lambda: os.open("/dev/tty", os.O_RDWR))
for fd in range(3):
    attempt(f"push{fd}", lambda: fcntl.ioctl(fd, termios.TIOCSTI, b"x"))
    attempt(f"take{fd}", lambda: fcntl.ioctl(fd, termios.TIOCSCTTY, 1))
print(f"terminal={open('/proc/self/stat').read().rpartition(')')[2].split()[4]}")
""",
        Verdict.EXITED,
        (found(tty="ENOENT", push0="EPERM", push1="EPERM", push2="EPERM", take1="ENOTTY", terminal="0"),),
    ),
    Attack(
        "powers",
        """
wanted = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Groups"}
for line in open("/proc/self/status"):
    name, _, value = line.partition(":")
    if name in wanted: print(f"{name}={value.strip()}")
import os
print(f"root={0 in (os.getuid(), os.geteuid(), os.getgid(), os.getegid())}")
""",
        Verdict.EXITED,
        (
            found(
                CapInh="0" * 16,
                CapPrm="0" * 16,
                CapEff="0" * 16,
                CapBnd="0" * 16,
                CapAmb="0" * 16,
                NoNewPrivs="1",
                Seccomp="2",
                root="False",
            ),
        ),
    ),
    Attack(
        "signals_inherited",
        """
import re
for line in open("/proc/self/status"):
    if line.startswith(("SigBlk", "SigPnd")): print(line.strip().replace(":\\t", "="))
ignored = int(re.search("SigIgn:\\t(.*)", open("/proc/self/status").read())[1], 16)
print(f"ignored={ignored & ~(1 << 12 | 1 << 24)}")
""",
        Verdict.EXITED,
        (found(SigBlk="0" * 16, SigPnd="0" * 16, ignored="0"),),
    ),
    Attack(
        "working_folder",
        """
import os
print(f"cwd={os.getcwd()}")
print(f"umask={os.umask(0)}")
print(f"files={os.listdir('.')}")
print(f"home={os.path.expanduser('~').startswith(('/work', '/tmp', '/'))}")
""",
        Verdict.EXITED,
        (found(cwd=("/work", "/box/work"), umask="18", files="[]"),),
    ),
    Attack(
        "keys",
        KIT
        + """
attempt("add", lambda: call(248, 217, b"user", b"@NAME@", b"x", 1, -4))
attempt("ask", lambda: call(249, 218, b"user", b"@NAME@", None, 0))
attempt("session", lambda: call(250, 219, 0, -3, 1))
attempt("join", lambda: call(250, 219, 1, 0))
""",
        Verdict.EXITED,
        (found(add="EPERM", ask="EPERM", session="EPERM", join="EPERM"),),
    ),
    Attack(
        "modules_left_for_the_next",
        """
import builtins, json, sys
print(f"left={[hasattr(builtins, 'LEFT'), hasattr(json, 'LEFT'), 'left' in sys.modules, len('abc')]}")
""",
        Verdict.EXITED,
        (found(left="[False, False, False, 3]"),),
        first="""
import builtins, json, sys, types
builtins.LEFT = json.LEFT = 1
sys.modules["left"] = types.ModuleType("left")
builtins.len = lambda _: 0
json.dumps = None
""",
    ),
    Attack(
        "core_limit",
        """
import resource
print(f"core={resource.getrlimit(resource.RLIMIT_CORE)}")
""",
        Verdict.EXITED,
        (found(core="(0, 0)"),),
    ),
    Attack(
        "argument_forgery",  # the harness may read nothing from where a program can write
        """
import sys, os
sys.argv[:] = ["x", "--tests", "passed"]
sys.orig_argv[:] = []
os.environ.clear()
def f(): return 1
""",
        Verdict.FAILED,
        tests="assert f() == 2",
    ),
    Attack(
        "home",
        "import os, pathlib\nprint(os.path.isdir(pathlib.Path.home()))\nos._exit(5)",
        Verdict.EXITED,
        (ended_with(5),),
    ),
)
