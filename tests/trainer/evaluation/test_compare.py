"""Two evaluations side by side, and one shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from generator import store
from trainer.evaluation.cli import eval_command
from trainer.evaluation.rows import UNJUDGED, EvaluationRows, ScoredSample
from trainer.evaluation.run import add_up


def keep(
    database: store.Database, subject: str, rights: Mapping[str, Sequence[bool | None]], finish: bool = True
) -> str:
    rows = EvaluationRows(database, benchmark="humaneval", subject=subject, parameters={"data_version": "1.0"})
    samples = []
    for task_id, drawn in rights.items():
        for index, right in enumerate(drawn):
            details: dict[str, Any] = {} if right else {"first_failure": {"assertion": f"assert {task_id} == 1"}}
            verdict = "PASSED" if right else "FAILED"
            if right is None:
                verdict, details = UNJUDGED, {"reason": "they patch the program"}
            samples.append(ScoredSample(task_id, index, "pass", "pass", verdict, details))
            rows.add(samples[-1])
    if finish:
        rows.finish(add_up(samples))
    return rows.id


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"


def run(url: str, *arguments: str) -> Any:
    return CliRunner().invoke(eval_command, [*arguments, "--db", url])


def test_problems_that_could_not_be_judged_are_left_out(database: store.Database, url: str) -> None:
    first = keep(database, "old", {"T/0": [True], "T/1": [True]})
    second = keep(database, "new", {"T/0": [True], "T/1": [None]})

    text = run(url, "compare", first, second).output
    found = json.loads(run(url, "compare", first, second, "--json").output)
    shown = run(url, "show", second).output

    assert (found["problems"], found["unjudged"], found["lost"]) == (1, 1, [])
    assert "left out: 1 problems" in text
    assert "UNJUDGED: they patch the program" in shown


def test_what_changed_is_told_problem_by_problem(database: store.Database, url: str) -> None:
    first = keep(database, "old", {"T/0": [True], "T/1": [False], "T/2": [True]})
    second = keep(database, "new", {"T/0": [True], "T/1": [True], "T/2": [False]})

    text = run(url, "compare", first[:8], "last").output
    found = json.loads(run(url, "compare", first, second, "--json").output)

    assert "better in B: 1 of 3 problems\n  T/1  0% -> 100%" in text
    assert "worse in B: 1 of 3 problems\n  T/2  100% -> 0%" in text
    assert "B - A: +0.0 points of pass@1   95 % interval -78.4 to +78.4" in text
    assert "p = 1, no more than chance explains" in text
    assert (found["gained"][0]["task_id"], found["problems"], found["p_value"]) == ("T/1", 3, 1.0)


def test_shares_count_where_there_are_several_samples(database: store.Database, url: str) -> None:
    keep(database, "old", {"T/0": [True, False]})
    keep(database, "new", {"T/0": [True, True]})

    assert "T/0  50% -> 100%" in run(url, "compare", "last~1", "last").output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("compare", "last", "last~1"), "are not of the same problems: 1 are in one of them only, T/9 for example"),
        (("compare", "last", "last~2"), "is not finished"),
        (("show", "zzz"), "no evaluation 'zzz' in sqlite:///"),
        (("show", ""), "several evaluations begin with ''"),
        (("show", "last~x"), "expected last, or last~1"),
        (("show", "last~2", "--model-index", "m"), "is not finished, so it has no scores"),
    ],
)
def test_mistakes_get_one_line(database: store.Database, url: str, arguments: tuple[str, ...], expected: str) -> None:
    keep(database, "unfinished", {"T/0": [True]}, finish=False)
    keep(database, "small", {"T/0": [True]})
    keep(database, "large", {"T/0": [True], "T/9": [True]})

    result = run(url, *arguments)

    assert result.exit_code == 1
    assert expected in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_no_database_is_said(tmp_path: Path) -> None:
    result = run(f"sqlite:///{tmp_path}/absent.db", "show")

    assert (result.exit_code, "no database at" in result.output) == (1, True)


def test_an_evaluation_is_shown_problem_by_problem(database: store.Database, url: str) -> None:
    keep(database, "mine", {"T/0": [True, False], "T/10": [True, True]})

    text = run(url, "show").output
    samples = [json.loads(line) for line in run(url, "show", "--samples").output.splitlines()]
    document = json.loads(run(url, "show", "--json").output)

    assert "T/0   1/2  FAILED: assert T/0 == 1" in text
    assert "T/10  2/2\n" in text
    assert "pass@1         75.0%   95 % interval" in text
    assert samples[0] == {"task_id": "T/0", "solution": "pass"}
    assert len(document["samples"]) == 4


def test_the_model_index_is_yaml_that_hubs_read(database: store.Database, url: str) -> None:
    yaml = pytest.importorskip("yaml")
    keep(database, "mine", {"T/0": [True], "T/1": [False]})

    (entry,) = yaml.safe_load(run(url, "show", "--model-index", 'my "model"').output)["model-index"]

    assert entry["name"] == 'my "model"'
    (result,) = entry["results"]
    assert result["dataset"] == {"name": "HumanEval", "type": "openai_humaneval", "revision": "1.0"}
    assert result["metrics"] == [{"type": "pass@k", "name": "pass@1", "value": 0.5, "verified": False}]
