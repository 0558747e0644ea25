"""Checks by a reference program: the same inputs, and the outputs must be the same by EvalPlus's rules.

The reference runs in the sandbox once, its outputs are kept on disk, and they are compared with a program's here,
outside: the program meets the inputs only.

Time is CPU time. A call may take `_CALL_FACTOR` times what the reference took, and never less than `_CALL_LEAST_MS`; a
whole program the same with `_TASK_LEAST_MS`. A loaded machine makes a program wait, but not compute longer.
"""

from __future__ import annotations

import asyncio
import bisect
import hashlib
import itertools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox_server.jobs import Assurance, LimitsRequest, SandboxInfo, Verdict
from sandbox_server.sandbox import Sandbox
from trainer.evaluation import calls
from trainer.evaluation.evalplus import Mismatch, Rules, first_mismatch, floats_from, kinds_of
from trainer.evaluation.problems import Bench, Scored
from trainer.evaluation.tests_check import details_of

_CALL_LEAST_MS, _CALL_FACTOR = 1_000, 4  # evalplus's default figures, which it takes of the wall clock
_TASK_LEAST_MS = 10_000
_REFERENCE_MS = 100_000
_PAUSE_AFTER_MS = 100  # most wrong programs are found out by what they answer in this time
_LOOK_AFTER_US, _LOOK_WORTH = 20_000, 25  # it is computed twice, so what follows must be so many times as long

CACHE_VARIABLE = "SELFALIGN_REFERENCE_CACHE"


class ReferenceBroken(Exception):
    """A reference program does not answer its own inputs here, so that its task cannot be scored."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Outputs of a reference program.

    Attributes:
        values: lines, as `calls.Answers.values`.
        cpu_time_us: of each call.
        kinds: see `evalplus.kinds_of`.
    """

    values: tuple[bytes, ...]
    cpu_time_us: tuple[int, ...]
    kinds: str


@dataclass(frozen=True, slots=True, eq=False)
class SameOutputs:
    """The outputs must be the reference's.

    Attributes:
        reference: the whole program.
        entry_point: name of the function.
        inputs: arguments of each call, the original benchmark's first.
        base: number of the original benchmark's.
        atol: absolute tolerance; 0 for none.
        rules: how outputs compare.
        typed: some inputs are of types that JSON does not have.
    """

    reference: str
    entry_point: str
    inputs: tuple[list[Any], ...]
    base: int
    atol: float
    rules: Rules
    typed: bool = False

    async def score(self, code: str, name: str, bench: Bench) -> Scored:
        """Run the program on all inputs; see `Check.score`. `details["base"]` is the verdict on the original's."""
        prepared = await bench.references.of(self)
        answers = await self._call(
            code, prepared, name, bench, pause_after_ms=_PAUSE_AFTER_MS, pause_at=_first_look(prepared.expected)
        )
        if answers.paused:
            scored = self._judge(answers, prepared, len(answers.values))
            if scored.verdict is not Verdict.PASSED:
                return scored
            answers = await self._call(code, prepared, name, bench)
        return self._judge(answers, prepared, len(self.inputs))

    async def _call(
        self, code: str, prepared: Prepared, name: str, bench: Bench, *, pause_after_ms: int = 0, pause_at: int = 0
    ) -> calls.Answers:
        used_us = prepared.expected.cpu_time_us
        return await calls.call(
            code,
            prepared.wanted,
            cpu_limits_ms=[max(_CALL_LEAST_MS, _CALL_FACTOR * used // 1000) for used in used_us],
            task_cpu_limit_ms=_TASK_LEAST_MS + _CALL_FACTOR * sum(used_us) // 1000,
            limits=bench.limits,
            sandbox=bench.sandbox,
            info=bench.info,
            runtime=bench.runtime,
            name=name,
            pause_after_ms=pause_after_ms,
            pause_at=pause_at,
        )

    def _judge(self, answers: calls.Answers, prepared: Prepared, number: int) -> Scored:
        """Verdict on the first `number` inputs."""
        base = whole = self._part(answers, prepared, 0, number)
        if base[0] is Verdict.PASSED:
            whole = self._part(answers, prepared, 1, number)
        details = details_of(answers.outcome) | {
            "assurance": Assurance.TESTS_JUDGED.value,
            "base": base[0].value,
            "inputs": number,
            "outputs": len(answers.values),
        }
        verdict, mismatch = whole
        if mismatch is not None:
            details["first_failure"] = {
                "input": mismatch.index,
                "arguments": _shorten(self.inputs[mismatch.index]),
                "expected": mismatch.expected,
                "output": mismatch.output,
            }
        elif verdict is not Verdict.PASSED:
            details["stopped_at_input"] = len(answers.values) if answers.loaded else None
            details["error"] = answers.error
        return Scored(verdict, details)

    def parts(self) -> tuple[slice, slice]:
        """The original benchmark's inputs, and the others; tolerance and order are of a part, as in evalplus."""
        return slice(0, self.base), slice(self.base, len(self.inputs))

    def _part(
        self, answers: calls.Answers, prepared: Prepared, which: int, number: int
    ) -> tuple[Verdict, Mismatch | None]:
        part = self.parts()[which]
        given = answers.values[part]
        stop = part.start + len(given)
        mismatch = first_mismatch(
            self.rules,
            self.entry_point,
            self.atol,
            self.inputs[part.start : stop],
            prepared.expected.values[part.start : stop],
            given,
            floats_at=prepared.floats_at[which],
        )
        if mismatch is not None:
            return Verdict.FAILED, Mismatch(part.start + mismatch.index, mismatch.expected, mismatch.output)
        if not answers.loaded or stop < min(part.stop, number):
            return answers.stopped or Verdict.INCOMPLETE, None
        return Verdict.PASSED, None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A check's inputs as they are sent, the outputs expected, and for each part `evalplus.floats_from`."""

    wanted: calls.Calls
    expected: Expected
    floats_at: tuple[int, ...]


class References:
    """Outputs of reference programs: computed in the sandbox when first needed, and kept in a folder.

    Args:
        sandbox: where references run.
        info: what it can do.
        runtime: whose fingerprint is part of the key.
        folder: of the kept outputs; None for the user's cache.
    """

    def __init__(self, sandbox: Sandbox, info: SandboxInfo, runtime: str, folder: Path | None = None) -> None:
        self._sandbox = sandbox
        self._info = info
        self._runtime = runtime
        self._fingerprint = next(one.fingerprint for one in info.runtimes if one.name == runtime)
        self._folder = folder or default_folder()
        self._prepared: dict[SameOutputs, Prepared] = {}
        self._encoded: dict[SameOutputs, tuple[calls.Calls, Path]] = {}
        self._locks: dict[SameOutputs, asyncio.Lock] = {}

    async def of(self, check: SameOutputs) -> Prepared:
        """What `check` needs; several samples of a task that ask at once wait for one run.

        Raises:
            ReferenceBroken: the reference fails on its own inputs.
        """
        lock = self._locks.setdefault(check, asyncio.Lock())
        async with lock:
            if check not in self._prepared:
                self._prepared[check] = await self._prepare(check)
            return self._prepared[check]

    def known_cost_us(self, check: object) -> int:
        """CPU time that the reference of a check took when it ran; 0 where none ran yet, or there is none."""
        if not isinstance(check, SameOutputs):
            return 0
        try:
            with self._place(check)[1].open("rb") as file:
                return sum(json.loads(file.readline())["cpu_time_us"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _place(self, check: SameOutputs) -> tuple[calls.Calls, Path]:
        """The inputs as they are sent, and where the outputs are kept."""
        if check not in self._encoded:
            inputs = calls.encode_inputs(check.inputs, typed=check.typed)
            key = hashlib.sha256()
            for part in (self._fingerprint, calls.VERSION, check.reference, check.entry_point, str(check.typed)):
                key.update(part.encode() + b"\0")
            key.update(inputs)
            wanted = calls.Calls(check.entry_point, inputs, len(check.inputs), check.typed, check.base)
            self._encoded[check] = wanted, self._folder / f"{key.hexdigest()[:32]}.jsonl"
        return self._encoded[check]

    async def _prepare(self, check: SameOutputs) -> Prepared:
        wanted, path = self._place(check)
        expected = _read(path, wanted.number)
        if expected is None:
            expected = await self._compute(check, wanted)
            _write(path, expected)
        floats_at = tuple(floats_from(check.rules, expected.kinds[part]) for part in check.parts())
        return Prepared(wanted, expected, floats_at)

    async def _compute(self, check: SameOutputs, wanted: calls.Calls) -> Expected:
        answers = await calls.call(
            check.reference,
            wanted,
            cpu_limits_ms=[_REFERENCE_MS] * wanted.number,
            task_cpu_limit_ms=_REFERENCE_MS,
            limits=LimitsRequest(),
            sandbox=self._sandbox,
            info=self._info,
            runtime=self._runtime,
            name=f"reference of {check.entry_point}",
        )
        if answers.stopped is not None or len(answers.cpu_time_us) != wanted.number:
            told = (answers.error or {}).get("message") or answers.outcome.verdict.value
            raise ReferenceBroken(
                f"the reference program of {check.entry_point} answers {len(answers.values)} of its {wanted.number} "
                f"inputs here ({told}), so no sample of it can be scored: check the sandbox with "
                "`selfalign sandbox check` and its greatest limits"
            )
        return Expected(answers.values, answers.cpu_time_us, kinds_of(answers.values))


def _first_look(expected: Expected) -> int:
    """After how many calls to look whether the program is right so far; 0 where waiting for the rest costs little."""
    spent = list(itertools.accumulate(expected.cpu_time_us))
    first = bisect.bisect_right(spent, _LOOK_AFTER_US)
    return first if first and spent[-1] > _LOOK_WORTH * _LOOK_AFTER_US else 0


def default_folder() -> Path:
    """Where outputs are kept when nobody says: below the user's cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfalign" / "references"


def _read(path: Path, number: int) -> Expected | None:
    """The kept outputs; None when there are none, or not these."""
    try:
        head, *lines = path.read_bytes().split(b"\n")
        facts = json.loads(head)
        expected = Expected(tuple(lines), tuple(map(int, facts["cpu_time_us"])), str(facts["kinds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = len(expected.values) == len(expected.cpu_time_us) == len(expected.kinds) == number
    return expected if whole else None


def _write(path: Path, expected: Expected) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"cpu_time_us": expected.cpu_time_us, "kinds": expected.kinds}).encode()
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(b"\n".join([head, *expected.values]))
    Path(file.name).replace(path)


def _shorten(arguments: list[Any]) -> str:
    text = ", ".join(repr(argument) for argument in arguments)
    return text if len(text) <= 300 else f"{text[:147]} ... {text[-147:]}"
