"""DS-1000 (xlangai/DS-1000): code with the libraries of data science, tested by code of its own.

A row's `code_context` defines `test_execution(solution)` and, for some, `test_string(solution)`; they raise when the
solution is wrong. It compares inside the interpreter in which the solution runs, so that the assurance is no more than
TESTS_COMPLETED, and it needs a runtime with the libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox_server.jobs import Job
from trainer.evaluation.calls import with_defaults
from trainer.evaluation.data import Source
from trainer.evaluation.problems import Bench, Problem, Scored
from trainer.evaluation.tests_check import details_of, run

_CPU_LIMIT_MS = 60_000  # libraries are loaded in it


@dataclass(frozen=True, slots=True)
class ContextTests:
    """The tests of a code context.

    Attributes:
        context: defines the test functions.
    """

    context: str

    async def score(self, code: str, name: str, bench: Bench) -> Scored:
        """Hand the solution's text to the test functions; see `Check.score`."""
        lines = [f"_solution = {code!r}", "assert test_execution(_solution) is None"]
        if "test_string(" in self.context:
            lines.append("assert test_string(_solution) is None")
        outcome = await run(
            Job(
                request_id=name,
                runtime=bench.runtime,
                code=self.context,
                tests="\n".join(lines) + "\n",
                limits=with_defaults(
                    bench.limits,
                    bench.info.maximum_limits,
                    cpu_time_ms=_CPU_LIMIT_MS,
                    wall_time_ms=5 * _CPU_LIMIT_MS,
                    memory_bytes=4 << 30,
                ),
            ),
            bench,
        )
        return Scored(outcome.verdict, details_of(outcome))


def _read(row: dict[str, Any], version: str) -> Problem:
    metadata = row["metadata"]
    return Problem(
        task_id=f"DS-1000/{metadata['problem_id']}",
        instruction=row["prompt"].strip(),
        prefix="",
        solution=row["reference_code"],
        check=ContextTests(row["code_context"]),
        text=f"{row['prompt']}\n{row['reference_code']}",
    )


DS_1000 = Source(
    files=("ds1000.jsonl", "ds1000.jsonl.gz", "test.jsonl"),
    read=_read,
    obtain="ds1000.jsonl.gz of github.com/xlang-ai/DS-1000, or test.jsonl of the hub's xlangai/DS-1000 (CC-BY-SA)",
)
