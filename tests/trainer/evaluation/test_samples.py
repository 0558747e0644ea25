"""Samples files."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.evaluation.problems import Benchmark, Problem
from trainer.evaluation.samples import CanonicalSamples, FileSamples, SamplesUnfit
from trainer.evaluation.tests_check import Tests

ADD = Problem("T/add", "Add.", "def add(a, b):\n", "def add(a, b):\n    return a + b\n", Tests("assert add(1, 2) == 3"))
HALF = Problem("T/half", "Halve.", "", "half = lambda x: x / 2", Tests("assert half(2) == 1"))
TWO = Benchmark("two", "0", (ADD, HALF))
ONE = Benchmark("one", "0", (ADD,))


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


async def test_a_completion_continues_the_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", {"task_id": "T/add", "completion": "    return a + b\n"})

    sample = await FileSamples(path, ONE, ONE.problems).sample(ADD, 0)

    assert sample.code == "def add(a, b):\n    return a + b\n"
    assert sample.completion == "    return a + b\n"


async def test_a_solution_is_the_whole_program(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", {"task_id": "T/add", "solution": "add = int.__add__", "_identifier": "x"})

    assert (await FileSamples(path, ONE, ONE.problems).sample(ADD, 0)).code == "add = int.__add__"


def test_samples_of_one_task_are_counted_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [{"task_id": "T/add", "completion": str(number)} for number in range(3)]
    path = tmp_path / "s.jsonl.gz"
    path.write_bytes(gzip.compress(("\n\n".join(map(json.dumps, rows)) + "\n").encode()))

    assert FileSamples(path, ONE, ONE.problems).count(ADD) == 3


def test_only_the_problems_to_score_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", {"task_id": "T/add", "completion": ""})

    assert FileSamples(path, TWO, (ADD,)).count(ADD) == 1
    with pytest.raises(SamplesUnfit, match="no sample for 1 of the 2 problems of two: T/half"):
        FileSamples(path, TWO, TWO.problems)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "s.jsonl:1: not JSON"),
        ("[" * 100_000, "s.jsonl:1: not JSON"),
        ("[]", "s.jsonl:1: expected an object with a string `task_id`"),
        ('{"task_id": 3}', "expected an object with a string `task_id`"),
        ('{"task_id": "T/sub", "completion": ""}', r"unknown task_id 'T/sub'; this benchmark's look like 'T/add'"),
        ('{"task_id": "T/add"}', "expected one of `solution` and `completion`"),
        ('{"task_id": "T/add", "solution": "", "completion": ""}', "expected one of"),
        ('{"task_id": "T/add", "solution": null}', "expected one of"),
        ('{"task_id": "T/add", "solution": "\\ud800"}', "`solution` is not text"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "s.jsonl").write_text(line)

    with pytest.raises(SamplesUnfit, match=expected):
        FileSamples(tmp_path / "s.jsonl", ONE, ONE.problems)


def test_a_missing_file_an_empty_one_and_a_cut_one_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "cut.jsonl.gz").write_bytes(b"\x1f\x8b")

    with pytest.raises(SamplesUnfit, match=r"absent.jsonl: no such file"):
        FileSamples(tmp_path / "absent.jsonl", ONE, ONE.problems)
    with pytest.raises(SamplesUnfit, match="no sample for 1 of the 1 problems"):
        FileSamples(tmp_path / "empty.jsonl", ONE, ONE.problems)
    with pytest.raises(SamplesUnfit, match="cannot be read"):
        FileSamples(tmp_path / "cut.jsonl.gz", ONE, ONE.problems)


async def test_the_canonical_solutions_are_samples_too() -> None:
    assert (await CanonicalSamples().sample(ADD, 0)).code == ADD.solution
