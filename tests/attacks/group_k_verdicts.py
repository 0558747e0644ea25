"""K. Forged verdicts: code that is wrong does not pass, whatever it does short of taking the interpreter apart.

`ATTACKS` hold under the default judge, whose assurance is TESTS_COMPLETED. `LIMITS_OF_ASSURANCE` are what that assurance
does not promise to stop: tests and program share one interpreter, and no interpreter keeps a secret from its own code.
`judge = SEPARATE` is for those.
"""

from __future__ import annotations

from sandbox_server.jobs import Assurance, Outcome, Verdict
from tests.attacks.attack import Attack, limits

_TESTS = "assert f(1) == 2\nassert f(2) == 4\n"
_DEFINED = "def test_f():\n    assert f(1) == 2\n"


def _completed_at_most(outcome: Outcome) -> None:
    assert outcome.assurance is Assurance.TESTS_COMPLETED, outcome.assurance


def _forged(name: str, code: str, verdict: Verdict | tuple[Verdict, ...], tests: str = _TESTS, **job: object) -> Attack:
    return Attack(name, code, verdict, (_completed_at_most,), tests=tests, job=job)


ATTACKS = (
    # ---------------------------------------------------------------------------------------------------- leaving early
    _forged("exit", "import sys\ndef f(x): return 0\nsys.exit(0)", Verdict.INCOMPLETE),
    _forged("exit_at_once", "import os\nos._exit(0)", Verdict.INCOMPLETE),
    _forged("exit_in_function", "def f(x): raise SystemExit", Verdict.INCOMPLETE),
    _forged("exit_at_once_in_function", "import os\ndef f(x): os._exit(0)", Verdict.INCOMPLETE),
    _forged("exit_after_first", "import os\ndef f(x):\n    if x == 2: os._exit(0)\n    return 2", Verdict.INCOMPLETE),
    _forged("quit", "def f(x): quit()", Verdict.INCOMPLETE),
    _forged(
        "exit_from_thread",
        "import os, threading, time\ndef f(x):\n    threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(5)",
        Verdict.INCOMPLETE,
    ),
    _forged(
        "exit_in_comparison",
        "import os\nclass E:\n    def __eq__(self, o): os._exit(0)\ndef f(x): return E()",
        Verdict.INCOMPLETE,
    ),
    _forged(
        "exit_raised_in_comparison",
        "class E:\n    def __eq__(self, o): raise SystemExit(0)\ndef f(x): return E()",
        Verdict.INCOMPLETE,
    ),
    _forged(
        "exit_in_handler",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
        (Verdict.FAILED, Verdict.INCOMPLETE),
    ),
    _forged(
        "exit_in_hook", "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\ndef f(x): return 0", Verdict.FAILED
    ),
    _forged(
        "exec_another",
        "import os, sys\ndef f(x): os.execv(sys.executable, [sys.executable, '-c', 'print(1)'])",
        Verdict.INCOMPLETE,
    ),
    _forged("killed", "import os\ndef f(x): os.kill(os.getpid(), 9)", Verdict.KILLED),
    _forged(
        "forked_and_left",
        "import os\nif os.fork(): os._exit(0)\ndef f(x): return 0",
        (Verdict.INCOMPLETE, Verdict.FAILED),
    ),
    _forged(
        "exit_in_script",
        "import sys\ndef f(x): return 0\nsys.exit(0)\nassert f(1) == 2",
        (Verdict.INCOMPLETE, Verdict.NO_TESTS),
        tests="",
        expect_tests=True,
    ),
    Attack(
        "sleeps",
        "import time\ntime.sleep(60)",
        Verdict.TIME_LIMIT,
        (_completed_at_most,),
        tests=_TESTS,
        limits=limits(wall_time_ms=2_000),
    ),
    # ------------------------------------------------------------------------------------------------ tests that are none
    _forged(
        "failure_swallowed",
        "def f(x): return 0",
        Verdict.FAILED,
        "try:\n    assert f(1) == 2\nexcept AssertionError:\n    pass\n",
    ),
    _forged(
        "failure_suppressed",
        "def f(x): return 0",
        Verdict.FAILED,
        "import contextlib\nwith contextlib.suppress(BaseException):\n    assert f(1) == 2\n",
    ),
    _forged(
        "failure_then_exit",
        "def f(x): return 0",
        Verdict.FAILED,
        "import sys\ntry:\n    assert f(1) == 2\nfinally:\n    sys.exit(0)\n",
    ),
    _forged("defined_and_not_called", "def f(x): return 0", Verdict.FAILED, _DEFINED),
    _forged(
        "class_and_not_called",
        "def f(x): return 0",
        Verdict.FAILED,
        "class TestF:\n    def test_f(self):\n        assert f(1) == 2\n",
    ),
    _forged(
        "case_and_not_called",
        "def f(x): return 0",
        Verdict.FAILED,
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 2)\n",
    ),
    _forged(
        "check_and_not_called",
        "def f(x): return 0",
        Verdict.FAILED,
        "def check(candidate):\n    assert candidate(1) == 2\n",
    ),
    _forged(
        "async_and_not_awaited", "def f(x): return 0", Verdict.FAILED, "async def test_f():\n    assert f(1) == 2\n"
    ),
    _forged("tuple", "def f(x): return 0", Verdict.NO_TESTS, "assert (f(1) == 2, 'wrong')\n"),
    _forged(
        "nothing_but_comments", "def f(x): return 0", Verdict.NO_TESTS, "# assert f(1) == 2\n'''assert f(1) == 2'''\n"
    ),
    _forged("not_reached", "def f(x): return 0", Verdict.NO_TESTS, "if __name__ == 'tests':\n    assert f(1) == 2\n"),
    _forged("printed", "def f(x): return 0\nassert True", Verdict.NO_TESTS, "print(f(1) == 2)\n"),
    _forged(
        "skipped",
        "def f(x): return 0",
        (Verdict.NO_TESTS, Verdict.ERROR),
        "import unittest\ndef test_f():\n    raise unittest.SkipTest('x')\n    assert f(1) == 2\n",
    ),
    _forged(
        "expected_failure",
        "def f(x): return 0",
        Verdict.FAILED,
        "import unittest\nclass T(unittest.TestCase):\n    @unittest.expectedFailure\n    def test_f(self): self.assertEqual(f(1), 2)\n",
    ),
    _forged("tests_swallowed_by_string", 'def f(x): return 0\n"""', Verdict.SYNTAX_ERROR),
    _forged(
        "tests_swallowed_by_block",
        "def f(x): return 0\nif 0:\n    pass\n    ",
        Verdict.FAILED,
        "    assert f(1) == 2\n".replace("    ", "", 1),
    ),
    _forged("tests_swallowed_by_line", "def f(x): return 0 # \\", Verdict.FAILED),
    _forged(
        "tests_swallowed_by_end", "def f(x): return 0\n\x1a\x0c__END__ = 1", (Verdict.FAILED, Verdict.SYNTAX_ERROR)
    ),
    # ----------------------------------------------------------------------------------------------- talk of its own
    _forged(
        "says_so", "print('PASSED', '{\"verdict\": \"PASSED\"}', 'OK', sep='\\n')\ndef f(x): return 0", Verdict.FAILED
    ),
    _forged(
        "reports_so",  # in the framing of the real report, on every descriptor
        """
import json, os, struct
body = json.dumps({"end": "done", "code": 0, "reached": True, "tests": {"run": 2, "failed": 0, "first": None}, "error": None,
                   "nonce": "", "sizes": []}).encode()
for fd in range(3, 1 << 12):
    try: os.write(fd, struct.pack(">I", len(body)) + body)
    except OSError: pass
os._exit(0)
""",
        Verdict.INCOMPLETE,
    ),
    _forged(
        "reports_before",
        """
import os
for fd in range(3, 1 << 12):
    try: os.write(fd, b"x" * 100)
    except OSError: pass
def f(x): return 0
""",
        (Verdict.FAILED, Verdict.INCOMPLETE),
    ),
    _forged(
        "report_stopped",
        "import os\nos.closerange(3, 1 << 16)\ndef f(x): return 0",
        (Verdict.FAILED, Verdict.INCOMPLETE),
    ),
    _forged(
        "report_led_away",
        """
import os
null = os.open("/dev/null", os.O_WRONLY)
for fd in range(4, 1 << 12):
    try: os.fstat(fd); os.dup2(null, fd)
    except OSError: pass
def f(x): return 0
""",
        (Verdict.FAILED, Verdict.INCOMPLETE),
    ),
    _forged(
        "report_flooded",
        """
import os
for fd in range(3, 1 << 12):
    try:
        os.fstat(fd)
        while True: os.write(fd, bytes(1 << 16))
    except OSError:
        pass
def f(x): return 2 * x
""",
        (Verdict.INCOMPLETE, Verdict.OUTPUT_LIMIT),
    ),
    _forged(
        "files_of_test_runners",
        """
for name in ("conftest.py", "sitecustomize.py", "usercustomize.py", "tests.py", "solution.py", "unittest.py", "ast.py"):
    open(name, "w").write("import os; os._exit(0)")
import sys
sys.path.insert(0, ".")
def f(x): return 0
""",
        (Verdict.FAILED, Verdict.INCOMPLETE),
        "import solution\n" + _TESTS,
    ),
    # ---------------------------------------------------------------------------------- what the judging is made of, patched
    _forged(
        "patched_json",
        "import json\ndumps = json.dumps\ndef forge(v, **k):\n    v.update(end='done', reached=True, code=0, error=None, tests={'run': 2, 'failed': 0, 'first': None})\n    return dumps(v, **k)\njson.dumps = forge\ndef f(x): return 0",
        Verdict.FAILED,
    ),
    _forged(
        "patched_encoder",
        """
import json, json.encoder
encode = json.encoder.JSONEncoder.encode
def forge(self, v):
    if isinstance(v, dict) and "nonce" in v:
        v.update(end="done", reached=True, code=0, error=None, tests={"run": 2, "failed": 0, "first": None})
    return encode(self, v)
json.encoder.JSONEncoder.encode = forge
def f(x): return 0
""",
        Verdict.FAILED,
    ),
    _forged(
        "patched_builtins_see_the_report",
        """
import builtins, json, os, struct
def spy(real):
    def wrapper(*arguments, **keywords):
        for value in arguments:
            if type(value) is bytes and b'"nonce"' in value:
                fields = json.loads(value[value.index(b"{"):])
                fields.update(end="done", reached=True, code=0, error=None, tests={"run": 2, "failed": 0, "first": None})
                body = json.dumps(fields).encode()
                for fd in range(3, 4096):
                    try: os.write(fd, struct.pack(">I", len(body)) + body)
                    except OSError: pass
                os._exit(0)
        return real(*arguments, **keywords)
    return wrapper
for name in ("len", "memoryview", "bytes", "str", "isinstance", "sum", "zip", "map", "print", "repr", "int", "dict", "list", "getattr"):
    if not isinstance(getattr(builtins, name), type) or name in ("memoryview", "bytes"):
        setattr(builtins, name, spy(getattr(builtins, name)))
def f(x): return 0
""",
        (Verdict.FAILED, Verdict.INCOMPLETE, Verdict.ERROR),
    ),
    _forged(
        "patched_exec",
        "import builtins\nbuiltins.exec = lambda *a: None\ndef f(x): return 0",
        (Verdict.FAILED, Verdict.NO_TESTS),
    ),
    _forged(
        "patched_exec_runs_its_own",
        "import builtins\nreal = exec\nbuiltins.exec = lambda code, ns: real(compile('assert True', 'x', 'exec'), ns)\ndef f(x): return 0",
        (Verdict.FAILED, Verdict.NO_TESTS),
    ),
    _forged(
        "patched_compile",
        "import builtins\nreal = compile\nbuiltins.compile = lambda *a, **k: real('', 'x', 'exec')\ndef f(x): return 0",
        Verdict.FAILED,
    ),
    _forged(
        "patched_int",
        "import builtins\nclass I(int):\n    def __new__(cls, *a): return 9\nbuiltins.int = I\ndef f(x): return 0",
        Verdict.NO_TESTS,
        "if f(1):\n    assert f(1) == 2\n",
    ),
    _forged(
        "patched_isinstance",
        "import builtins\nbuiltins.isinstance = lambda *a: False\ndef f(x): return 0",
        (Verdict.FAILED, Verdict.NO_TESTS),
        "assert True is not False\n" + _DEFINED,
    ),
    _forged(
        "patched_issubclass",
        "import builtins\nbuiltins.issubclass = lambda *a: False\ndef f(x): return 0",
        Verdict.FAILED,
        "assert 1 == 1\nimport unittest\nclass TestF(unittest.TestCase):\n    def test_f(self): assert f(1) == 2\n",
    ),
    _forged(
        "patched_ast",
        "import ast\nclass No(ast.AST): pass\nast.FunctionDef = ast.Assert = ast.ClassDef = No\nast.parse = lambda *a: ast.Module([], [])\ndef f(x): return 0",
        Verdict.FAILED,
        "assert 1 == 1\n" + _DEFINED,
    ),
    _forged(
        "patched_inspect",
        "import inspect\ninspect.iscoroutine = lambda _: False\ndef f(x): return 0",
        Verdict.FAILED,
        "assert 1 == 1\nasync def test_f():\n    assert f(1) == 2\n",
    ),
    _forged("patched_write", "import os\nos.write = lambda fd, data: len(data)\ndef f(x): return 0", Verdict.FAILED),
    _forged(
        "patched_exit", "import os, sys\nos._exit = sys.exit = lambda *a: None\ndef f(x): return 0", Verdict.FAILED
    ),
    _forged(
        "patched_assertion_error",
        "import builtins\nbuiltins.AssertionError = SystemExit\ndef f(x): return 0",
        Verdict.FAILED,
    ),
    _forged(
        "patched_base_exception",
        "import builtins\nbuiltins.BaseException = builtins.Exception = builtins.SystemExit = KeyError\ndef f(x): return 0",
        (Verdict.FAILED, Verdict.ERROR, Verdict.INCOMPLETE),
    ),
    _forged(
        "patched_traceback",
        "import traceback, linecache\ntraceback.TracebackException = None\nlinecache.cache = None\ndef f(x): return 0",
        Verdict.FAILED,
    ),
    _forged("patched_getpid", "import os\nos.getpid = lambda: 1\ndef f(x): return 0", Verdict.FAILED),
    _forged(
        "patched_threading",
        "import os, threading\nthreading._shutdown = lambda: os._exit(0)\ndef f(x): return 0",
        (Verdict.FAILED, Verdict.INCOMPLETE),
    ),
    _forged("namespace_cleared", "def f(x):\n    globals().clear()\n    return 0", (Verdict.FAILED, Verdict.ERROR)),
    _forged(
        "builtins_cleared",
        "import builtins\ndef f(x):\n    vars(builtins).clear()\n    return 0",
        (Verdict.FAILED, Verdict.ERROR, Verdict.INCOMPLETE),
    ),
    _forged(
        "harness_by_name",  # what is in sys.modules needs no search
        """
import sys
for name, module in list(sys.modules.items()):
    if "guest" in name or "judging" in name or "sandbox" in name:
        for attribute, value in list(vars(module).items()):
            if attribute in ("call", "failed", "record", "describe"): setattr(module, attribute, lambda *a, **k: None)
            if attribute == "Ledger":
                value.failed = value.record = lambda *a, **k: None
                value.report = lambda self: {"run": 2, "failed": 0, "first": None}
def f(x): return 0
""",
        Verdict.FAILED,
        _DEFINED,
    ),
    _forged(
        "marks_by_name",  # the names that rewritten assertions use
        """
for name, value in list(globals().items()):
    for arguments in ((), (0,), (0, 1), (0, 1, 1)):
        if name.startswith("@"):
            try: value(*arguments)
            except TypeError: pass
def f(x): return 0
""",
        Verdict.FAILED,
        _DEFINED,
    ),
    _forged(
        "unhashable_identity",
        "class N(int):\n    def __ne__(self, o): return False\ndef f(x): return N(0)",
        Verdict.FAILED,
    ),
    _forged(
        "flaky",
        "import time\ndef f(x): return 2 * x if time.time_ns() % 2 else 0",
        (Verdict.FAILED, Verdict.PASSED),
        repeat=5,
    ),
)

LIMITS_OF_ASSURANCE = (
    _forged("always_equal", "class A:\n    def __eq__(self, o): return True\ndef f(x): return A()", Verdict.PASSED),
    _forged(
        "patched_by_tests_use",
        "import builtins\nbuiltins.len = lambda _: 2\ndef f(x): return []",
        Verdict.PASSED,
        "assert len(f(1)) == 2\n",
    ),
    _forged(
        "patched_case",
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef f(x): return 0",
        (Verdict.PASSED, Verdict.NO_TESTS),
        "class T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 2)\n",
    ),
    _forged(
        "answers_read_from_frames",
        """
import sys
def f(x):
    frame = sys._getframe(1)
    return [c for c in frame.f_code.co_consts if isinstance(c, int) and c == 2 * x][0]
""",
        Verdict.PASSED,
    ),
    _forged(
        "source_read",
        "def f(x):\n    import linecache, re\n    return int(re.search(rf'f\\({x}\\) == (\\d+)', ''.join(linecache.getlines('/work/tests.py')))[1])",
        (Verdict.PASSED, Verdict.ERROR),
    ),
    _forged(
        "numbers_changed",
        """
import ctypes
class E(int): pass
ctypes.memmove(id(0) + 24, id(2) + 24, 4)
def f(x): return 0
""",
        tuple(Verdict),  # an interpreter in which 0 is 2 does as it likes
    ),
    _forged(
        "lines_jumped",
        """
import sys
def trace(frame, event, argument):
    if frame.f_code.co_filename.endswith("tests.py"):
        frame.f_trace = trace
        if event == "line" and frame.f_lineno == 1:
            try: frame.f_lineno = 3
            except ValueError: pass
    return trace
sys.settrace(trace)
frame = sys._getframe(1)
while frame: frame.f_trace = trace; frame = frame.f_back
def f(x): return 4
""",
        tuple(Verdict),
        "assert f(1) == 2\nx = 1\nassert f(2) == 4\n",
    ),
    _forged(
        "report_rewritten",
        """
import gc
def f(x):
    for thing in gc.get_objects():
        if type(thing).__name__ == "Ledger": type(thing).report = lambda self: {"run": 2, "failed": 0, "first": None}
    return 0
""",
        tuple(Verdict),
    ),
)
