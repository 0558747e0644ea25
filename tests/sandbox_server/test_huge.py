"""The interpreter's code in huge pages, in an interpreter of its own as the jail's first process is."""

import ctypes
import json
import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import sandbox_server
from sandbox_server.jail import SandboxConfig, open_sandbox
from sandbox_server.jobs import Job, Verdict

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


HUGE_BYTES = 2 << 20


def has_one_free() -> bool:
    """Does the host give a huge page now? Memory may be in too small pieces."""
    with mmap.mmap(-1, 2 * HUGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.write(b"x" * len(memory))
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return any(
            int(line.split()[1])
            for line in Path("/proc/self/smaps").read_text().partition(f"{place:x}-")[2].splitlines()[:25]
            if line.startswith("AnonHugePages:")
        )


gives_huge_pages = pytest.mark.skipif(
    platform.machine() != "x86_64" or not POLICY.exists() or "[never]" in POLICY.read_text(),
    reason="code is moved where an x86_64 host gives huge pages",
)


@gives_huge_pages
def test_the_interpreters_code_is_moved_where_the_host_gives_huge_pages() -> None:
    assert any(move()[0] or not has_one_free() for _ in range(3))


def test_where_the_host_gives_no_huge_page_nothing_changes() -> None:
    no_huge_pages = "assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0  # PR_SET_THP_DISABLE"
    moved, again, huge_kb, _, answer = move(no_huge_pages)
    assert (moved, again, huge_kb) == (0, 0, 0)
    assert answer == ["cbt", "0.1428571428571428571428571429", "x = 1"]


@gives_huge_pages
@pytest.mark.nsjail
async def test_programs_run_code_in_huge_pages() -> None:
    of_no_file = ["r-xp", "00000000", "00:00", "0"]
    count = f"print(sum(line.split()[1:] == {of_no_file} for line in open('/proc/self/maps')))"
    for _ in range(3):
        sandbox = await open_sandbox(SandboxConfig(slots=1))
        try:
            outcome = await sandbox.run(Job(code=count))
        finally:
            await sandbox.close()
        assert outcome.verdict is Verdict.EXITED, outcome
        if outcome.stdout != b"0\n" or not has_one_free():
            return
    pytest.fail("no code in huge pages, though there were some")
