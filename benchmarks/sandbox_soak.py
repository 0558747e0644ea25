"""Many runs on one server: does throughput fall, does memory grow, does anything pile up?

    python benchmarks/sandbox_soak.py [--runs 200000] [--json FILE]

After each slice it notes runs a second, the memory of the server with all its jails (proportional set size, so that
shared pages count once), and how many descriptors and control groups there are. The status is 1 when the last quarter
of the slices does 10 % fewer runs a second than the second one, or holds 10 % more memory.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from sandbox_server.client import connect
from sandbox_server.jobs import Job, Verdict
from sandbox_server.sandbox import Sandbox

# Right, wrong, broken, loud, hungry: what a day of candidates is made of.
JOBS = (
    (Job(code="def f(x):\n    return x + 1\n", tests="assert f(1) == 2\nassert f(-1) == 0\n"), Verdict.PASSED),
    (Job(code="import math\ndef f(x):\n    return math.sqrt(x)\n", tests="assert f(4) == 2\n"), Verdict.PASSED),
    (Job(code="def f(x):\n    return x\n", tests="assert f(1) == 2\n"), Verdict.FAILED),
    (Job(code="def f(x):\n    return 1 / 0\n", tests="assert f(1) == 2\n"), Verdict.ERROR),
    (Job(code="def f(x:\n", tests="assert f(1) == 2\n"), Verdict.SYNTAX_ERROR),
    (Job(code="print('x' * 50_000)\nopen('out', 'w').write('y' * 50_000)\n"), Verdict.EXITED),
    (Job(code="data = bytearray(8 << 20)\n", tests="assert len(data) == 8 << 20\n"), Verdict.PASSED),
    (Job(code="import sys\nsys.exit(0)\n", tests="assert False\n"), Verdict.INCOMPLETE),
)


async def slice_of(sandbox: Sandbox, runs: int, in_flight: int) -> float:
    """Run `runs` programs; answers runs a second."""
    work = itertools.islice(itertools.cycle(JOBS), runs)

    async def take() -> None:
        for job, verdict in work:
            outcome = await sandbox.run(job)
            if outcome.verdict is not verdict:
                raise SystemExit(f"expected {verdict}, got {outcome}")

    started = time.perf_counter()
    await asyncio.gather(*(take() for _ in range(in_flight)))
    return runs / (time.perf_counter() - started)


def server_state(server: int) -> dict[str, float]:
    """Memory, processes, descriptors and control groups of the server and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    tree = [server]
    for pid in tree:
        tree.extend(children.get(pid, ()))
    memory_kib = 0
    for pid in tree:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        memory_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return {
        "memory_mib": round(memory_kib / 1024, 1),
        "processes": len(tree),
        "descriptors": len(os.listdir(f"/proc/{server}/fd")),  # noqa: PTH208
        "control_groups": sum(1 for _ in Path("/sys/fs/cgroup").glob("**/selfalign-*")),
    }


def server_pid() -> int:
    """The embedded server: this process's child that serves."""
    for line in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        if b"sandbox_server" in Path(f"/proc/{line}/cmdline").read_bytes():
            return int(line)
    raise SystemExit("the embedded server is not this process's child")


async def soak(runs: int, slices: int, in_flight: int) -> dict[str, Any]:
    """Run all slices; answers the rows."""
    rows = []
    async with connect("embedded") as sandbox:
        pid = server_pid()
        info = await sandbox.info()
        for number in range(slices):
            rate = await slice_of(sandbox, runs // slices, in_flight)
            rows.append({"runs": (number + 1) * (runs // slices), "runs_per_s": round(rate, 1), **server_state(pid)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    quarter = max(1, slices // 4)
    early, late = rows[quarter : 2 * quarter] or rows[:1], rows[-quarter:]
    change = {
        key: round(statistics.median(row[key] for row in late) / statistics.median(row[key] for row in early) - 1, 4)
        for key in ("runs_per_s", "memory_mib")
    }
    return {
        "runs": rows[-1]["runs"],
        "in_flight": in_flight,
        "slots": info.slots,
        "cgroup": info.isolation.cgroup,
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "change_from_second_to_last_quarter": change,
        "slices": rows,
    }


def main() -> None:
    """Soak, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(soak(arguments.runs, arguments.slices, arguments.in_flight))
    text = json.dumps(result, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    print(text)
    change = result["change_from_second_to_last_quarter"]
    sys.exit(change["runs_per_s"] < -0.1 or change["memory_mib"] > 0.1)


if __name__ == "__main__":
    main()
