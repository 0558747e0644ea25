"""Section `[evaluate]` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

BenchmarkName = Literal[
    "humaneval",
    "humaneval+",
    "mbpp",
    "mbpp+",
    "cruxeval-i",
    "cruxeval-o",
    "ds-1000",
    "livecodebench-generation",
    "livecodebench-repair",
    "livecodebench-tests",
    "livecodebench-execution",
]
BENCHMARKS: tuple[str, ...] = get_args(BenchmarkName)


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """What `selfalign eval --recipe` scores after a training."""

    benchmark: BenchmarkName = "humaneval"
    """Which problems."""
    data: str = ""
    """File or folder; empty: the usual places."""
    data_version: str = ""
    """Take a file of another hash for this version; empty: only files that were published."""
    limit: int = 0
    """Only the first problems; 0 means all."""
    samples: int = 1
    """Of each problem; more than one needs a temperature."""
    temperature: float = 0.0
    """0: greedy."""
    max_tokens: int = 512
    """Longest answer."""
    check_ruler: bool = True
    """Score the benchmark's own solutions first: anything but all of them right means that no score can be trusted."""

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        if self.limit < 0 or self.samples < 1 or self.max_tokens < 1 or self.temperature < 0:
            raise ValueError("limit and temperature must not be negative, samples and max_tokens at least 1")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 need a temperature above 0: greedy samples are all the same")
