"""Programs to score: from a file, or the benchmark's own solutions. A model's come from `generation`."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer.evaluation.problems import Benchmark, Problem


class SamplesUnfit(Exception):
    """A samples file cannot be scored; the message names the file, the line and what was expected."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One attempt at one problem: what was written, and the program that is run."""

    completion: str
    code: str


class SampleSource(Protocol):
    """Where samples come from."""

    @property
    def subject(self) -> str:
        """The model, or the samples file, with what identifies its content."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """How samples are drawn from the subject: whatever else changes them; JSON-able."""
        ...

    @property
    def concurrency(self) -> int:
        """Samples that are best asked for at once; 0 where it makes no difference."""
        ...

    def count(self, problem: Problem) -> int:
        """Number of samples of a problem."""
        ...

    async def sample(self, problem: Problem, index: int) -> Sample:
        """The sample number `index`, from 0, of a problem."""
        ...


class FileSamples:
    """Samples of EvalPlus's JSONL: `task_id` with `solution` (a whole program) or `completion` (continues the prompt).

    Args:
        path: the file; gzip when it ends in ``.gz``.
        benchmark: whose tasks the file attempts.
        problems: those to score. Each must have a sample, so that a score always means the same.

    Raises:
        SamplesUnfit: unreadable, a malformed line, an unknown task, or a problem without a sample.
    """

    concurrency = 0

    def __init__(self, path: Path, benchmark: Benchmark, problems: Sequence[Problem]) -> None:
        try:
            raw = path.read_bytes()
            content = gzip.decompress(raw) if path.suffix == ".gz" else raw
        except FileNotFoundError:
            raise SamplesUnfit(f"{path}: no such file") from None
        except (OSError, EOFError, zlib.error) as error:
            raise SamplesUnfit(f"{path}: cannot be read: {error}") from error
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        self.subject = f"{path.name} (blake2b {digest})"
        self.parameters: dict[str, Any] = {}
        tasks = {problem.task_id: problem for problem in benchmark.problems}
        self._samples: defaultdict[str, list[Sample]] = defaultdict(list)
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                task_id, sample = _read_line(line, tasks, f"{path}:{number}")
                self._samples[task_id].append(sample)
        missing = [problem.task_id for problem in problems if problem.task_id not in self._samples]
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise SamplesUnfit(
                f"{path}: no sample for {len(missing)} of the {len(problems)} problems of {benchmark.name}: {shown}"
            )

    def count(self, problem: Problem) -> int:
        """Number of samples of a problem."""
        return len(self._samples[problem.task_id])

    async def sample(self, problem: Problem, index: int) -> Sample:
        """The sample number `index`, in the order of the file."""
        return self._samples[problem.task_id][index]


class CanonicalSamples:
    """The benchmark's own solutions: they check the ruler before it measures anything."""

    subject = "canonical solutions"
    concurrency = 0

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def count(self, problem: Problem) -> int:
        """One sample of each problem."""
        return 1

    async def sample(self, problem: Problem, index: int) -> Sample:
        """The published solution."""
        return Sample(completion=problem.solution, code=problem.solution)


def _read_line(line: bytes, tasks: dict[str, Problem], where: str) -> tuple[str, Sample]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SamplesUnfit(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("task_id"), str):
        raise SamplesUnfit(f"{where}: expected an object with a string `task_id`")
    task_id = row["task_id"]
    if task_id not in tasks:
        raise SamplesUnfit(f"{where}: unknown task_id {task_id!r}; this benchmark's look like {next(iter(tasks))!r}")
    given = [key for key in ("solution", "completion") if key in row]
    if len(given) != 1 or not isinstance(row[given[0]], str):
        raise SamplesUnfit(f"{where}: expected one of `solution` and `completion`, a string")
    text: str = row[given[0]]
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SamplesUnfit(f"{where}: `{given[0]}` is not text: it holds half of a surrogate pair") from None
    prefix = tasks[task_id].prefix if given[0] == "completion" else ""
    return task_id, Sample(completion=text, code=prefix + text)
