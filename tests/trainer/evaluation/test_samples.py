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
        ("[" * 100_000, "s.jsonl: not JSON"),
        ("3", "s.jsonl:1: expected an object with a string `task_id`"),
        ('{"task_id": 3}', "expected an object with a string `task_id`"),
        ('{"task_id": "T/sub", "completion": ""}', r"unknown task_id 'T/sub'; this benchmark's look like 'T/add'"),
        ('{"task_id": "T/add"}', "expected `solution` or `completion`, a string"),
        ('{"task_id": "T/add", "solution": null}', "expected `solution` or `completion`"),
        ('["add = max"]', r"expected an array of 1 arrays of programs, one for each problem, or JSON lines"),
        ('[["add = max"], []]', "s.jsonl: expected an array of 1 arrays"),
        ("[[3]]", "s.jsonl: T/add: expected an array of 1 arrays"),
        ('[["\\ud800"]]', "a program of T/add is not text"),
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


@pytest.mark.parametrize("form", ["\ufeff{}\r\n", "\r\n{}", "{}"])
async def test_a_solution_counts_where_a_completion_stands_too(tmp_path: Path, form: str) -> None:
    """As in evalplus; with Windows's marks and line ends, and packed whatever the name says."""
    row = json.dumps({"task_id": "T/add", "solution": "add = int.__add__", "completion": "pass"})
    (tmp_path / "s.jsonl").write_bytes(gzip.compress(form.format(row).encode()))

    assert (await FileSamples(tmp_path / "s.jsonl", ONE, ONE.problems).sample(ADD, 0)).code == "add = int.__add__"


async def test_generations_are_whole_programs_in_the_order_of_the_problems(tmp_path: Path) -> None:
    """The file of bigcode-evaluation-harness."""
    (tmp_path / "generations.json").write_text(json.dumps([["add = max", "add = int.__add__"], ["half = abs"]]))

    samples = FileSamples(tmp_path / "generations.json", TWO, TWO.problems)

    assert (samples.count(ADD), samples.count(HALF)) == (2, 1)
    assert (await samples.sample(ADD, 1)).code == "add = int.__add__"


def test_a_file_in_another_encoding_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_bytes('{"task_id": "T/add", "solution": ""}\r\n'.encode("utf-16"))

    with pytest.raises(SamplesUnfit, match=r"s.jsonl:1: not UTF-8"):
        FileSamples(tmp_path / "s.jsonl", ONE, ONE.problems)


async def test_the_canonical_solutions_are_samples_too() -> None:
    assert (await CanonicalSamples().sample(ADD, 0)).code == ADD.solution
