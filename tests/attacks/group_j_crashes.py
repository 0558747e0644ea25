"""J. Crashes: an interpreter that falls over is the program's own doing, told by what fell."""

from __future__ import annotations

from sandbox_server.jobs import Outcome, Verdict
from tests.attacks.attack import KIT, MIB, Attack, ended_with, found, killed_by, limits, raised, small_answer


def _no_core(outcome: Outcome) -> None:
    assert not outcome.files, [file.path for file in outcome.files]


def _signal(name: str, code: str, number: int) -> Attack:
    return Attack(name, KIT + code, Verdict.KILLED, (killed_by(number),))


ATTACKS = (
    _signal("null_pointer", "ctypes.string_at(0)", 11),
    _signal("wild_write", "ctypes.memset(0x10, 1, 1)", 11),
    _signal("abort", "os.abort()", 6),
    _signal("fatal_error", "ctypes.pythonapi.Py_FatalError(b'made up')", 6),
    _signal("illegal_instruction", "os.kill(os.getpid(), signal.SIGILL)", 4),
    _signal("floating_point", "os.kill(os.getpid(), signal.SIGFPE)", 8),
    _signal("forbidden_call_by_signal", "os.kill(os.getpid(), signal.SIGSYS)", 31),
    _signal("killed_by_itself", "os.kill(os.getpid(), signal.SIGKILL)", 9),
    _signal("terminated_by_itself", "os.kill(os.getpid(), signal.SIGTERM)", 15),
    _signal("alarm", "signal.alarm(1); signal.pause()", 14),
    _signal(
        "broken_pipe",
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL); r, w = os.pipe(); os.close(r); os.write(w, b'x')",
        13,
    ),
    _signal("real_time_signal", "os.kill(os.getpid(), 40)", 40),
    _signal("time_limit_pretended", "os.kill(os.getpid(), signal.SIGXCPU)", 24),
    Attack(
        "disk_limit_pretended",  # the kernel's own signal for it cannot be told from a program's
        KIT + "signal.signal(signal.SIGXFSZ, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGXFSZ)",
        (Verdict.KILLED, Verdict.DISK_LIMIT),
    ),
    Attack(
        "truncated_mapping",
        """
import mmap
file = open("f", "w+b")
file.truncate(8192)
m = mmap.mmap(file.fileno(), 8192)
file.truncate(0)
m[5000] = 1
""",
        Verdict.KILLED,
        (killed_by(7),),
    ),
    Attack(
        "references_dropped",
        "import ctypes\nwhile True: ctypes.pythonapi.Py_DecRef(ctypes.py_object(None))",
        (Verdict.KILLED, Verdict.EXITED, Verdict.TIME_LIMIT),  # from 3.12 on None cannot be lost
    ),
    Attack("recursion", "def f(): f()\nf()", Verdict.ERROR, (raised("RecursionError"), small_answer())),
    Attack(
        "recursion_without_limit",
        "import sys\nsys.setrecursionlimit(2**31 - 1)\ndef f(): f()\nf()",
        (Verdict.MEMORY_LIMIT, Verdict.KILLED, Verdict.ERROR),  # frames are on the heap since 3.11, on the stack before
        limits=limits(memory_bytes=64 * MIB, cpu_time_ms=5_000),
    ),
    Attack(
        "recursion_in_c",
        """
import sys
sys.setrecursionlimit(2**31 - 1)
class A:
    def __getattribute__(self, name): return getattr(self, name)
A().x
""",
        (Verdict.KILLED, Verdict.MEMORY_LIMIT, Verdict.ERROR),  # newer interpreters watch their C stack
        limits=limits(memory_bytes=256 * MIB, cpu_time_ms=5_000),
    ),
    Attack(
        "nested_source",
        "a = " + "[" * 150 + "]" * 150,
        (Verdict.EXITED, Verdict.SYNTAX_ERROR),  # how deep it may be differs from version to version
    ),
    Attack("deep_source", "a = " + "(" * 5_000 + ")" * 5_000, Verdict.SYNTAX_ERROR),
    Attack(
        "deep_operators", "a = " + "-" * 100_000 + "1", (Verdict.SYNTAX_ERROR, Verdict.MEMORY_LIMIT, Verdict.KILLED)
    ),
    Attack(
        "deep_attributes",
        "a" + ".b" * 100_000,
        (Verdict.SYNTAX_ERROR, Verdict.ERROR, Verdict.KILLED),  # CPython's compiler recurses here, and has fallen over
    ),
    Attack("null_in_source", "x = 1\0\nassert False", Verdict.SYNTAX_ERROR),
    Attack(
        "source_in_utf7",
        "# -*- coding: utf-7 -*-\nx = '+AGE-'\nassert x == '+AGE-', x",
        Verdict.EXITED,
        (ended_with(0),),
    ),
    Attack("source_with_mark", "\ufeffprint('well')", (Verdict.EXITED, Verdict.SYNTAX_ERROR)),
    Attack(
        "deep_tests",
        "def f(): return 1",
        (Verdict.SYNTAX_ERROR, Verdict.KILLED),
        tests="assert f() == " + "(" * 5_000 + "1" + ")" * 5_000,
    ),
    Attack(
        "core_dump",
        KIT
        + """
import resource
try:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
except (OSError, ValueError):
    pass
check(libc.prctl(4, 1, 0, 0, 0))
os.abort()
""",
        Verdict.KILLED,
        (killed_by(6), _no_core),
        job={"collect": ("*",)},
    ),
    Attack(
        "fault_handler",
        KIT + "import faulthandler\nfaulthandler.enable()\nctypes.string_at(0)",
        Verdict.KILLED,
        (killed_by(11),),
    ),
    Attack("exit_255", "import os; os._exit(255)", Verdict.EXITED, (ended_with(255),)),
    Attack("exit_137", "import os; os._exit(137)", Verdict.EXITED, (ended_with(137),)),  # what a shell makes of SIGKILL
    Attack("exit_109", "import os; os._exit(109)", Verdict.EXITED, (ended_with(109),)),
    Attack(
        "exit_125", "import os; os._exit(125)", Verdict.EXITED, (ended_with(125),)
    ),  # the guest's own status for its own trouble
    Attack("exit_101", "import sys; sys.exit(101)", Verdict.EXITED, (ended_with(101),)),
    Attack("exit_over", "import sys; sys.exit(256 + 3)", Verdict.EXITED, (ended_with(3),)),
    Attack("exit_negative", "import sys; sys.exit(-1)", Verdict.EXITED, (ended_with(255),)),
    Attack("exit_huge", "import sys; sys.exit(10 ** 100)", Verdict.EXITED, (ended_with(255),)),
    Attack("exit_with_words", "import sys; sys.exit('words')", Verdict.EXITED, (ended_with(1),)),
    Attack(
        "exit_with_an_object",
        """
import sys
class Code:
    def __str__(self): raise KeyboardInterrupt
sys.exit(Code())
""",
        Verdict.EXITED,
        (ended_with(1),),
    ),
    Attack("interrupt", "raise KeyboardInterrupt", Verdict.ERROR, (raised("KeyboardInterrupt"),)),
    Attack("odd_exception", "class Odd(BaseException): pass\nraise Odd", Verdict.ERROR, (raised("Odd"),)),
    Attack("out_of_memory_pretended", "raise MemoryError('made up')", (Verdict.ERROR, Verdict.MEMORY_LIMIT)),
    Attack(
        "interpreter_taken_apart",
        """
import sys
for name in list(sys.modules):
    if name != "sys": del sys.modules[name]
sys.stdout.flush()
del sys.stdout, sys.stderr, sys.path, sys.meta_path, sys.modules
""",
        (Verdict.EXITED, Verdict.ERROR),  # whichever of its parts is missed first
        (found(),),
    ),
)
