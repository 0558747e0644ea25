"""A. CPU and wall time: nothing that a program does buys it time."""

from __future__ import annotations

from sandbox_server.jobs import Verdict
from tests.attacks.attack import KIT, MIB, Attack, ended_with, found, limits, used_cpu_ms, wrote

_CPU = limits(cpu_time_ms=300)
_WALL = limits(wall_time_ms=500)

ATTACKS = (
    Attack("busy_loop", "while True: pass", Verdict.TIME_LIMIT, (used_cpu_ms(250),), limits=_CPU),
    Attack("sleep", "import time; time.sleep(60)", Verdict.TIME_LIMIT, limits=_WALL),
    Attack(
        "child_burns_while_parent_sleeps",
        """
import os, time
if os.fork() == 0:
    while True: pass
time.sleep(60)
""",
        Verdict.TIME_LIMIT,
        (used_cpu_ms(250),),
        limits=_CPU,
    ),
    Attack(
        "child_sleeps_past_parent",
        """
import os, time
if os.fork() == 0:
    time.sleep(60)
""",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack(
        "threads_burn",
        """
import hashlib, threading
for _ in range(8):
    threading.Thread(target=lambda: hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)).start()
""",
        Verdict.TIME_LIMIT,
        (used_cpu_ms(250),),
        limits=_CPU,
    ),
    Attack(
        "many_short_children",  # none of them lives long enough for a limit of its own
        """
import os
while True:
    if os.fork() == 0:
        sum(range(200_000))
        os._exit(0)
    os.wait()
""",
        Verdict.TIME_LIMIT,
        limits=_CPU,
    ),
    Attack(
        "many_short_orphans",  # nobody but the namespace's init waits for those that burn
        """
import os
while True:
    if os.fork() == 0:
        if os.fork() == 0:
            sum(range(200_000))
        os._exit(0)
    os.wait()
""",
        (Verdict.TIME_LIMIT, Verdict.PROCESS_LIMIT),  # whichever the scheduler lets it reach first
        limits=_CPU,
    ),
    Attack(
        "sigxcpu_ignored",
        """
import signal
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True: pass
""",
        Verdict.TIME_LIMIT,
        limits=_CPU,
    ),
    Attack(
        "every_signal_blocked_and_handled",
        """
import signal
for number in signal.valid_signals():
    try:
        signal.signal(number, lambda *_: None)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
while True: pass
""",
        Verdict.TIME_LIMIT,
        limits=_CPU,
    ),
    Attack(
        "cpu_limit_raised",
        """
import resource
for limit in (resource.RLIM_INFINITY, 10**6):
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    except (OSError, ValueError):
        pass
while True: pass
""",
        Verdict.TIME_LIMIT,
        limits=_CPU,
    ),
    Attack(
        "timers_reset",
        """
import signal
for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
    signal.setitimer(timer, 0)
signal.alarm(0)
while True: pass
""",
        Verdict.TIME_LIMIT,
        limits=_CPU,
    ),
    Attack("regular_expression", "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')", Verdict.TIME_LIMIT, limits=_CPU),
    Attack("power", "10 ** 10 ** 8", Verdict.TIME_LIMIT, limits=limits(cpu_time_ms=300, memory_bytes=512 * MIB)),
    Attack("sum_in_c", "sum(range(10 ** 13))", Verdict.TIME_LIMIT, limits=_CPU),
    Attack(
        "digits",
        "import sys; sys.set_int_max_str_digits(0); int('9' * 5_000_000)",
        Verdict.TIME_LIMIT,
        limits=_CPU,
    ),
    Attack(
        "compile_for_long",
        "x = 1\n" * 400_000,
        Verdict.TIME_LIMIT,
        limits=limits(cpu_time_ms=200, memory_bytes=1 << 30),
    ),
    Attack("stop_itself", "import os; os.kill(os.getpid(), 19)", Verdict.TIME_LIMIT, limits=_WALL),
    Attack(
        "stop_everything",
        """
import os, signal
if os.fork() == 0:
    os.kill(-1, signal.SIGSTOP)
while True:
    signal.pause()
""",
        Verdict.TIME_LIMIT,
        limits=_WALL,
    ),
    Attack(
        "stop_init",
        KIT
        + """
import time
for number in (signal.SIGSTOP, signal.SIGTSTP):
    attempt("stop", lambda: os.kill(1, number))
time.sleep(60)
""",
        Verdict.TIME_LIMIT,
        limits=_WALL,
    ),
    Attack(
        "clocks_patched",
        """
import time
time.time = time.monotonic = time.perf_counter = time.process_time = time.thread_time = lambda: 0.0
time.sleep(60)
""",
        Verdict.TIME_LIMIT,
        limits=_WALL,
    ),
    Attack(
        "clocks_set",
        KIT
        + """
import time
attempt("settime", lambda: time.clock_settime(time.CLOCK_REALTIME, 0))
attempt("settimeofday", lambda: check(libc.settimeofday(ctypes.c_char_p(bytes(16)), None)))
attempt("adjtimex", lambda: check(libc.adjtimex(ctypes.create_string_buffer(bytes([1]), 256))))
""",
        Verdict.EXITED,
        (ended_with(0), found(settime="EPERM", settimeofday="EPERM", adjtimex="EPERM")),
    ),
    Attack(
        "asleep_in_c",  # Python's own signal handling never runs
        KIT
        + """
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
libc.sleep(60)
""",
        Verdict.TIME_LIMIT,
        limits=_WALL,
    ),
    Attack(
        "deadlock", "import threading; l = threading.Lock(); l.acquire(); l.acquire()", Verdict.TIME_LIMIT, limits=_WALL
    ),
    Attack("silent_pipe", "import os; os.mkfifo('f'); open('f')", Verdict.TIME_LIMIT, limits=_WALL),
    Attack(
        "endless_exit_handler", "import atexit, time; atexit.register(time.sleep, 60)", Verdict.TIME_LIMIT, limits=_WALL
    ),
    Attack(
        "endless_thread",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()",
        Verdict.TIME_LIMIT,
        limits=_WALL,
    ),
    Attack(
        "endless_finaliser",
        """
import time
class Last:
    def __del__(self, sleep=time.sleep):
        sleep(60)
last = Last()
""",
        (Verdict.TIME_LIMIT, Verdict.EXITED),  # an interpreter does not promise to call finalisers at its end
        limits=_WALL,
    ),
    Attack(
        "sleep_in_tests",
        "import time\ndef f(): time.sleep(60)",
        Verdict.TIME_LIMIT,
        tests="assert f() is None",
        limits=_WALL,
    ),
    Attack(
        "burn_in_comparison",
        """
class Slow:
    def __eq__(self, other):
        while True: pass
def f(): return Slow()
""",
        Verdict.TIME_LIMIT,
        tests="assert f() == 1",
        limits=_CPU,
    ),
    Attack(
        "burn_in_repr",  # the explanation of a failed assertion is the program's time too
        """
class Slow:
    def __repr__(self):
        while True: pass
def f(): return Slow()
""",
        (Verdict.TIME_LIMIT, Verdict.FAILED),  # FAILED is as true: the assertion did not hold
        tests="assert f() == 1",
        limits=_CPU,
    ),
    Attack(
        "output_before_the_limit",
        "print('so far', flush=True)\nwhile True: pass",
        Verdict.TIME_LIMIT,
        (wrote(b"so far\n"),),
        limits=_CPU,
    ),
)
