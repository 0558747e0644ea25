"""C. Processes and signals: bounded in number, and none outlives its run or reaches whoever watches it."""

from __future__ import annotations

from sandbox_server.jobs import Verdict
from tests.attacks.attack import KIT, Attack, ended_with, found, killed_by, limits, never_wrote, wrote

_FEW = limits(processes=16)

ATTACKS = (
    Attack("fork_bomb", "import os\nwhile True: os.fork()", Verdict.PROCESS_LIMIT, limits=_FEW),
    Attack(
        "patient_fork_bomb",
        """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        (Verdict.PROCESS_LIMIT, Verdict.TIME_LIMIT),  # it goes on to burn time: the first limit met may be either
        limits=limits(processes=16, cpu_time_ms=500, wall_time_ms=3_000),
    ),
    Attack(
        "spawn_bomb",
        """
import subprocess, sys
program = "import subprocess, sys, time\\nfor _ in range(3): subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\\ntime.sleep(60)"
while True:
    subprocess.Popen([sys.executable, "-c", program])
""",
        (Verdict.PROCESS_LIMIT, Verdict.MEMORY_LIMIT, Verdict.TIME_LIMIT),  # sixteen interpreters cost memory too
        limits=_FEW,
    ),
    Attack(
        "vfork_bomb",
        KIT
        + """
import _posixsubprocess, subprocess
held = [subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]) for _ in range(200)]
""",
        (Verdict.PROCESS_LIMIT, Verdict.MEMORY_LIMIT, Verdict.TIME_LIMIT),
        limits=_FEW,
    ),
    Attack(
        "thread_bomb",
        """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
""",
        Verdict.PROCESS_LIMIT,
        limits=_FEW,
    ),
    Attack(
        "thread_bomb_that_waits",  # the interpreter waits for its threads: it meets one limit, then the other
        """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(60,)).start()
""",
        (Verdict.PROCESS_LIMIT, Verdict.TIME_LIMIT),
        limits=limits(processes=16, wall_time_ms=500),
    ),
    Attack(
        "limit_raised",
        """
import os, resource, time
for limit in (resource.RLIM_INFINITY, 10**6):
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
    except (OSError, ValueError):
        pass
for _ in range(100):
    if os.fork() == 0: time.sleep(60)
""",
        Verdict.PROCESS_LIMIT,
        limits=_FEW,
    ),
    Attack(
        "daemon",
        """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        time.sleep(0.5)
        print("late", flush=True)
        open("/tmp/@NAME@", "w").write("late")
        time.sleep(60)
    os._exit(0)
os.wait()
print("on time", flush=True)
""",
        Verdict.EXITED,
        (ended_with(0), wrote(b"on time\n")),
    ),
    Attack(
        "daemon_without_output",
        """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.closerange(0, 256)
    if os.fork() == 0:
        while True: os.urandom(64)
    os._exit(0)
""",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack(
        "comet",  # a new process every moment, so that no list of processes is ever true
        """
import os
if os.fork() == 0:
    while True:
        if os.fork() != 0:
            os._exit(0)
os._exit(0)
""",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack(
        "zombies",
        """
import os
for _ in range(12):
    if os.fork() == 0: os._exit(0)
print("left", flush=True)
""",
        Verdict.EXITED,
        (wrote(b"left\n"),),
        limits=_FEW,
    ),
    Attack(
        "orphans_are_reaped",  # more of them, one after another, than there may be at once
        """
import os, time
made = 0
while made < 100:
    try:
        if os.fork() == 0:
            if os.fork() == 0: os._exit(0)
            os._exit(0)
    except BlockingIOError:
        time.sleep(0.01)
        continue
    os.wait()
    made += 1
    time.sleep(0.001)
print(made)
""",
        Verdict.EXITED,
        (wrote(b"100\n"),),
        limits=limits(processes=32),
    ),
    Attack(
        "kill_everything",
        KIT
        + """
attempt("all", lambda: os.kill(-1, signal.SIGKILL))
print("alive=yes")
""",
        Verdict.EXITED,
        (found(alive="yes", all=("None", "EPERM", "ESRCH")),),
    ),
    Attack(
        "kill_init",
        KIT
        + """
import time
for number in signal.valid_signals() - {signal.SIGCHLD}:
    try: os.kill(1, number)
    except OSError as error: print(f"init={errno.errorcode[error.errno]}")
time.sleep(0.2)
print("alive=yes")
""",
        Verdict.EXITED,
        (ended_with(0), found(alive="yes")),
    ),
    Attack(
        "kill_parent",
        KIT
        + """
import time
for number in (15, 9, 6, 11, 2, 1, 3, 10, 12, 17, 20, 24):
    try: os.kill(os.getppid() or 1, number)
    except OSError as error: print(f"parent={errno.errorcode[error.errno]}")
time.sleep(0.2)
print("alive=yes")
""",
        Verdict.EXITED,
        (ended_with(0), found(alive="yes")),
    ),
    Attack(
        "kill_host_pids",
        KIT
        + """
for pid in (@SERVER_PID@, @TEST_PID@):
    attempt(f"signal", lambda: os.kill(pid, 0))
    attempt(f"kill", lambda: os.kill(pid, 9))
""",
        Verdict.EXITED,
        (found(signal="ESRCH", kill="ESRCH"),),
    ),
    Attack(
        "kill_own_group",
        "import os; os.killpg(0, 9)",
        Verdict.KILLED,
        (killed_by(9),),
    ),
    Attack(
        "queued_signals_to_init",
        KIT
        + """
info = (ctypes.c_int * 32)(10, 0, -1)
attempt("queue", lambda: call(129, 138, 1, 10, info))
attempt("thread", lambda: call(297, 240, 1, 1, 10, info))
attempt("tgkill", lambda: call(234, 131, 1, 1, 9))
print("alive=yes")
""",
        Verdict.EXITED,
        (found(alive="yes"),),
    ),
    Attack(
        "signal_through_a_descriptor",
        KIT
        + """
attempt("open", lambda: call(434, 434, 1, 0))
attempt("send", lambda: call(424, 424, 0, 9, 0, 0))
attempt("getfd", lambda: call(438, 438, 0, 0, 0))
""",
        Verdict.EXITED,
        (found(send="EPERM", getfd="EPERM"),),
    ),
    Attack(
        "signal_on_input",  # F_SETOWN lets a descriptor send signals in somebody's name
        KIT
        + """
import fcntl
for fd in (0, 1, 2):
    for owner in (1, os.getppid(), -1):
        for step in ((fcntl.F_SETOWN, owner), (fcntl.F_SETSIG, 9), (fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)):
            try: fcntl.fcntl(fd, *step)
            except OSError: pass
os.write(1, b"alive=yes\\n")
""",
        Verdict.EXITED,
        (ended_with(0), found(alive="yes")),
    ),
    Attack(
        "subreaper",
        KIT
        + """
check(libc.prctl(36, 1, 0, 0, 0))
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
    os._exit(0)
os.wait()
""",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack(
        "sibling",  # a child of whoever waits for the program: nobody else would wait for it
        KIT
        + """
def sibling():
    if call(56, 220, 0x8000 | 17, 0, 0, 0, 0) == 0: os._exit(0)
attempt("sibling", sibling)
""",
        Verdict.EXITED,
        (found(sibling="EPERM"),),
    ),
    Attack(
        "parent_death_signal_cleared",
        KIT + "check(libc.prctl(1, 0, 0, 0, 0))\nimport time\nif os.fork() == 0: time.sleep(60)",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack(
        "made_dumpable",
        KIT
        + """
attempt("dumpable", lambda: check(libc.prctl(4, 1, 0, 0, 0)))
attempt("ptracer", lambda: check(libc.prctl(0x59616D61, ctypes.c_long(-1), 0, 0, 0)))
""",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack(
        "priority",
        KIT
        + """
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))
attempt("fifo", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))
attempt("init", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19))
attempt("affinity", lambda: os.sched_setaffinity(1, {0}))
attempt("own", lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}))
""",
        Verdict.EXITED,
        (found(nice="EACCES", fifo="EPERM", own="None"),),
    ),
    Attack(
        "privilege",
        KIT
        + """
attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("setresuid", lambda: os.setresuid(0, 0, 0))
attempt("capset", lambda: check(libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6))))
attempt("ambient", lambda: check(libc.prctl(47, 2, 21, 0, 0)))
attempt("bounding", lambda: check(libc.prctl(24, 0, 0, 0, 0)))
attempt("securebits", lambda: check(libc.prctl(28, 0x2F, 0, 0, 0)))
attempt("new", lambda: check(libc.prctl(38, 0, 0, 0, 0)))
""",
        Verdict.EXITED,
        (
            found(
                setuid=("EPERM", "EINVAL"),  # EINVAL: there is no such user in there
                setgid=("EPERM", "EINVAL"),
                setgroups="EPERM",
                setresuid=("EPERM", "EINVAL"),
                capset="EPERM",
                ambient="EPERM",
                bounding="EPERM",
                securebits="EPERM",
                new="EINVAL",
            ),
        ),
    ),
    Attack(
        "setuid_programs",
        """
import os, stat
found = []
for folder, _, names in os.walk("/"):
    if folder.startswith("/proc"): continue
    for name in names:
        try:
            mode = os.lstat(os.path.join(folder, name)).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & 0o6000: found.append(name)
os.mkdir("d")
open("d/s", "w").close()
try:
    os.chmod("d/s", 0o4755)
except OSError:
    pass
print(f"found={found}")
""",
        Verdict.EXITED,
        (found(found="[]"),),
        limits=limits(wall_time_ms=60_000, cpu_time_ms=20_000),  # the runtime's files may be on a slow disk
    ),
    Attack(
        "exec_for_ever",
        """
import os, sys
os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import os, sys; os.execv(sys.executable, sys.orig_argv)"])
""",
        Verdict.TIME_LIMIT,
        limits=limits(cpu_time_ms=300, wall_time_ms=3_000),
    ),
    Attack(
        "misleading_name",  # as a parser of /proc/PID/stat would like it least
        KIT
        + """
check(libc.prctl(15, b"a) S 1 (\\n) R", 0, 0, 0))
if os.fork() == 0:
    check(libc.prctl(15, b") Z 0 0 0 0\\n", 0, 0, 0))
    while True: pass
import time; time.sleep(60)
""",
        Verdict.TIME_LIMIT,
        limits=limits(cpu_time_ms=300),
    ),
    Attack(
        "server_names",
        KIT
        + """
for name in (b"nsjail", b"zygote", b"init"):
    libc.prctl(15, name, 0, 0, 0)
    if os.fork() == 0:
        os.setsid()
        import time; time.sleep(60)
""",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack(
        "groups_and_sessions",
        KIT
        + """
attempt("join", lambda: os.setpgid(0, 1))
attempt("session", os.setsid)
attempt("leader", lambda: os.setpgid(os.getppid(), 0))
print("alive=yes")
""",
        Verdict.EXITED,
        (found(alive="yes", join=("EPERM", "ESRCH")),),
    ),
    Attack(
        "wait_for_others",
        KIT
        + """
attempt("any", lambda: os.waitpid(-1, os.WNOHANG | 0x40000000))
attempt("init", lambda: os.waitpid(1, os.WNOHANG))
""",
        Verdict.EXITED,
        (found(any="ECHILD", init="ECHILD"),),
    ),
    Attack(
        "child_ends_badly_parent_well",
        "import os\nif os.fork() == 0: os.abort()\nos.wait()\nprint('well')",
        Verdict.EXITED,
        (ended_with(0), wrote(b"well\n")),
    ),
    Attack(
        "parent_ends_children_write",
        """
import os, time
for _ in range(8):
    if os.fork() == 0:
        time.sleep(0.3)
        print("late", flush=True)
        os._exit(0)
""",
        Verdict.EXITED,
        (never_wrote(b"late"),),
    ),
)
