"""Checks of contest programs: functions that are called, and programs that read stdin and write stdout.

The rules of comparison are LiveCodeBench's; the expected outputs stay outside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from sandbox_server.jobs import Assurance, Job, Verdict
from trainer.evaluation import calls
from trainer.evaluation.evalplus import shorten
from trainer.evaluation.problems import Bench, Scored
from trainer.evaluation.tests_check import details_of, run

_CPU_LIMIT_MS = 6_000  # LiveCodeBench's, which it takes of the wall clock
_TASK_CPU_LIMIT_MS = 100_000
_ENTRY = "_selfalign_entry"

# What contest programs take for granted, as on the sites that they are written for.
_MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json",
)  # fmt: skip
PRELUDE = "\n".join(
    [
        *(f"from {module} import *" for module in [*_MODULES, "builtins", "typing"]),
        f"import {', '.join(_MODULES)}",
        "sys.setrecursionlimit(50000)",
        "",
    ]
)


@dataclass(frozen=True, slots=True)
class Functional:
    """A function (a method of `Solution`, if there is such a class) is called.

    Attributes:
        function: its name.
        inputs: arguments of each call.
        expected: the outputs, as JSON values.
    """

    function: str
    inputs: tuple[list[Any], ...]
    expected: tuple[Any, ...]

    async def score(self, code: str, name: str, bench: Bench) -> Scored:
        """Call it with every input; see `Check.score`."""
        entry = f"\n\n{_ENTRY} = Solution().{self.function} if 'Solution' in globals() else {self.function}\n"
        number = len(self.inputs)
        answers = await calls.call(
            PRELUDE + code + entry,
            calls.Calls(_ENTRY, calls.encode_inputs(self.inputs, typed=False), number, typed=False, base=number),
            cpu_limits_ms=[_CPU_LIMIT_MS] * number,
            task_cpu_limit_ms=min(_CPU_LIMIT_MS * (number + 1), _TASK_CPU_LIMIT_MS),
            limits=bench.limits,
            sandbox=bench.sandbox,
            info=bench.info,
            runtime=bench.runtime,
            name=name,
        )
        details = details_of(answers.outcome) | {"assurance": Assurance.TESTS_JUDGED.value, "inputs": number}
        for index, (line, expected) in enumerate(zip(answers.values, self.expected, strict=False)):
            try:
                output = calls.decode_value(line)
            except calls.Unreadable:
                output = calls.Opaque("unreadable")
            if (list(output) if isinstance(output, tuple) else output) != expected:
                details["first_failure"] = {
                    "input": index,
                    "arguments": shorten(self.inputs[index]),
                    "expected": shorten(expected),
                    "output": shorten(output),
                }
                return Scored(Verdict.FAILED, details)
        if answers.stopped is not None:
            return Scored(answers.stopped, details | {"error": answers.error, "stopped_at_input": len(answers.values)})
        return Scored(Verdict.PASSED, details)


@dataclass(frozen=True, slots=True)
class StandardIO:
    """A program reads an input and writes an output; each pair is a run of its own.

    Attributes:
        cases: (stdin, expected stdout) of each.
    """

    cases: tuple[tuple[str, str], ...]

    async def score(self, code: str, name: str, bench: Bench) -> Scored:
        """Run it on each input, until one output is wrong; see `Check.score`."""
        details: dict[str, Any] = {}
        limits = calls.with_defaults(
            bench.limits,
            bench.info.maximum_limits,
            cpu_time_ms=_CPU_LIMIT_MS,
            wall_time_ms=6 * _CPU_LIMIT_MS,
            memory_bytes=1 << 30,
            output_bytes=16 << 20,
        )
        for index, (stdin, expected) in enumerate(self.cases):
            outcome = await run(
                Job(
                    request_id=f"{name}@{index}",
                    runtime=bench.runtime,
                    code=PRELUDE + code,
                    stdin=stdin.encode("utf-8", "surrogatepass"),
                    limits=limits,
                ),
                bench,
            )
            details = details_of(outcome) | {"assurance": Assurance.TESTS_JUDGED.value, "inputs": len(self.cases)}
            if outcome.verdict is not Verdict.EXITED:
                return Scored(outcome.verdict, details | {"stopped_at_input": index})
            output = outcome.stdout.decode("utf-8", "replace")
            if not same_output(output, expected):
                details["first_failure"] = {
                    "input": index,
                    "arguments": shorten(stdin),
                    "expected": shorten(expected),
                    "output": shorten(output),
                }
                return Scored(Verdict.FAILED, details)
        return Scored(Verdict.PASSED, details)


def same_output(output: str, expected: str) -> bool:
    """Whether two outputs have the same lines, without space at their ends; lines of numbers as exact decimals."""
    lines, wanted = ([line.strip() for line in text.strip().split("\n")] for text in (output, expected))
    if len(lines) != len(wanted):
        return False
    return all(a == b or _same_numbers(a, b) for a, b in zip(lines, wanted, strict=True))


def _same_numbers(a: str, b: str) -> bool:
    try:
        return [Decimal(word) for word in a.split()] == [Decimal(word) for word in b.split()]
    except InvalidOperation:
        return False


def json_arguments(text: str) -> list[Any]:
    """The arguments of a functional test case: a JSON value on each line."""
    return [json.loads(line) for line in text.split("\n")]
