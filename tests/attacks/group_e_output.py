"""E. Output: every byte is the program's own, bounded, and cannot hold up or confuse whoever reads it."""

from __future__ import annotations

from sandbox_server.jobs import Outcome, Verdict
from tests.attacks.attack import KIT, Attack, ended_with, found, limits, raised, small_answer, wrote

_OUTPUT = limits(output_bytes=4096)


def _cut(outcome: Outcome) -> None:
    assert outcome.stdout_truncated or outcome.stderr_truncated
    assert len(outcome.stdout) <= 4096
    assert len(outcome.stderr) <= 4096


def _stderr_is(text: bytes) -> object:
    def check(outcome: Outcome) -> None:
        assert outcome.stderr == text, outcome.stderr[:300]

    return check


ATTACKS = (
    Attack(
        "packets",  # a pipe can be made to give one write to each read
        """
import fcntl, os
fcntl.fcntl(1, fcntl.F_SETFL, os.O_DIRECT)
for number in range(10): os.write(1, b"%d" % number)
""",
        Verdict.EXITED,
        (wrote(b"0123456789"),),
    ),
    Attack("flood", "while True: print('x' * 100)", Verdict.OUTPUT_LIMIT, (_cut,), limits=_OUTPUT),
    Attack(
        "flood_of_errors",
        "import sys\nwhile True: sys.stderr.write('\\r 50%|#####     |')",
        Verdict.OUTPUT_LIMIT,
        (_cut,),
        limits=_OUTPUT,
    ),
    Attack("one_line", "import os; os.write(1, b'x' * (100 << 20))", Verdict.OUTPUT_LIMIT, (_cut,), limits=_OUTPUT),
    Attack(
        "flood_of_both",
        """
import os, threading
def flood(fd):
    while True: os.write(fd, bytes(4096))
threading.Thread(target=flood, args=(1,)).start()
flood(2)
""",
        Verdict.OUTPUT_LIMIT,
        (_cut,),
        limits=_OUTPUT,
    ),
    Attack(
        "flood_by_orphan",
        """
import os, time
if os.fork() == 0:
    os.setsid()
    while True: os.write(1, bytes(4096))
time.sleep(60)
""",
        Verdict.OUTPUT_LIMIT,
        (_cut,),
        limits=_OUTPUT,
    ),
    Attack(
        "flood_without_copying",
        """
import os
zero = os.open("/dev/zero", os.O_RDONLY)
r, w = os.pipe()
while True:
    try:
        os.sendfile(1, zero, None, 65536)
    except OSError:
        os.write(w, bytes(4096))
        os.splice(r, 1, 4096)
""",
        Verdict.OUTPUT_LIMIT,
        (_cut,),
        limits=_OUTPUT,
    ),
    Attack(
        "flood_in_tests",
        "def f():\n    while True: print('x' * 1000)",
        Verdict.OUTPUT_LIMIT,
        (_cut,),
        tests="assert f() == 1",
        limits=_OUTPUT,
    ),
    Attack(
        "to_the_byte",
        "import os; os.write(1, b'x' * 4096); os.write(2, b'y' * 4096)",
        Verdict.EXITED,
        (wrote(b"x" * 4096), _stderr_is(b"y" * 4096)),
        limits=_OUTPUT,
    ),
    Attack(
        "one_byte_more",
        "import os, time; os.write(1, b'x' * 4097); time.sleep(0.2)",
        Verdict.OUTPUT_LIMIT,
        (_cut, wrote(b"x" * 4096)),
        limits=_OUTPUT,
    ),
    Attack(
        "every_byte",
        "import os; os.write(1, bytes(range(256)) * 2 + b'\\xff\\xfe\\xed\\xa0\\x80\\0')",
        Verdict.EXITED,
        (wrote(bytes(range(256)) * 2 + b"\xff\xfe\xed\xa0\x80\0"),),
    ),
    Attack(
        "terminal_sequences",
        r"""print("\x1b[2J\x1b]0;title\x07\r\x1b]52;c;aWQ=\x07\u202e", end="")""",
        Verdict.EXITED,
        (wrote("\x1b[2J\x1b]0;title\x07\r\x1b]52;c;aWQ=\x07\u202e".encode()),),
    ),
    Attack(
        "lone_surrogates",
        r"print('\ud800')",
        Verdict.ERROR,
        (raised("UnicodeEncodeError"), wrote(b"")),
    ),
    Attack("surrogates_in_error", r"raise ValueError('\ud800\udfff\0')", Verdict.ERROR, (raised("ValueError"),)),
    Attack(
        "closed_at_once",
        "import os\nfor fd in (0, 1, 2): os.close(fd)",
        (Verdict.EXITED, Verdict.ERROR),  # the interpreter itself complains about its stdout at the end
    ),
    Attack(
        "closed_and_reopened",
        """
import os
os.write(1, b"one\\n")
for fd in (0, 1, 2): os.close(fd)
for _ in range(3): os.open("/dev/null", os.O_RDWR)
os.write(1, b"two\\n")
os._exit(0)
""",
        Verdict.EXITED,
        (ended_with(0), wrote(b"one\n")),
    ),
    Attack(
        "everything_closed",
        "import os\nos.closerange(0, 65536)\nos._exit(3)",
        Verdict.EXITED,
        (ended_with(3),),
    ),
    Attack(
        "everything_closed_with_tests",
        "import os\nos.closerange(0, 65536)\ndef f(): return 1",
        (Verdict.PASSED, Verdict.INCOMPLETE, Verdict.ERROR),  # right code, and perhaps no way left to say so
        tests="assert f() == 1",
    ),
    Attack(
        "everything_closed_with_failing_tests",
        "import os\nos.closerange(0, 65536)\ndef f(): return 1",
        (Verdict.FAILED, Verdict.INCOMPLETE, Verdict.ERROR),
        tests="assert f() == 2",
    ),
    Attack(
        "pipe_held_open",
        """
import os, time
print("done", flush=True)
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
""",
        Verdict.EXITED,
        (ended_with(0), wrote(b"done\n")),
    ),
    Attack(
        "duplicated_buffers",  # what a fork duplicates comes twice, as it does outside
        """
import os, sys
sys.stdout.write("once ")
if os.fork() == 0:
    sys.stdout.flush()
    os._exit(0)
os.wait()
""",
        Verdict.EXITED,
        (wrote(b"once once "),),
    ),
    Attack(
        "not_blocking",
        """
import os
os.set_blocking(1, False)
written = 0
while written < 60_000:
    try:
        written += os.write(1, b"x" * 1000)
    except BlockingIOError:
        pass
""",
        Verdict.EXITED,
        (wrote(b"x" * 60_000),),
    ),
    Attack(
        "read_from_output",
        KIT
        + """
for fd in (1, 2):
    attempt(f"read{fd}", lambda: os.read(fd, 1))
    attempt(f"open{fd}", lambda: os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)))
    attempt(f"seek{fd}", lambda: os.lseek(fd, 0, 0))
print("alive=yes")
""",
        Verdict.EXITED,
        (found(read1="EBADF", read2="EBADF", seek1="ESPIPE", seek2="ESPIPE", alive="yes"),),
    ),
    Attack(
        "pipe_resized",
        KIT
        + """
import fcntl
attempt("larger", lambda: fcntl.fcntl(1, 1031, 1 << 20))
attempt("smaller", lambda: fcntl.fcntl(1, 1031, 4096))
""",
        Verdict.EXITED,
        (found(larger="EPERM", smaller="EPERM"),),
    ),
    Attack(
        "nobody_reads_on",  # a program that was cut off must not wait for its reader
        "import os, signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\nwhile True: os.write(1, bytes(1 << 16))",
        Verdict.OUTPUT_LIMIT,
        (_cut,),
        limits=_OUTPUT,
    ),
    Attack(
        "input_ends",
        "import sys\nprint(repr(sys.stdin.read()), repr(input.__name__))",
        Verdict.EXITED,
        (wrote(b"'' 'input'\n"),),
    ),
    Attack(
        "input_never_read",
        "print('well')",
        Verdict.EXITED,
        (wrote(b"well\n"),),
        job={"stdin": b"x" * (1 << 20)},
    ),
    Attack(
        "input_closed",
        "import os; os.close(0); print('well')",
        Verdict.EXITED,
        (wrote(b"well\n"),),
        job={"stdin": b"x" * (1 << 20)},
    ),
    Attack(
        "huge_message",
        "raise ValueError('x' * (30 << 20))",
        Verdict.ERROR,  # the interpreter would print it whole to stderr
        (small_answer(),),
        limits=limits(memory_bytes=512 << 20, output_bytes=1 << 16),
    ),
    Attack(
        "huge_class_name",
        "raise type('E' * (1 << 20), (Exception,), {})('x')",
        Verdict.ERROR,
        (small_answer(),),
    ),
    Attack(
        "class_without_a_name",
        """
class Meta(type):
    @property
    def __name__(cls): raise SystemExit(0)
class Odd(Exception, metaclass=Meta): pass
raise Odd("x")
""",
        Verdict.ERROR,
        (raised("Odd"),),
    ),
    Attack(
        "exit_without_a_code",
        """
class Odd(SystemExit):
    @property
    def code(self): raise KeyError
raise Odd
""",
        Verdict.EXITED,
        (ended_with(1),),
    ),
    Attack(
        "exit_with_an_odd_number",
        """
class Odd(int):
    def __and__(self, _): return "x"
    def __int__(self): return None
raise SystemExit(Odd(7))
""",
        Verdict.EXITED,
        (ended_with(7),),
    ),
    Attack(
        "syntax_error_made_up",
        """
__package__ = "selfalign_guest"
error = SyntaxError("x")
error.lineno = error
raise error
""",
        Verdict.ERROR,
        (raised("SyntaxError"),),
    ),
    Attack(
        "message_raises",
        """
class Bad(Exception):
    def __str__(self): raise RuntimeError("again")
    __repr__ = __str__
raise Bad()
""",
        Verdict.ERROR,
        (raised("Bad"),),
    ),
    Attack(
        "message_exits",
        """
import os
class Bad(Exception):
    def __str__(self): raise SystemExit(0)
raise Bad()
""",
        Verdict.ERROR,
        (raised("Bad"),),
    ),
    Attack(
        "long_traceback",
        """
import sys
sys.setrecursionlimit(100_000)
def f(n): return f(n - 1) if n else 1 / 0
f(20_000)
""",
        Verdict.ERROR,
        (raised("ZeroDivisionError"), small_answer()),
        limits=limits(output_bytes=1 << 17),
    ),
    Attack(
        "chained_exceptions",
        """
def f(n):
    try:
        if n: f(n - 1)
        raise ValueError("x" * 100)
    except ValueError as error:
        raise KeyError("y") from error
f(300)
""",
        Verdict.ERROR,
        (raised("KeyError"), small_answer()),
    ),
    Attack(
        "exception_circle",
        """
a, b = ValueError("a"), ValueError("b")
a.__cause__, b.__cause__ = b, a
raise a
""",
        Verdict.ERROR,
        (raised("ValueError"), small_answer()),
    ),
    Attack(
        "group_bomb",
        """
group = ValueError("x")
for _ in range(40): group = ExceptionGroup("g", [group, group])
raise group
""",
        (Verdict.ERROR, Verdict.OUTPUT_LIMIT, Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT),  # CPython prints 2**40 lines
        (small_answer(),),
    ),
    Attack(
        "huge_sides",
        "def f(): return 'x' * (4 << 20)",
        (Verdict.FAILED, Verdict.OUTPUT_LIMIT),  # its message goes to stderr whole
        (small_answer(),),
        tests="assert f() == 'y' * (4 << 20), f()",
    ),
    Attack(
        "repr_raises",
        """
class Bad:
    def __repr__(self): raise SystemExit(0)
def f(): return Bad()
""",
        Verdict.FAILED,
        tests="assert f() == 1",
    ),
    Attack(
        "repr_is_no_text",
        """
class Text(str):
    def __len__(self): return 3
    def __getitem__(self, _): return self
    def encode(self, *_): return b"x" * (1 << 24)
class Bad:
    def __repr__(self): return Text("y" * 100)
def f(): return Bad()
""",
        Verdict.FAILED,
        (small_answer(),),
        tests="assert f() == 1",
    ),
    Attack("repr_of_surrogates", r"def f(): return '\ud800'", Verdict.FAILED, tests="assert f() == 'x', f()"),
    Attack(
        "streams_replaced",
        "import sys\nsys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None\ndef f(): return 1",
        Verdict.PASSED,
        tests="assert f() == 1",
    ),
    Attack(
        "streams_refuse",
        """
import sys
class Broken:
    def write(self, _): raise OSError
    flush = close = write
sys.stdout = sys.stderr = Broken()
def f(): return 2
""",
        Verdict.FAILED,
        tests="assert f() == 1",
    ),
)
