"""The benchmarks that can be scored, by name."""

from __future__ import annotations

from pathlib import Path

from trainer.evaluation.data import DataUnfit, Source, find_data
from trainer.evaluation.formats import livecodebench
from trainer.evaluation.formats.cruxeval import CRUXEVAL_I, CRUXEVAL_O
from trainer.evaluation.formats.ds1000 import DS_1000
from trainer.evaluation.formats.humaneval import HUMANEVAL, HUMANEVAL_PLUS
from trainer.evaluation.formats.mbpp import MBPP, MBPP_PLUS
from trainer.evaluation.problems import Benchmark

SOURCES: dict[str, Source] = {
    "humaneval": HUMANEVAL,
    "humaneval+": HUMANEVAL_PLUS,
    "mbpp": MBPP,
    "mbpp+": MBPP_PLUS,
    "cruxeval-i": CRUXEVAL_I,
    "cruxeval-o": CRUXEVAL_O,
    "ds-1000": DS_1000,
    "livecodebench-generation": livecodebench.GENERATION,
    "livecodebench-repair": livecodebench.GENERATION,
    "livecodebench-tests": livecodebench.TESTS,
    "livecodebench-execution": livecodebench.EXECUTION,
}

NAMES: tuple[str, ...] = tuple(SOURCES)


def load_benchmark(name: str, data: Path | None = None, version: str = "") -> Benchmark:
    """Load a benchmark and check that it is a version whose scores are published.

    Args:
        name: one of `NAMES`.
        data: the data file, or a folder that holds it. None: the usual places, see `data.find_data`.
        version: take another file for this version; the benchmark's own version then says so.

    Raises:
        DataUnfit: nothing found, unreadable, or another version.
    """
    source = SOURCES[name]
    content = find_data(name, source, data, version)
    problems = []
    for number, row in enumerate(content.rows(), start=1):
        try:
            problems.append(source.read(row, content.version))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            told = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise DataUnfit(f"{content.path}: row {number} is not one of {name}: {told}") from error
    seen: set[str] = set()
    for number, problem in enumerate(problems, start=1):
        if problem.task_id in seen:
            raise DataUnfit(f"{content.path}: row {number} has the task_id of an earlier one, {problem.task_id!r}")
        seen.add(problem.task_id)
    if not problems:
        raise DataUnfit(f"{content.path}: holds no problem; get {source.obtain}")
    label = content.version if content.published else f"{content.version}, another file"
    return Benchmark(name, content.md5, tuple(problems), label, source.parameters(content.version))
