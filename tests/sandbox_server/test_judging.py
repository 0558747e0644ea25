"""What the guest makes of programs and tests: one row, one fact."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Job, Outcome, Verdict

pytestmark = [pytest.mark.nsjail]

V = Verdict
ADD = "def add(a, b):\n    return a + b\n"


@dataclass(frozen=True)
class Case:
    """A program and what must be said of it; `run` and `failed` count assertions, None when they do not matter."""

    fact: str
    verdict: Verdict
    code: str
    tests: str = ""
    run: int | None = None
    failed: int | None = None
    expect_tests: bool = False
    entry_point: str = ""
    exit_code: int | None = None
    error: str | None = None


CASES = (
    # Passing, in all the ways in which tests are written.
    Case("assertions at module level are counted", V.PASSED, ADD, "assert add(1, 2) == 3\nassert add(0, 0) == 0", 2, 0, exit_code=0),
    Case("every evaluation of an assertion counts", V.PASSED, ADD, "for n in range(5):\n    assert add(n, 1) == n + 1", 5, 0),
    Case("tests may import the solution", V.PASSED, ADD, "from solution import add as plus\nassert plus(1, 2) == 3", 1, 0),
    Case("test functions that nothing calls are called", V.PASSED, ADD, "def test_add():\n    assert add(1, 2) == 3", 1, 0),
    Case("test functions that the tests call are not called again", V.PASSED, ADD, "def test_add():\n    assert add(1, 2) == 3\ntest_add()", 1, 0),
    Case("test methods of a plain class are called", V.PASSED, ADD, "class TestAdd:\n    def test_a(self):\n        assert add(1, 2) == 3", 1, 0),
    Case("a coroutine test is awaited", V.PASSED, ADD, "async def test_add():\n    assert add(1, 2) == 3", 1, 0),
    Case("check(candidate) gets the last function of the code", V.PASSED, "def helper(): pass\n" + ADD, "def check(candidate):\n    assert candidate(1, 2) == 3", 1, 0),
    Case("check(candidate) gets the entry point that is named", V.PASSED, ADD + "def later(): pass", "def check(candidate):\n    assert candidate(1, 2) == 3", 1, 0, entry_point="add"),
    Case("unittest cases that nothing runs are run", V.PASSED, ADD, "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(1, 2), 3)\n        self.assertTrue(add(1, 1))", 2, 0),
    Case("unittest.main may end the tests", V.PASSED, ADD, "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(1, 2), 3)\nif __name__ == '__main__':\n    unittest.main()", 1, 0),
    Case("assertRaises as a context counts", V.PASSED, "def f(): raise KeyError(1)", "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        with self.assertRaises(KeyError):\n            f()", 1, 0),
    Case("a self-testing script counts its own assertions", V.PASSED, ADD + "assert add(1, 2) == 3\nif __name__ == '__main__':\n    assert add(2, 2) == 4", "", 2, 0, expect_tests=True),
    Case("an expected exception is no failure", V.PASSED, "def f(x):\n    assert x > 0\n    return x", "try:\n    f(-1)\n    assert False\nexcept AssertionError:\n    pass\nassert f(1) == 1", 1, 0),
    Case("comparisons of all kinds hold", V.PASSED, "", "assert 1 < 2\nassert 1 in [1]\nassert 2 not in [1]\nassert None is None\nassert not 0\nassert 1 < 2 < 3\nassert [] == []", 7, 0),
    # The program is a file: what works in one works here.
    Case("functions recurse and call helpers", V.PASSED, "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)", "assert even(10)", 1),
    Case("__name__ is __main__", V.PASSED, "import sys\nseen = False\nif __name__ == '__main__':\n    seen = True", "assert seen\nassert sys.modules['__main__'].seen", 2),
    Case("future imports work", V.PASSED, "from __future__ import annotations\ndef f(x: Undefined) -> Undefined: return x", "assert f(1) == 1", 1),
    Case("dataclasses pickle", V.PASSED, "import dataclasses, pickle\n@dataclasses.dataclass\nclass P:\n    x: int = 1", "assert pickle.loads(pickle.dumps(P(3))) == P(3)", 1),
    Case("inspect shows the source", V.PASSED, "import inspect\ndef f():\n    return 1\nclass C:\n    x = 1", "assert inspect.getsource(f).startswith('def f')\nassert inspect.getsource(C).startswith('class C')", 2),
    Case("exit and quit exist", V.EXITED, "exit(3)", exit_code=3),
    Case("comprehensions at module level see globals", V.PASSED, "k = 2\nl = [k * n for n in range(3)]", "assert l == [0, 2, 4]", 1),
    Case("enums, typing and abstract classes work", V.PASSED, "import enum, typing, abc\nclass C(enum.Enum):\n    A = 1\nclass T(typing.NamedTuple):\n    x: int\nclass B(abc.ABC): pass", "assert C.A.value == 1 and T(1).x == 1", 1),
    Case("processes can be forked", V.PASSED, "import multiprocessing\ndef f(x): return x * x\ndef g():\n    with multiprocessing.get_context('fork').Pool(2) as p:\n        return p.map(f, [1, 2, 3])", "assert g() == [1, 4, 9]", 1),
    Case("threads are waited for", V.EXITED, "import threading, time\ndef f():\n    time.sleep(0.05)\n    print('done')\nthreading.Thread(target=f).start()", exit_code=0),
    Case("atexit functions run", V.EXITED, "import atexit\natexit.register(print, 'bye')", exit_code=0),
    Case("asyncio runs", V.PASSED, "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 1", "assert asyncio.run(f()) == 1", 1),
    Case("files can be written and read", V.PASSED, "open('x.txt', 'w').write('hi')\nimport tempfile\nt = tempfile.NamedTemporaryFile()", "assert open('x.txt').read() == 'hi'", 1),
    # Failing.
    Case("a failed assertion fails", V.FAILED, ADD, "assert add(1, 2) == 4", 1, 1, exit_code=1),
    Case("a swallowed assertion fails", V.FAILED, ADD, "try:\n    assert add(1, 2) == 4\nexcept AssertionError:\n    pass\nassert add(1, 1) == 2", 2, 1),
    Case("a failure in a unittest case fails", V.FAILED, ADD, "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(1, 2), 4)\nif __name__ == '__main__':\n    unittest.main()", 1, 1),
    Case("a failed assertRaises fails", V.FAILED, ADD, "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        with self.assertRaises(KeyError):\n            add(1, 2)", None, 1),
    Case("a failure in a thread fails", V.FAILED, ADD, "import threading\ndef f():\n    assert add(1, 1) == 3\nt = threading.Thread(target=f)\nt.start()\nt.join()", 1, 1),
    Case("a raised AssertionError of the tests fails", V.FAILED, ADD, "if add(1, 2) != 4:\n    raise AssertionError('no')", 1, 1),
    Case("a failure that the exit status hides fails", V.FAILED, ADD, "import sys\ntry:\n    assert add(1, 2) == 4\nfinally:\n    sys.exit(0)", 1, 1, exit_code=0),
    Case("a failure with a huge message fails", V.FAILED, ADD, "assert add(1, 2) == 4, 'x' * (4 << 20)", 1, 1),
    Case("a failure with huge sides fails", V.FAILED, ADD, "assert add([1], [2]) * 999_999 == []", 1, 1),
    Case("a unittest failure with a huge message fails", V.FAILED, ADD, "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(1, 2), 4, 'x' * (4 << 20))", 1, 1),
    # Errors.
    Case("an exception with a huge message is an error", V.ERROR, "raise ValueError('x' * (4 << 20))", "assert True == 1", error="ValueError"),
    Case("a unittest error with a huge message is an error", V.ERROR, ADD, "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        raise ValueError('x' * (4 << 20))", 0, 0, error="ValueError"),
    Case("an exception of the code is an error", V.ERROR, "1 / 0", "assert True == 1", error="ZeroDivisionError", exit_code=1),
    Case("an exception of the tests is an error", V.ERROR, ADD, "assert add(1) == 2", 0, 0, error="TypeError"),
    Case("an assertion of the code is an error", V.ERROR, "def f(x):\n    assert x > 0", "assert f(-1) is None", 0, 0, error="AssertionError"),
    Case("an error in a unittest case is an error", V.ERROR, ADD, "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(1), 4)", 0, 0, error="TypeError"),
    Case("without tests an exception is an error", V.ERROR, "def f():\n    raise ValueError('x')\nf()", error="ValueError", exit_code=1),
    Case("a missing module is an error", V.ERROR, "import numpy", error="ModuleNotFoundError"),
    Case("KeyboardInterrupt is an error", V.ERROR, "raise KeyboardInterrupt", error="KeyboardInterrupt"),
    Case("endless recursion is an error", V.ERROR, "def f(): return f()\nf()", error="RecursionError"),
    Case("an exception that cannot be printed is an error", V.ERROR, "class E(Exception):\n    def __str__(self): raise E\nraise E", error="E"),
    # Not compiling.
    Case("code that does not compile", V.SYNTAX_ERROR, "def f(:", "assert True == 1", error="SyntaxError"),
    Case("tests that do not compile", V.SYNTAX_ERROR, ADD, "assert add(1, 2) ==", error="SyntaxError"),
    Case("nothing runs when the tests do not compile", V.SYNTAX_ERROR, "print('ran')", "assert", error="SyntaxError"),
    Case("NUL in the source", V.SYNTAX_ERROR, "x = 1\0", error=None),
    Case("nesting too deep for the compiler", V.SYNTAX_ERROR, "x = " + "(" * 5000 + ")" * 5000, error=None),
    Case("a return outside a function", V.SYNTAX_ERROR, "return 1", error="SyntaxError"),
    # No tests.
    Case("empty tests are no tests", V.EXITED, ADD, "", exit_code=0),
    Case("tests without an assertion", V.NO_TESTS, ADD, "print(add(1, 2))", 0, 0),
    Case("an assertion of a tuple asserts nothing", V.NO_TESTS, ADD, "assert (add(1, 2) == 4, 'message')", 0, 0),
    Case("an assertion of a constant asserts nothing", V.NO_TESTS, ADD, "assert True\nassert 1, 'x'\nassert 'text'", 0, 0),
    Case("an assertion that is never reached", V.NO_TESTS, ADD, "if False:\n    assert add(1, 2) == 3", 0, 0),
    Case("a test function with arguments cannot be called", V.NO_TESTS, ADD, "def test_add(fixture):\n    assert add(1, 2) == fixture", 0, 0),
    Case("a self-testing script without tests", V.NO_TESTS, ADD, "", 0, 0, expect_tests=True),
    Case("a function's check of its arguments is no test", V.NO_TESTS, "def f(x):\n    assert x > 0\n    return x\nf(1)", "", 0, 0, expect_tests=True),
    Case("comments only", V.NO_TESTS, ADD, "# nothing", 0, 0),
    # Ended before the last test.
    Case("sys.exit in the code", V.INCOMPLETE, "import sys\nsys.exit(0)", "assert 1 == 2", 0, 0, exit_code=0),
    Case("sys.exit in the tests", V.INCOMPLETE, ADD, "import sys\nassert add(1, 2) == 3\nsys.exit(0)\nassert add(1, 2) == 4", 1, 0),
    Case("sys.exit after the last assertion", V.INCOMPLETE, ADD, "import sys\nassert add(1, 2) == 3\nsys.exit(0)"),
    Case("os._exit in the code", V.INCOMPLETE, "import os\nos._exit(0)", "assert 1 == 2", exit_code=0),
    Case("os._exit in a function under test", V.INCOMPLETE, "import os\ndef add(a, b): os._exit(0)", "assert add(1, 2) == 3", exit_code=0),
    Case("os._exit in an atexit function", V.INCOMPLETE, "import atexit, os\natexit.register(os._exit, 0)", "assert 1 == 1"),
    Case("exec of another program", V.INCOMPLETE, "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', ''])", "assert 1 == 2", exit_code=0),
    Case("the parent leaves after a fork", V.INCOMPLETE, "import os\nif os.fork():\n    os._exit(0)", "assert 1 == 1", exit_code=0),
    Case("the child of a fork does not report", V.FAILED, "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)", "assert pid == 0", 1, 1),
    Case("closing all descriptors", V.INCOMPLETE, "import os\nos.closerange(0, 65536)", "assert 1 == 1"),
    Case("writing to all descriptors", V.INCOMPLETE, "import os\nfor fd in range(3, 70000):\n    try: os.write(fd, b'{}')\n    except OSError: pass", "assert 1 == 1"),
)  # fmt: skip


def job(case: Case) -> Job:
    return Job(
        code=case.code,
        tests=case.tests,
        expect_tests=case.expect_tests,
        entry_point=case.entry_point,
        request_id=case.fact,
    )


@pytest.fixture(scope="module", params=["warm", "cold"])
def outcomes(request: pytest.FixtureRequest) -> dict[str, Outcome]:
    """Every case, run once in forks of a warm interpreter, and once in a jail of its own."""

    async def run_all() -> list[Outcome]:
        sandbox = await open_sandbox(SandboxConfig(warm=request.param == "warm"))
        try:
            return await asyncio.gather(*(sandbox.run(job(case)) for case in CASES))
        finally:
            await sandbox.close()

    return {outcome.request_id: outcome for outcome in asyncio.run(run_all())}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fact)
def test_judgement(case: Case, outcomes: dict[str, Outcome]) -> None:
    """Each row of the table holds."""
    outcome = outcomes[case.fact]

    assert outcome.verdict == case.verdict, outcome
    expected: dict[str, Any] = {"run": case.run, "failed": case.failed, "exit_code": case.exit_code}
    tests = outcome.tests
    actual = {
        "run": tests.assertions_run if tests else None,
        "failed": tests.assertions_failed if tests else None,
        "exit_code": outcome.exit_code,
    }
    for name, value in expected.items():
        if value is not None:
            assert actual[name] == value, (name, outcome)
    if case.error is not None:
        assert outcome.error is not None
        assert outcome.error.type == case.error
