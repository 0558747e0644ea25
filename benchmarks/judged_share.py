"""How much of a data set's tests the separate judge can judge, what it says otherwise than the default, what it costs.

Programs that pass are the reference solutions of HumanEval, MBPP and their plus versions (with every input, against the
reference itself), and all programs of a database that `selfalign build` made.

    python benchmarks/judged_share.py [--data FOLDER] [--database FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sqlite3
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sandbox_server.client import connect
from sandbox_server.errors import Unsupported
from sandbox_server.jobs import Job, Judge, LimitsRequest, Outcome
from sandbox_server.sandbox import Sandbox

ROOMY = LimitsRequest(wall_time_ms=120_000, cpu_time_ms=60_000, memory_bytes=2 << 30)
PLUS = """
import copy
_space = {{}}
exec({solution!r}, _space)
_reference = _space[{entry_point!r}]

def check(candidate):
    for given in {inputs!r}:
        try:
            expected = _reference(*copy.deepcopy(given))
        except Exception:
            continue
        assert candidate(*copy.deepcopy(given)) == expected
"""


def _rows(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        yield from map(json.loads, lines)


def jobs_of(data: Path) -> Iterator[tuple[str, list[Job]]]:
    """Name and jobs of every benchmark whose data is there."""
    if (path := data / "HumanEval.jsonl.gz").exists():
        yield (
            "HumanEval",
            [
                Job(
                    row["prompt"] + row["canonical_solution"], row["test"], entry_point=row["entry_point"], limits=ROOMY
                )
                for row in _rows(path)
            ],
        )
    if (path := data / "mbpp.jsonl").exists():
        yield (
            "MBPP",
            [
                Job(row["code"], "\n".join([row["test_setup_code"], *row["test_list"]]), limits=ROOMY)
                for row in _rows(path)
            ],
        )
    for path in sorted(data.glob("*Plus-*.jsonl.gz")):
        yield path.name.removesuffix(".jsonl.gz"), [_plus(row) for row in _rows(path)]


def _plus(row: dict) -> Job:
    solution = row["prompt"] + row["canonical_solution"]
    inputs = [*row["base_input"], *row["plus_input"]]
    tests = PLUS.format(solution=solution, entry_point=row["entry_point"], inputs=inputs)
    return Job(solution, tests, entry_point=row["entry_point"], limits=ROOMY)


def jobs_in(database: Path) -> list[Job]:
    """The programs with tests of a database."""
    rows = sqlite3.connect(f"file:{database}?mode=ro", uri=True).execute(
        "SELECT DISTINCT code, test_code FROM responses WHERE code IS NOT NULL AND test_code <> ''"
    )
    return [Job(code, tests) for code, tests in rows]


async def share(sandbox: Sandbox, name: str, jobs: list[Job]) -> None:
    """Run every job under both judges and print one line, and one for each difference."""

    async def both(job: Job) -> tuple[Outcome, Outcome | Unsupported]:
        same = await sandbox.run(job)
        try:
            return same, await sandbox.run(Job(job.code, job.tests, entry_point=job.entry_point, limits=job.limits,
                                               judge=Judge.SEPARATE))  # fmt: skip
        except Unsupported as error:
            return same, error

    pairs = await asyncio.gather(*map(both, jobs))
    judged = [(same, apart) for same, apart in pairs if isinstance(apart, Outcome)]
    differ = [(same.verdict, apart.verdict) for same, apart in judged if same.verdict is not apart.verdict]
    ratio = statistics.median(apart.usage.cpu_time_ms / same.usage.cpu_time_ms for same, apart in judged)
    print(
        f"{name}: {len(judged)} of {len(jobs)} judged ({len(judged) / len(jobs):.1%}), {len(differ)} verdicts differ, "
        f"{ratio:.1f} times the CPU time (median)"
    )
    for (before, after), count in Counter(differ).items():
        print(f"    {count} x {before} -> {after}")
    for reason, count in Counter(str(apart) for _, apart in pairs if isinstance(apart, Unsupported)).most_common(5):
        print(f"    {count} x {reason}")


async def main() -> None:
    """Measure what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--database", type=Path, default=Path("runs/demo.db"))
    arguments = parser.parse_args()
    async with connect("embedded") as sandbox:
        if arguments.database.exists():
            await share(sandbox, arguments.database.name, jobs_in(arguments.database))
        for name, jobs in jobs_of(arguments.data):
            await share(sandbox, name, jobs)


if __name__ == "__main__":
    asyncio.run(main())
