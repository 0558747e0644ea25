"""Rows per second that a build stores when the model answers at once: prompts, parsing, keys and commits, nothing else.

    python benchmarks/store_rows.py [--responses 20000] [--url postgresql://...] [--quick]

Every response is made, parsed and committed as in any build; a task stores its row before it draws the next one, so
that at most `--concurrency` rows share a commit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sqlite3
import tempfile
import time
from pathlib import Path

from generator.engines import Completion, CompletionRequest
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import ModelSettings, Recipe, SeedSettings, StageSettings
from generator.store import open_database
from sandbox_server.jobs import Isolation, Job, Limits, Outcome, RuntimeInfo, SandboxInfo, Usage, Verdict

SEED = '''
def add_{number}(values):
    """Return the sum of all the given values plus {number}."""
    return sum(values) + {number}
'''
INSTRUCTION = "Write a function `add(value)` that returns its argument plus {number}, an integer, for any integer."
RESPONSE = """#### Reasoning
{reasoning}

#### Implementation
```python
def add(value):
    \"\"\"Return value plus {number}.\"\"\"
    return value + {number}
```

#### Explanation
{reasoning}

#### Tests
```python
assert add(0) == {number}
assert add(-{number}) == 0
```
"""
REASONING = "The offset is a constant, so one addition is enough, and every integer is handled alike. " * 8
LIMITS = Limits(10_000, 5_000, 2**28, 16, 64, 2**24, 2**25, 2**16)
RUNTIME = RuntimeInfo("python", platform.python_version(), (), "none", warm=True)
ISOLATION = Isolation((), seccomp=False, cgroup="none", rootless=True)


class InstantModel:
    """Answers at once. The stage is told by what the prompt asks for."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, request: CompletionRequest) -> Completion:
        """Answer."""
        self.calls += 1
        heading = request.prompt.text.rpartition("### ")[2]
        if heading.startswith("Response"):
            return Completion(RESPONSE.format(number=self.calls, reasoning=REASONING), "stop", 900, 300)
        text = INSTRUCTION.format(number=self.calls) if heading.startswith("Instruction") else "sums, integers"
        return Completion(text, "stop", 900, 30)

    async def close(self) -> None:
        """Nothing is held."""


class InstantSandbox:
    """Passes everything at once: executions are stored like any other row.

    Args:
        wait_for: when set, what a program waits for; a build runs programs while it draws, and stages are timed apart.
    """

    def __init__(self, wait_for: asyncio.Event | None = None) -> None:
        self._wait_for = wait_for

    async def run(self, job: Job) -> Outcome:
        """Pass."""
        if self._wait_for is not None:
            await self._wait_for.wait()
        return Outcome(Verdict.PASSED, request_id=job.request_id, exit_code=0, usage=Usage(1.0, 1.0, 2**20))

    async def info(self) -> SandboxInfo:
        """Two slots."""
        return SandboxInfo("0", (RUNTIME,), LIMITS, LIMITS, slots=16, queue_size=0, isolation=ISOLATION)

    async def close(self) -> None:
        """Nothing is held."""


class Timed(Silent):
    """Notes when each stage began and ended.

    Args:
        side_by_side: whether programs run while responses are drawn, or wait for `drawn`.
    """

    def __init__(self, *, side_by_side: bool = False) -> None:
        self.side_by_side = side_by_side
        self.began: dict[str, float] = {}
        self.took_s: dict[str, float] = {}
        self.cpu_s: dict[str, float] = {}
        self.rows: dict[str, int] = {}
        self.drawn = asyncio.Event()

    def begin(self, stage: str, total: int | None) -> None:
        """Start the clock."""
        self.began[stage], self.rows[stage] = time.perf_counter(), 0
        self.cpu_s[stage] = -time.process_time()

    def advance(self, stage: str, rows: int = 1) -> None:
        """Count."""
        self.rows[stage] += rows

    def end(self, stage: str, summary: str) -> None:
        """Stop it; the programs' begins where the responses' ends."""
        now, cpu_s = time.perf_counter(), time.process_time()
        self.took_s[stage] = now - self.began[stage]
        self.cpu_s[stage] += cpu_s
        if stage == "responses" and not self.side_by_side:
            self.drawn.set()
            self.began["executions"], self.cpu_s["executions"] = now, -cpu_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--responses", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--url", default="", help="an empty database; default: SQLite in a temporary folder")
    parser.add_argument("--quick", action="store_true", help="2,000 responses: whether it runs, no figure")
    options = parser.parse_args()
    if options.quick:
        options.responses = 2000
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        for number in range(options.responses // options.samples):
            (seeds / f"add_{number}.py").write_text(SEED.format(number=number))
        recipe = Recipe(
            name="bench",
            model=ModelSettings("instant", mode="completion", concurrency=options.concurrency),
            seeds=SeedSettings(source="folder", path=str(seeds), licence="MIT"),
            responses=StageSettings(fewshots=1, samples=options.samples),
        )
        database = open_database(options.url or f"sqlite:///{folder}/bench.db", create=True)
        timed = Timed()
        sandbox = InstantSandbox(timed.drawn)
        report = asyncio.run(build(recipe, database, timed, engine=InstantModel(), sandbox=sandbox))
        again = time.perf_counter()
        second = asyncio.run(build(recipe, database, Silent(), engine=InstantModel(), sandbox=InstantSandbox()))
        again = time.perf_counter() - again
        backend = database.engine.dialect.name
        database.close()
    assert second.did_nothing, second
    assert report.snapshot is not None
    store = f"SQLite {sqlite3.sqlite_version}, WAL" if backend == "sqlite" else backend
    load = os.getloadavg()[0]
    machine = f"Python {platform.python_version()}; {os.cpu_count()} CPUs; load {load:.1f}"
    print(f"{store}; {options.concurrency} at a time; {machine}")
    for stage in ("concepts", "instructions", "responses", "executions"):
        rows, took_s = timed.rows[stage], timed.took_s[stage]
        cpu_s = timed.cpu_s[stage]
        print(
            f"{stage:<13}{rows:>8} rows {took_s:>8.2f} s {rows / took_s:>9.0f} rows/s {rows / cpu_s:>9.0f} rows/CPU s"
        )
    print(f"selection    {report.snapshot.judged:>8} rows {timed.took_s['selection']:>8.2f} s")
    print(f"second build: nothing to do, {again:.2f} s")


if __name__ == "__main__":
    main()
