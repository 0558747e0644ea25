from __future__ import annotations

import pytest

from trainer.evaluation.tests_check import as_imported

GUARDED = """\
import sys

def double(x):
    return 2 * x

if __name__ == "__main__":
    n = int(input())
    sys.exit(double(n))

half = lambda x: x / 2
"""


def test_what_stands_under_a_main_guard_does_not_run() -> None:
    """Lines keep their numbers."""
    code = as_imported(GUARDED)
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec(code, namespace)
    assert {"double", "half"} <= namespace.keys()
    assert code.splitlines().index("half = lambda x: x / 2") == GUARDED.splitlines().index("half = lambda x: x / 2")


@pytest.mark.parametrize(
    "code",
    [
        "if __name__ == '__main__': main()",
        "text = '\\x0c'\r\nif '__main__' == __name__:\r\n    main()\r\n",
    ],
)
def test_however_it_is_written(code: str) -> None:
    exec(as_imported(code), {"__name__": "__main__"})


@pytest.mark.parametrize(
    "code",
    [
        "def main(): return '__main__'",
        "if __name__ == '__main__':\n    f = 1\nelse:\n    f = 2",
        "if __name__ == '__main__' and (",
        "'__main__'" + "(" * 10_000,
        "'__main__'\0",
        "if __name__ != '__main__':\n    f = 1",
    ],
)
def test_other_code_stays_as_it_is(code: str) -> None:
    assert as_imported(code) == code
