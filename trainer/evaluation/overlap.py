"""Decontamination report: what a snapshot of training pairs shares with a benchmark.

A pair and a problem overlap when they share a run of `WORDS` words, in the pair's instruction or response and in the
problem's task or solution: the n-gram overlap of the GPT-3 paper (arXiv 2005.14165, appendix C), which takes 13.
How much they share is told as the share of the problem's runs: 1 when the whole problem stands in the pair.

Words are runs of letters and digits in lower case, so that layout and punctuation change nothing. A run that stands in
`COMMON_PROBLEMS` problems or more is the benchmark's own manner of speech, and no overlap.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from generator.store import Database, Item, UnknownDataset, find_dataset, iter_items
from trainer.evaluation.problems import Problem

WORDS = 13
COMMON_PROBLEMS = 4

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Shared:
    """A pair and a problem that share text.

    Attributes:
        position: of the pair in the snapshot.
        response_id: of the pair's row.
        task_id: of the problem.
        runs: how many runs of words they share.
        share: of the problem's runs, in [0, 1]; 1 when the whole problem stands in the pair.
        example: the first run.
    """

    position: int
    response_id: str
    task_id: str
    runs: int
    share: float
    example: str


@dataclass(frozen=True, slots=True)
class OverlapReport:
    """What a snapshot shares with a benchmark.

    Attributes:
        dataset: name and version.
        pairs: size of the snapshot.
        problems: size of the benchmark.
        short_problems: problems of fewer than `WORDS` words, which no run can find.
        shared: pairs and problems that share a run, the greatest share first.
    """

    dataset: str
    pairs: int
    problems: int
    short_problems: int
    shared: tuple[Shared, ...]


def overlap(database: Database, dataset: str, problems: Sequence[Problem]) -> OverlapReport:
    """Compare every pair of a snapshot with every problem.

    Args:
        database: that holds the snapshot.
        dataset: its name, with ``@VERSION`` for another than the newest.
        problems: of the benchmark.

    Raises:
        UnknownDataset: there is no such snapshot.
    """
    runs_of = {problem.task_id: set(_runs(_words(problem.text))) for problem in problems}
    seen = Counter(run for runs in runs_of.values() for run in runs)
    index: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for task_id, runs in runs_of.items():
        for run in runs:
            if seen[run] < COMMON_PROBLEMS:
                index[run].append(task_id)
    name, _, version = dataset.partition("@")
    if version and not version.isdigit():
        raise UnknownDataset(f"{dataset}: expected NAME or NAME@VERSION, the version being a number")
    with database.reading() as session:
        row = find_dataset(session, name, int(version) if version else None)
        found = list(_search(iter_items(session.connection(), row.id, range(row.size)), index, runs_of))
    found.sort(key=lambda shared: (-shared.share, shared.position, shared.task_id))
    short = sum(1 for runs in runs_of.values() if not runs)
    return OverlapReport(f"{row.name}@{row.version}", row.size, len(problems), short, tuple(found))


def _search(
    items: Iterable[Item],
    index: dict[tuple[str, ...], list[str]],
    runs_of: dict[str, set[tuple[str, ...]]],
) -> Iterator[Shared]:
    for item in items:
        hits: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
        runs = {run: None for text in (item.instruction, item.response) for run in _runs(_words(text))}
        for run in runs:
            for task_id in index.get(run, ()):
                hits[task_id].append(run)
        for task_id, shared in hits.items():
            share = len(shared) / len(runs_of[task_id])
            yield Shared(item.position, item.response_id, task_id, len(shared), share, " ".join(shared[0]))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1))
