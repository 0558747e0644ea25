"""The interpreter's code in huge pages, in an interpreter of its own as the jail's first process is."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox_server

POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MOVE = """
import ctypes, json, sys
sys.path.append(sys.argv[1])
from guest import huge

def maps(path="/proc/self/maps"):
    with open(path) as lines:
        return lines.read()

BEFOREHAND
first, second = huge.move_code(), huge.move_code()
huge_kb, executable = 0, False
for words in map(str.split, maps("/proc/self/smaps").splitlines()):
    if not words[0].endswith(":"):
        executable = "x" in words[1]
    elif executable and words[0] == "AnonHugePages:":
        huge_kb += int(words[1])
writable = [line for line in maps().splitlines() if "wx" in line.split()[1]]
import ast, decimal, re  # code that was not used before, from the copy and from libraries
answer = [re.sub("a+", "b", "caat"), str(decimal.Decimal(1) / 7), ast.unparse(ast.parse("x=1"))]
print(json.dumps([first, second, huge_kb, writable, answer]))
"""


def move(beforehand: str = "") -> list[object]:
    program = MOVE.replace("BEFOREHAND", beforehand)
    folder = Path(sandbox_server.__file__).parent
    done = subprocess.run([sys.executable, "-I", "-c", program, folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: list[object] = json.loads(done.stdout)
    return answer


def test_code_that_was_moved_runs_on_and_cannot_be_written() -> None:
    moved, again, huge_kb, writable, answer = move()
    assert isinstance(moved, int)
    assert (again, huge_kb, writable) == (0, moved * 2048, [])
    assert answer == ["cbt", "0.1428571428571428571428571429", "x = 1"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="code is moved on x86_64 alone")
@pytest.mark.skipif(not POLICY.exists() or "[never]" in POLICY.read_text(), reason="this host gives no huge pages")
def test_the_interpreters_code_is_moved_where_the_host_gives_huge_pages() -> None:
    moved, *_ = move()
    assert moved


def test_where_the_host_gives_no_huge_page_nothing_changes() -> None:
    no_huge_pages = "assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0  # PR_SET_THP_DISABLE"
    moved, again, huge_kb, _, answer = move(no_huge_pages)
    assert (moved, again, huge_kb) == (0, 0, 0)
    assert answer == ["cbt", "0.1428571428571428571428571429", "x = 1"]
