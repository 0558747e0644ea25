"""The separate judge answers what one interpreter would, and refuses with a reason what it cannot judge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from textwrap import dedent

import pytest

from sandbox_server.errors import Unsupported
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Assurance, File, Job, Judge, LimitsRequest, Outcome, Verdict
from sandbox_server.sandbox import Sandbox

pytestmark = pytest.mark.nsjail

PROGRAM = dedent(
    '''
    import asyncio, math, random, re
    from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
    from dataclasses import dataclass, field
    from datetime import date, datetime, timedelta, timezone
    from decimal import Decimal
    from enum import Enum, IntEnum
    from fractions import Fraction

    LIMIT = 10
    REGISTRY = []

    def echo(value): return value
    def kind(value): return type(value).__name__
    def add(a, b=1, *, c=0): return a + b + c
    def sort_in_place(items): items.sort()
    def keep(items): REGISTRY.append(items); return len(REGISTRY)
    def extend_kept(value):
        for items in REGISTRY: items.append(value)
    def apply(function, *values): return [function(value) for value in values]
    def describe(function): return function.__name__, function.__doc__, function.__code__.co_argcount
    def count_up(n):
        for number in range(n):
            yield number
    def accumulate():
        total = 0
        while True:
            given = yield total
            total += given or 0
    def total(numbers): return sum(numbers)
    def twice(function):
        def wrapper(*arguments, **keywords): return 2 * function(*arguments, **keywords)
        wrapper.__name__ = function.__name__
        return wrapper
    def make_counter():
        count = 0
        def counter():
            nonlocal count
            count += 1
            return count
        counter.start = 0
        return counter
    async def later(value):
        await asyncio.sleep(0)
        return value
    def say(text): print(text); return len(text)

    class Broke(ValueError):
        """No money left."""
        def __init__(self, missing):
            super().__init__(f"{missing} missing")
            self.missing = missing
    def fail(missing): raise Broke(missing)
    def fail_with(error): raise error
    def chain():
        try: 1 / 0
        except ZeroDivisionError as error: raise KeyError("k") from error
    def guarded(function):
        try: function()
        except LookupError as error: return type(error).__name__, error.args
        return None

    class Account:
        """Money."""
        bank = "B"
        def __init__(self, owner, balance=0): self.owner, self.balance, self.log = owner, balance, []
        def deposit(self, amount): self.balance += amount; self.log.append(amount); return self
        @property
        def rich(self): return self.balance > 100
        @classmethod
        def empty(cls): return cls("nobody")
        @staticmethod
        def fee(): return 2
        def __len__(self): return len(self.log)
        def __contains__(self, amount): return amount in self.log
        def __getitem__(self, index): return self.log[index]
        def __iter__(self): return iter(self.log)
        def __enter__(self): return self
        def __exit__(self, *error): self.balance = 0; return True
        def __call__(self, x): return self.balance * x
        def __str__(self): return f"{self.owner}: {self.balance}"
    class Savings(Account):
        def interest(self): return self.balance // 10
    def richest(accounts): return max(accounts, key=lambda account: account.balance)

    Point = namedtuple("Point", "x y", defaults=[0])
    class Colour(Enum):
        RED = "r"
        BLUE = "b"
        def loud(self): return self.name + "!"
    class Level(IntEnum):
        LOW = 1
        HIGH = 2
    @dataclass
    class Item:
        name: str
        tags: list = field(default_factory=list)
        price: float = 1.5
        def tag(self, word): self.tags.append(word); return self
        @property
        def label(self): return self.name.upper()
    @dataclass(frozen=True, order=True)
    class Version:
        major: int
        minor: int = 0
    def shift(point, by): return Point(point.x + by, point.y + by)
    def paint(letter): return Colour(letter)
    def items(*names): return [Item(name) for name in names]
    def newest(versions): return max(versions)

    class Node:
        def __init__(self, value): self.value, self.left, self.right = value, None, None
    def depth(node): return 0 if node is None else 1 + max(depth(node.left), depth(node.right))
    def find(node, value):
        if node is None or node.value == value: return node
        return find(node.left, value) or find(node.right, value)
    '''
)

AGREED = {
    "messages of about the size of one read, and of many": """
        for n in (*range(65_480, 65_560, 5), 1_000_000):
            assert echo('x' * n) == 'x' * n
    """,
    "values keep their type": """
        for value in [1, 1.5, 'x', b'x', None, True, 2j, (1, [2]), {1: {2}}, frozenset([1]), range(3), [..., slice(1)]]:
            assert echo(value) == value
            assert type(echo(value)) is type(value)
        assert [kind(x) for x in (1, True, 1.0, (), bytearray(b'x'))] == ['int', 'bool', 'float', 'tuple', 'bytearray']
        assert echo(float('nan')) != echo(float('nan'))
        assert echo(10 ** 5000) == 10 ** 5000
    """,
    "values of the library": """
        from collections import Counter, OrderedDict, defaultdict, deque
        from datetime import date, datetime, timedelta, timezone
        from decimal import Decimal
        from fractions import Fraction
        for value in [Decimal('1.10'), Fraction(1, 3), date(2024, 2, 29), datetime(2024, 1, 1, tzinfo=timezone.utc),
                      timedelta(days=1), Counter('aab'), deque([1], maxlen=3), OrderedDict(a=1), defaultdict(int, a=1)]:
            assert echo(value) == value and type(echo(value)) is type(value)
    """,
    "arguments": "assert add(1) == 2\nassert add(1, 2, c=3) == 6\nassert add(b=5, a=1) == 6",
    "mutation in place": "items = [3, 1, 2]\nassert sort_in_place(items) is None\nassert items == [1, 2, 3]",
    "the same object comes back": "items = [1]\nassert echo(items) is items\nassert echo([items, items])[1] is items",
    "a kept object changes later": """
        mine = [1]
        keep(mine)
        extend_kept(2)
        assert mine == [1, 2]
        mine.append(3)
        extend_kept(4)
        assert mine == [1, 2, 3, 4]
        assert REGISTRY[0] is mine
    """,
    "a result that the tests change": "REGISTRY.append([9])\nextend_kept(1)\nassert REGISTRY == [[9, 1]]",
    "callbacks": """
        seen = []
        assert apply(lambda x: seen.append(x) or x + 1, 1, 2) == [2, 3]
        assert seen == [1, 2]
        assert apply(str.upper, 'a') == ['A'] and apply(len, 'ab', '') == [2, 0] and apply(int, '7') == [7]
        def named(a, b=2, *c, d, **e):
            'About it.'
        assert describe(named) == ('named', 'About it.', 2)
    """,
    "a callback that raises": """
        class Mine(KeyError): pass
        def raises(): raise Mine('x')
        assert guarded(raises) == ('Mine', ('x',))
        try:
            apply(lambda x: 1 / x, 0)
            assert False, 'nothing was raised'
        except ZeroDivisionError:
            pass
    """,
    "decorators": """
        @twice
        def area(a, b=3):
            return a * b
        assert area(2) == 12 and area(2, b=1) == 4 and area.__name__ == 'area'
    """,
    "closures": "a, b = make_counter(), make_counter()\nassert (a(), a(), b()) == (1, 2, 1)\nassert a.start == 0",
    "iterators of the tests": "assert total(x * x for x in range(4)) == 14\nassert total(iter([1, 2])) == 3",
    "generators": """
        import types
        assert list(count_up(3)) == [0, 1, 2] and isinstance(count_up(1), types.GeneratorType)
        running = accumulate()
        next(running)
        assert running.send(5) == 5 and running.send(2) == 7
        running.close()
        try:
            next(running)
        except StopIteration:
            ended = True
        assert ended
    """,
    "coroutines": "import asyncio\nassert asyncio.run(later(3)) == 3",
    "exceptions": """
        try:
            fail(7)
            assert False, 'nothing was raised'
        except Broke as error:
            assert error.missing == 7 and str(error) == '7 missing' and isinstance(error, ValueError)
        try:
            chain()
        except KeyError as error:
            assert error.args == ('k',) and isinstance(error.__cause__, ZeroDivisionError)
        try:
            fail_with(OSError(2, 'gone'))
        except FileNotFoundError as error:
            assert error.errno == 2
    """,
    "instances": """
        account = Account('Ann')
        assert account.deposit(50).deposit(70) is account
        assert (account.balance, account.log, account.rich, len(account)) == (120, [50, 70], True, 2)
        assert 50 in account and account[1] == 70 and list(account) == [50, 70] and account(2) == 240
        assert str(account) == 'Ann: 120' and Account.bank == 'B' and Account.fee() == 2
        account.balance = 5
        assert account.balance == 5 and not hasattr(account, 'nothing')
        assert isinstance(account, Account) and type(account) is Account and Account.__doc__ == 'Money.'
        assert Account.empty().owner == 'nobody'
        with account:
            raise ValueError
        assert account.balance == 0
        account.log.append(1)
        assert len(account) == 3
    """,
    "inheritance": """
        savings = Savings('Bo', 200)
        assert isinstance(savings, Account) and issubclass(Savings, Account) and savings.interest() == 20
        assert richest([Account('A', 1), savings]) is savings
        try:
            Account()
            assert False
        except TypeError as error:
            assert 'owner' in str(error)
    """,
    "named tuples": """
        assert shift(Point(1, 2), 1) == Point(2, 3) == (2, 3)
        assert Point(1).y == 0 and shift(Point(1), 1)._asdict() == {'x': 2, 'y': 1}
    """,
    "enumerations": """
        assert paint('r') is Colour.RED and paint('b') != Colour.RED and Colour.RED.loud() == 'RED!'
        assert [c.value for c in Colour] == ['r', 'b'] and echo(Level.HIGH) > Level.LOW and Level(2) is Level.HIGH
    """,
    "dataclasses": """
        assert items('a', 'b') == [Item('a'), Item('b')] and Item('a') != Item('b')
        item = Item('a')
        assert item.tag('new') == Item('a', ['new']) and item.tags == ['new'] and item.label == 'A'
        assert newest([Version(1), Version(2, 1), Version(2)]) == Version(2, 1) and Version(1) < Version(2)
        assert {Version(1): 1}[Version(1)] == 1 and repr(Version(1)) == 'Version(major=1, minor=0)'
    """,
    "trees": """
        root = Node(1)
        root.left, root.left.right = Node(2), Node(3)
        assert depth(root) == 2 or depth(root) == 3
        assert find(root, 3) is root.left.right and find(root, 9) is None
    """.replace(
        "root.left, root.left.right = Node(2), Node(3)", "root.left = Node(2)\n        root.left.right = Node(3)"
    ),
    "what is printed can be caught": """
        import contextlib, io
        caught = io.StringIO()
        with contextlib.redirect_stdout(caught):
            assert say('hello') == 5
        assert caught.getvalue() == 'hello\\n'
    """,
    "constants and modules of the program": """
        assert LIMIT == 10
        assert math.sqrt(4) == 2 and Counter('aa')['a'] == 2
    """,
    "a module called solution": """
        from solution import add, Account
        import solution
        assert add(1) == solution.add(1) == 2
    """,
    "a function of the program that the tests replace": """
        import solution
        assert apply(lambda x: x, 1) == [1]
        solution.apply = lambda function, *values: 'replaced'
        assert apply(1, 2) == 'replaced' and solution.apply(1) == 'replaced'
    """,
    "names that the tests lend": """
        def helper(x):
            return x + 1
        LIMIT = 3
        assert LIMIT == 3 and helper(1) == 2
    """,
    "check(candidate)": "def check(candidate):\n    assert candidate(Node(1), 1).value == 1",
    "test functions and classes": """
        def test_one():
            assert add(1) == 2
        class TestMore:
            def test_two(self):
                assert add(2) == 3
    """,
    "unittest": """
        import unittest
        class TestAll(unittest.TestCase):
            def setUp(self):
                self.account = Account('A')
            def test_raises(self):
                with self.assertRaises(Broke):
                    fail(1)
                self.assertRaisesRegex(Broke, '3 missing', fail, 3)
            def test_equal(self):
                self.assertEqual(self.account.deposit(3).log, [3])
                self.assertIsInstance(self.account, Account)
        unittest.main()
    """,
}

WRONG = {
    "a wrong value": "assert add(1) == 3",
    "an int for a bool": "assert add(0) is True",
    "a tuple for a list": "assert echo((1, 2)) == [1, 2]",
    "an exception": "assert add('a') == 1",
    "a swallowed failure": "try:\n    assert add(1) == 3\nexcept AssertionError:\n    pass",
    "an unknown name": "assert subtract(1, 2) == -1",
    "no assertion": "add(1)",
    "assertions about nothing": "assert (add(1) == 5, 'message')",
    "a syntax error": "assert add(1 == 2",
    "a test that leaves": "import sys\nassert add(1) == 2\nsys.exit(0)",
    "a failing unittest": """
        import unittest
        class TestAll(unittest.TestCase):
            def test_equal(self):
                self.assertEqual(add(1), 3)
    """,
}

REFUSED = {
    "own equality": (
        "class A:\n    def __eq__(self, o): return True\ndef f(): return A()", "assert f() == 1", "__eq__"),
    "own equality among its own": ("class A:\n    def __eq__(self, o): return True", "assert A() == A()", "__eq__"),
    "own order": ("class A:\n    def __lt__(self, o): return True\ndef f(): return A()", "assert f() < 1", "__lt__"),
    "own hash": ("class A:\n    def __hash__(self): return 1\ndef f(): return A()", "assert {f(): 1}", "__hash__"),
    "truth of a class that nobody named": (
        "class A:\n    def __bool__(self): return True\ndef f(): return A()", "assert f()", "never name"),
    "a list's subclass": ("class A(list): pass\ndef f(): return A()", "assert f() == []", "derives from a built-in"),
    "a class of the tests as base": ("class A: pass", "class B(A): pass\nassert B", "derive a class"),
    "an object of the tests": ("def f(x): return 1", "class B: pass\nassert f(B()) == 1", "type B that the tests pass"),
    "files": ("def f(p): return open(p).read()", "open('x', 'w').write('y')\nassert f('x') == 'y'", "files"),
    "environment": ("def f(): return 1", "import os\nassert f() == 1", "os"),
    "mocks": ("def f(): return 1", "from unittest.mock import patch\nassert f() == 1", "unittest.mock"),
    "seeds": ("import random\ndef f(): return random.random()",
              "import random\nrandom.seed(1)\nassert f() == f()", "seed random"),
    "a patched module": ("def f(): return 1", "import time\ntime.time = f\nassert f() == 1", "patched time.time"),
    "threads": ("def f(): return 1", "import threading\nassert f() == 1", "threading"),
    "a copy of an object": ("class A: pass", "import copy\nassert copy.copy(A())", "copy or pickle"),
    "a builtin redefined beside another": (
        "def sum(a, b): return 0\ndef abs(x): return 0", "assert abs(sum(1, 2)) == 0", "redefines abs, sum"),
    "a module under another's name": (
        "import operator as math", "assert math.truth(1)", "binds to the module operator"),
    "sizes of objects": (
        "import sys\ndef f(x): return sys.getsizeof(x)", "assert f([1]) > 1", "the program uses getsizeof"),
    "a name of the tests'": (
        "def f(n): return expected", "expected = 4\nassert f(2) == expected", "uses the name expected"),
    "a function of the tests'": (
        "def f(n): return g(n)", "def g(n): return n\nassert f(2) == g(2)", "uses the name g"),
    "a swallowed error": (
        "class A:\n    def __enter__(self): return 1\n    def __exit__(self, *e): return True\ndef f(): raise KeyError",
        "with A() as a:\n    assert f() == a", "swallows KeyError"),
    "an error of the tests' making": (
        "class A:\n    def __enter__(self): return None\n    def __exit__(self, *e): return True",
        "with A() as a:\n    assert a + 1 == 2", "swallows TypeError"),
    "an error of a library's": (
        "class A:\n    def __enter__(self): return '['\n    def __exit__(self, *e): return True",
        "import json\nwith A() as a:\n    assert json.loads(a) == []", "swallows JSONDecodeError"),
    "an error swallowed by a function": (
        "import contextlib\n@contextlib.contextmanager\ndef a():\n    try: yield\n    except KeyError: pass\n"
        "def f(): raise KeyError",
        "with a():\n    assert f() == 1", "swallows KeyError"),
    "an own class called as an import's": (
        "class Decimal:\n    def __sub__(self, o): return 0\ndef f(): return Decimal()",
        "import decimal\nassert abs(f() - 1) < decimal.Decimal('0.1')", "never name"),
    "a builtin redefined beside a candidate": (
        "def abs(x): return 0\ndef f(x): return x", "def check(c):\n    assert abs(c(2) - 9) < 1", "redefines abs"),
    "a builtin redefined beside an import": (
        "def abs(x): return 0\ndef f(x): return x", "from solution import f\nassert abs(f(2)) < 1", "redefines abs"),
    "an exception redefined": (
        "class ValueError(Exception): pass\ndef f(): raise ValueError",
        "try:\n    f()\nexcept ValueError:\n    assert f", "redefines ValueError"),
    "depth": ("def f():\n    x = []\n    for _ in range(500): x = [x]\n    return x", "assert f()", "deep"),
}  # fmt: skip


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = await open_sandbox(SandboxConfig())
    yield sandbox
    await sandbox.close()


async def judge(sandbox: Sandbox, code: str, tests: str, judge: Judge = Judge.SEPARATE, **more: object) -> Outcome:
    limits = LimitsRequest(wall_time_ms=10_000, cpu_time_ms=2_000, memory_bytes=128 << 20, output_bytes=100_000)
    job = Job(code=code, tests=dedent(tests), judge=judge, limits=limits, **more)  # type: ignore[arg-type]
    return await sandbox.run(job)


def told(outcome: Outcome) -> tuple[object, ...]:
    """What both judges must say alike."""
    tests = outcome.tests
    failure = tests.first_failure if tests else None
    return (
        outcome.verdict,
        tests.assertions_run if tests else None,
        tests.assertions_failed if tests else None,
        (failure.line, failure.assertion, failure.left, failure.right) if failure else None,
        (outcome.error.type, outcome.error.line) if outcome.error else None,
    )


async def test_what_one_interpreter_passes_the_separate_judge_passes(sandbox: Sandbox) -> None:
    for name, tests in AGREED.items():
        same, separate = await asyncio.gather(*(judge(sandbox, PROGRAM, tests, where) for where in Judge))
        assert separate.verdict is Verdict.PASSED, f"{name}: {separate}"
        assert separate.assurance is Assurance.TESTS_JUDGED
        assert told(separate) == told(same), name


async def test_what_one_interpreter_rejects_the_separate_judge_rejects_alike(sandbox: Sandbox) -> None:
    for name, tests in WRONG.items():
        same, separate = await asyncio.gather(*(judge(sandbox, PROGRAM, tests, where) for where in Judge))
        assert separate.verdict is not Verdict.PASSED, name
        assert told(separate) == told(same), name


@pytest.mark.parametrize("name", list(REFUSED))
async def test_what_cannot_be_judged_is_refused_with_its_reason(sandbox: Sandbox, name: str) -> None:
    code, tests, reason = REFUSED[name]

    with pytest.raises(Unsupported) as refused:
        await judge(sandbox, code, tests)

    assert reason in str(refused.value)


async def test_what_the_tests_expect_of_signs_and_contexts_they_get(sandbox: Sandbox) -> None:
    """An end that they name, an error that they raise, a module that they import for the program."""
    code = """
        import contextlib
        class Ignore:
            def __enter__(self): return self
            def __exit__(self, kind, *_): return kind is KeyError
        @contextlib.contextmanager
        def opened(x):
            yield x + 1
        class Twice:
            left = 2
            def __iter__(self): return self
            def __next__(self):
                self.left -= 1
                if self.left < 0: raise StopIteration
                return self.left
        def first(items): return next(items)
        def root(x): return math.sqrt(x)
    """
    tests = """
        import math
        with Ignore(): raise KeyError("ours")
        with opened(1) as x: assert x == 2
        assert list(Twice()) == [1, 0]
        assert root(4) == 2
        try: first(iter([]))
        except StopIteration: assert first(iter([1])) == 1
    """
    for where in Judge:
        outcome = await judge(sandbox, dedent(code), tests, where)
        assert (outcome.verdict, outcome.tests and outcome.tests.assertions_run) == (Verdict.PASSED, 4), outcome


@pytest.mark.parametrize("name", ["StopIteration", "GeneratorExit"])
async def test_a_sign_that_nobody_expects_is_an_error(sandbox: Sandbox, name: str) -> None:
    code = f"def even(n): raise {name}"

    outcome = await judge(sandbox, code, "assert all(map(even, [2, 4]))")

    assert outcome.verdict is Verdict.ERROR
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == ("RuntimeError", f"the program raised {name}")
    assert f"raise {name}" in outcome.error.traceback


async def test_a_value_that_is_made_to_hurt_the_judge_is_the_programs_verdict(sandbox: Sandbox) -> None:
    """Numbers that collide in a set, lists that are nothing but each other, more values than fit in memory."""
    for code, tests, expected in (
        ("def f(): return {n * (2**61 - 1) for n in range(20_000)}", "assert f() == {1}", {Verdict.TIME_LIMIT}),
        (
            "def f():\n    a = [1]\n    for _ in range(99): a = [a, a]\n    return a",
            "assert f() == [1]",
            {Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT},
        ),
        ("def f(): return [()] * 10_000_000", "assert f() == [1]", {Verdict.MEMORY_LIMIT}),
    ):
        job = Job(code=code, tests=tests, judge=Judge.SEPARATE,
                  limits=LimitsRequest(wall_time_ms=20_000, cpu_time_ms=500, memory_bytes=96 << 20))  # fmt: skip
        assert (await sandbox.run(job)).verdict in expected, code


@pytest.mark.parametrize(
    "answer",
    [
        "5",
        "({}, (), (), (), ())",
        "({'end': 'done'}, ([],), (), (), ())",
        "({'end': 'done'}, 5, 5, 5, 5)",
        "({'end': 'odd', 'reached': True, 'tests': {'run': 3, 'failed': 0}}, (), (), (), ())",
    ],
)
async def test_a_program_that_lies_about_itself_is_not_judged_further(sandbox: Sandbox, answer: str) -> None:
    code = f"""
        import gc
        host = next(item for item in gc.get_objects() if type(item).__name__ == "Host")
        encode = host.encode
        def lie(value, depth=0):
            host.encode = encode
            return encode({answer})
        host.encode = lie
        def f(): return 1
    """

    outcome = await judge(sandbox, dedent(code), "assert f() == 1")

    assert outcome.verdict is Verdict.INCOMPLETE


async def test_the_function_under_test_is_never_one_of_the_tests(sandbox: Sandbox) -> None:
    code = "def square(n): return 0\ndef reference(n): return 0\n"
    tests = "def reference(n): return n * n\ndef check(candidate):\n    assert candidate(2) == reference(2)\n"

    assert (await judge(sandbox, code, tests)).verdict is Verdict.FAILED


async def test_a_refusal_cannot_be_swallowed(sandbox: Sandbox) -> None:
    tests = "try:\n    f() == 1\nexcept BaseException:\n    pass\nassert g() == 1"
    code = "class A:\n    def __eq__(self, o): return True\ndef f(): return A()\ndef g(): return 1"

    with pytest.raises(Unsupported, match="__eq__"):
        await judge(sandbox, code, tests)


async def test_a_helper_that_program_and_tests_both_define_is_each_ones_own(sandbox: Sandbox) -> None:
    """As where a task gives one: HumanEval/32. One that only has its name may differ, and a liar gains nothing."""
    helper = "def double(x):\n    return 2 * x\n"
    code, tests = "def f(x): return double(x) + 1", "assert f(2) == double(2) + 1"

    judged = await judge(sandbox, f"# the same, laid out otherwise\n{helper}\n{code}", f"{helper}{tests}")
    liar = await judge(sandbox, f"{helper}\ndouble = lambda x: 9\n{code}", f"{helper}{tests}")

    assert (judged.verdict, liar.verdict) == (Verdict.PASSED, Verdict.FAILED)
    with pytest.raises(Unsupported, match="uses the name double"):
        await judge(sandbox, f"def double(x): return x + x\n{code}", f"{helper}{tests}")
    with pytest.raises(Unsupported, match="uses the name double"):
        await judge(sandbox, code, f"{helper}{tests}")


async def test_a_function_that_shadows_a_builtin_is_under_test_when_it_is_alone_or_named(sandbox: Sandbox) -> None:
    code = "def sum(a, b): return a + b\ndef max(a): return a[-1]\n"

    alone = await judge(sandbox, "def sum(a, b): return a + b", "assert sum(1, 2) == 3")
    named = await judge(sandbox, code, "def check(f):\n    assert f(1, 2) == 3 == max(1, 3)", entry_point="sum")

    assert (alone.verdict, named.verdict) == (Verdict.PASSED, Verdict.PASSED)


async def test_limits_hold_inside_a_call(sandbox: Sandbox) -> None:
    """The program's end is the program's verdict, whichever way it ends."""
    for body, verdict in {
        "while True: pass": Verdict.TIME_LIMIT,
        "return [0] * 10**9": Verdict.MEMORY_LIMIT,
        "while True: print('x' * 1000)": Verdict.OUTPUT_LIMIT,
        "import os; os._exit(0)": Verdict.INCOMPLETE,
        "import os; os.kill(os.getpid(), 11)": Verdict.KILLED,
        "import sys; sys.exit(0)": Verdict.INCOMPLETE,
        "import ctypes; ctypes.string_at(0)": Verdict.KILLED,
    }.items():
        outcome = await judge(sandbox, f"def f():\n    {body}", "assert f() == 1")
        assert outcome.verdict is verdict, f"{body}: {outcome}"


async def test_the_tests_have_limits_too(sandbox: Sandbox) -> None:
    outcome = await judge(sandbox, "def f(): return 1", "assert f() == 1\nwhile True: pass")

    assert outcome.verdict is Verdict.TIME_LIMIT


async def test_a_program_that_does_not_load_says_why(sandbox: Sandbox) -> None:
    broken = await judge(sandbox, "def f(:", "assert f() == 1")
    raising = await judge(sandbox, "x = 1\nraise KeyError('k')", "assert f() == 1")
    leaving = await judge(sandbox, "raise SystemExit(3)", "assert f() == 1")

    assert broken.verdict is Verdict.SYNTAX_ERROR
    assert (raising.verdict, raising.error and raising.error.type, raising.error and raising.error.line) == (
        Verdict.ERROR, "KeyError", 2,
    )  # fmt: skip
    assert leaving.verdict is Verdict.INCOMPLETE


async def test_output_input_and_files_are_the_programs(sandbox: Sandbox) -> None:
    code = (
        "import sys\nprint('loaded', sys.stdin.read(), open('data.txt').read())\n"
        "def f():\n    print('called')\n    return 1"
    )

    outcome = await judge(
        sandbox, code, "print('tested')\nassert f() == 1", stdin=b"given", files=(File("data.txt", b"here"),)
    )

    assert outcome.verdict is Verdict.PASSED
    assert sorted(outcome.stdout.split(b"\n")) == [b"", b"called", b"loaded given here", b"tested"]


async def test_a_failure_in_the_program_shows_its_own_traceback(sandbox: Sandbox) -> None:
    outcome = await judge(sandbox, "def g(): return 1 / 0\ndef f(): return g()", "x = 1\nassert f() == 1")

    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.line) == ("ZeroDivisionError", 1)
    assert "return 1 / 0" in outcome.error.traceback
    assert "selfalign" not in outcome.error.traceback


async def test_a_cancelled_judgement_leaves_both_slots_whole(sandbox: Sandbox) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(judge(sandbox, "def f():\n    while True: pass", "assert f() == 1"), 0.3)

    assert (await judge(sandbox, "def f(): return 1", "assert f() == 1")).verdict is Verdict.PASSED


async def test_many_judgements_at_once(sandbox: Sandbox) -> None:
    outcomes = await asyncio.gather(
        *(judge(sandbox, f"def f(): return {n}", f"assert f() == {n % 3}") for n in range(12))
    )

    assert [outcome.verdict is Verdict.PASSED for outcome in outcomes] == [n < 3 for n in range(12)]
