"""How many programs a second the sandbox runs through gRPC, and the conditions under which it did.

python benchmarks/sandbox_cold.py [--runs N] [--in-flight N ...] [--address ADDRESS]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time

from sandbox_server.client import connect
from sandbox_server.jobs import Job, Verdict
from sandbox_server.sandbox import Sandbox

JOB = Job(code="def double(x):\n    return 2 * x\n", tests="assert double(21) == 42\nassert double('a') == 'aa'\n")


async def measure(sandbox: Sandbox, runs: int, in_flight: int) -> dict[str, float]:
    """Run the same small program `runs` times, `in_flight` at once.

    Returns:
        Runs a second, and the median and 99th percentile of what one call took, in ms.
    """
    took_ms: list[float] = []
    numbers = iter(range(runs))

    async def work() -> None:
        for _ in numbers:
            started = time.perf_counter()
            outcome = await sandbox.run(JOB)
            took_ms.append((time.perf_counter() - started) * 1000)
            if outcome.verdict is not Verdict.PASSED:
                raise SystemExit(f"a right program got {outcome}")

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    total_s = time.perf_counter() - started
    cuts = statistics.quantiles(took_ms, n=100)
    return {
        "in_flight": in_flight,
        "runs_per_s": round(runs / total_s, 1),
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
    }


async def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--address", default="embedded")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    async with connect(arguments.address) as sandbox:
        info = await sandbox.info()
        await measure(sandbox, min(arguments.runs, 20), 2)
        results = [await measure(sandbox, arguments.runs, in_flight) for in_flight in arguments.in_flight]
    json.dump(
        {
            "benchmark": "runs through gRPC, client and server on one machine",
            "results": results,
            "runs_each": arguments.runs,
            "warm": info.runtimes[0].warm,
            "slots": info.slots,
            "cgroup": info.isolation.cgroup,
            "processors": os.cpu_count(),
            "load_before": round(load_before, 2),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        sys.stdout,
        indent=2,
    )
    print()


if __name__ == "__main__":
    asyncio.run(main())
