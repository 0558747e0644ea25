"""What a benchmark asks or answers is found in a seed, and ordinary code is not."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from generator.benchmarks import BenchmarkIndex
from generator.prompts import examples
from generator.recipe import SeedSettings
from generator.records import SeedRecord
from generator.seeds import SEED_FILTERS, judge, seed_filters
from sandbox_server.settings import SettingsError

PROMPT = '''def running_total(numbers):
    """For a list of numbers return the list of all sums of its beginnings, the empty one left out,
    so that the last entry is the sum of the whole list.
    """
'''
SOLUTION = """    total, totals = 0, []
    for number in numbers:
        total += number
        totals.append(total)
    return totals
"""
MBPP = {
    "task_id": 7,
    "text": "Write a function that tells whether two words are made of the same letters.",
    "code": "x=1",
}
DATA = Path(os.environ.get("SELFALIGN_BENCHMARK_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    row = {"task_id": "Own/1", "prompt": PROMPT, "canonical_solution": SOLUTION}
    (tmp_path / "own.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(MBPP) + "\n\n")
    (tmp_path / "notes.txt").write_text("not read")
    return tmp_path


def record(code: str) -> SeedRecord:
    return SeedRecord("f", code, "Say what it does here.", "o", "1", "p", 1, "MIT", "")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PROMPT + SOLUTION, "description of own/Own/1"),
        (PROMPT.upper(), "description of own/Own/1"),
        ("def f(numbers):\n" + SOLUTION, "solution of own/Own/1"),
        ("def f(numbers):\n" + SOLUTION.replace("    ", "  ").replace("= 0, []", "=0,[]"), "solution of own/Own/1"),
        ('"""Tells whether two words are made of the same letters, or not."""', "description of mbpp/7"),
        ("x = 1", None),
        ("", None),
        ("def f(numbers):\n    total = 0\n    for number in numbers:\n        total += number\n    return total", None),
    ],
)
def test_problems_are_found_in_other_clothes(folder: Path, text: str, found: str | None) -> None:
    overlap = BenchmarkIndex(folder, "[seeds] benchmarks").find(text)
    assert (str(overlap).partition("of the ")[2] if overlap else None) == found


def test_the_filter_is_there_when_data_is_and_its_version_is_the_datas(folder: Path) -> None:
    settings = SeedSettings(benchmarks=str(folder))
    *rest, overlap = seed_filters(settings)
    assert tuple(rest) == SEED_FILTERS == seed_filters(SeedSettings())
    rejection = judge(record(PROMPT + SOLUTION), seed_filters(settings))
    assert rejection
    assert rejection.filter.name == "benchmark_overlap"
    assert rejection.reason == "holds 100% of the description of own/Own/1"
    (folder / "more.jsonl").write_text(json.dumps(MBPP | {"task_id": 8}))
    assert seed_filters(settings)[-1].version != overlap.version


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl", b"{", r"a\.jsonl cannot be read"),
        ("a.jsonl.gz", b"x", r"a\.jsonl\.gz cannot be read"),
        ("a.json", b'{"x": 1}', "no problem found"),
        ("a.txt", b"", "no problem found"),
    ],
)
def test_data_that_cannot_be_used_is_named(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SettingsError, match=rf"\[seeds\] benchmarks: .*{words}"):
        seed_filters(SeedSettings(benchmarks=str(tmp_path)))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[seeds\] benchmarks: expected a folder of benchmark files, got '.*no'"):
        seed_filters(SeedSettings(benchmarks=str(tmp_path / "no")))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the benchmarks' data: SELFALIGN_BENCHMARK_DATA")
def test_every_problem_of_every_split_is_found_and_no_example_of_ours_is_one() -> None:
    """HumanEval's 164 problems and at least 98 % of MBPP's 974, where the original looked at 120 of them."""
    index = BenchmarkIndex(DATA, "[seeds] benchmarks")
    humaneval = [json.loads(line) for line in gzip.decompress((DATA / "HumanEval.jsonl.gz").read_bytes()).splitlines()]
    assert all(index.find(row["prompt"] + row["canonical_solution"]) for row in humaneval)
    mbpp = [json.loads(line) for line in (DATA / "mbpp.jsonl").read_text().splitlines()]
    found = sum(index.find(f'"""{row["text"]}"""\n{row["code"]}') is not None for row in mbpp)
    assert found >= 0.98 * len(mbpp)
    for example in examples():
        for text in (example.seed, example.instruction, example.implementation):
            assert index.find(text) is None
