from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from click.testing import CliRunner, Result
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from generator import models
from generator.recipe import load_recipe
from generator.store import open_database
from trainer.cli import train_command
from trainer.config import train_settings
from trainer.dataset import PairSource
from trainer.loop import StepTrainer
from trainer.train import TrainResult, out_of_memory_advice, train, training_arguments

pytestmark = pytest.mark.train

WriteRecipe = Callable[..., Path]
TINY_MODEL: dict[str, Any] = {"kind": "new", "vocabulary": 320, "layers": 2, "heads": 2}


def run(recipe_file: Path, url: str, output: Path, **options: Any) -> TrainResult:
    """Train in this process."""
    recipe = load_recipe(recipe_file)
    settings = train_settings(recipe.train, "[train]", recipe.seed)
    return train(recipe, settings, url=url, output=output, **options)


def command(*arguments: object) -> Result:
    """`selfalign train` with `arguments`."""
    return CliRunner().invoke(train_command, [str(argument) for argument in arguments])


def losses(output: Path) -> list[float]:
    """Of every step."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def training_row(url: str) -> models.Training:
    database = open_database(url)
    with database.reading() as session:
        row = session.query(models.Training).one()
    database.close()
    return row


# The whole way


def test_a_recipe_becomes_a_checkpoint_that_transformers_loads(
    url: str, dataset_id: str, recipe_file: WriteRecipe, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    result = command("--recipe", recipe_file(), "--db", url, "--output", output)
    assert result.exit_code == 0, result.output
    assert f"tiny v1: 22 pairs; checkpoint in {output}" in result.output
    assert "11 steps, loss 5." in result.output
    model = AutoModelForCausalLM.from_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(output)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Add."}], add_generation_prompt=True)["input_ids"]
    assert model(torch.tensor([ids])).logits.shape == (1, len(ids), len(tokenizer))
    row = training_row(url)
    assert (row.status, row.dataset_id, row.output) == ("finished", dataset_id, str(output))
    assert row.metrics is not None
    assert row.metrics["steps"] == 11
    assert row.metrics["last_loss"] < row.metrics["first_loss"]
    assert row.metrics["tokens"] == 2 * row.metrics["data"]["tokens_per_epoch"]
    card = (output / "README.md").read_text()
    assert "22 pairs" in card
    assert "MIT (22 pairs)" in card


def test_a_finished_run_is_not_run_again(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    recipe, output = recipe_file(max_steps=2), tmp_path / "model"
    first = run(recipe, url, output)
    weights = (output / "model.safetensors").stat().st_mtime_ns
    again = command("--recipe", recipe, "--db", url, "--output", output)
    assert again.exit_code == 0
    assert "trained before, nothing to do" in again.output
    assert (output / "model.safetensors").stat().st_mtime_ns == weights
    assert training_row(url).metrics == first.metrics


def test_the_whole_effective_config_is_stored(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    run(recipe_file(max_steps=1), url, tmp_path / "model")
    database = open_database(url)
    with database.reading() as session:
        recipe = session.get_one(models.Recipe, training_row(url).recipe_id)
    database.close()
    assert recipe.stage == "train"
    assert recipe.parameters["dataset"] == "tiny@1"
    assert recipe.parameters["train"]["max_steps"] == 1
    assert recipe.parameters["train"]["warmup"] == 0.05


# Nothing changes the result that should not


def test_packing_and_accumulation_change_nothing_but_the_speed(
    url: str, recipe_file: WriteRecipe, tmp_path: Path
) -> None:
    """One pair a pass, packed passes, and the whole batch in one pass: the same losses up to rounding."""
    variants = {"alone": {"packing": False}, "packed": {"packing": True}, "whole": {"pack_tokens": 4096}}
    found = {}
    for name, changes in variants.items():
        run(recipe_file(max_steps=6, optimizer="adamw", **changes), url, tmp_path / name)
        found[name] = losses(tmp_path / name)
    assert found["packed"] == pytest.approx(found["alone"], abs=2e-5)
    assert found["whole"] == pytest.approx(found["alone"], abs=2e-5)


def test_gradient_checkpointing_changes_no_loss(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    run(recipe_file(max_steps=3), url, tmp_path / "plain")
    run(recipe_file(max_steps=3, gradient_checkpointing=True), url, tmp_path / "checkpointed")
    assert losses(tmp_path / "checkpointed") == pytest.approx(losses(tmp_path / "plain"), abs=1e-6)


# Stopped and resumed


def test_a_killed_run_goes_on_bit_for_bit_and_reads_only_what_remains(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at whatever step it is; the rows before the last checkpoint are not read again."""
    recipe = recipe_file(save_steps=3, epochs=12, optimizer="adamw")
    arguments = ["--recipe", str(recipe), "--db", url]
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "selfalign", "train", *arguments, "--output", str(killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as many as this process: sums are added in the same order
        cwd=Path(__file__).parents[2],
    )
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint-9" / "trainer_state.json").exists():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert training_row(url).status == "running"

    read: list[int] = []
    fetch = PairSource.fetch

    def counting(self: PairSource, positions: Any) -> Any:
        read.extend(positions)
        return fetch(self, positions)

    monkeypatch.setattr(PairSource, "fetch", counting)
    said: list[str] = []
    result = run(recipe, url, killed, say=said.append)
    resumed_at = int(next(line for line in said if line.startswith("going on")).rsplit("-", 1)[1])
    assert resumed_at >= 9
    assert len(read) == 12 * 22 - 4 * resumed_at
    assert training_row(url).status == "finished"

    whole = tmp_path / "whole"
    assert run(recipe, url, whole).metrics["steps"] == result.metrics["steps"] == 66
    assert losses(killed) == losses(whole)
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_run_that_goes_on_may_log_less_often(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint's own number is for the session that wrote it."""
    step = StepTrainer.training_step

    def stop(self: StepTrainer, *args: Any) -> torch.Tensor:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(StepTrainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(recipe_file(max_steps=9, save_steps=2), url, tmp_path / "m")
    monkeypatch.undo()
    run(recipe_file(max_steps=9, save_steps=2, log_steps=4), url, tmp_path / "m")
    history = json.loads((tmp_path / "m" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 4, 8, 9]


def test_a_checkpoint_that_was_cut_short_is_not_resumed_from(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers writes `trainer_state.json` last; a folder without a whole one counts for nothing."""
    recipe, output = recipe_file(save_steps=2, max_steps=7), tmp_path / "model"
    run(recipe, url, output)
    before = losses(output)
    described = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps({**described, "metrics": None}))
    (output / "checkpoint-6" / "trainer_state.json").write_text('{"global_')
    said: list[str] = []
    run(recipe, url, output, say=said.append)
    assert "going on from checkpoint-4" in said
    assert losses(output) == before


def test_an_interrupted_run_says_so_in_its_row(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.train.build_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(recipe_file(), url, tmp_path / "model")
    row = training_row(url)
    assert (row.status, row.metrics) == ("failed", {"error": "interrupted"})

    arguments = ("--recipe", recipe_file(), "--db", url, "--output", tmp_path / "model")
    told = command(*arguments)
    assert told.exit_code == 130
    assert told.stderr.endswith("stopped; the same command goes on from the last checkpoint\n")

    seen: list[tuple[str, Any]] = []

    def terminate(*_: Any) -> None:
        seen.append((training_row(url).status, training_row(url).metrics))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("trainer.train.build_model", terminate)
    before = signal.getsignal(signal.SIGTERM)
    told = command(*arguments)
    assert seen == [("running", None)]  # what was told of the last attempt is over
    assert told.exit_code == 128 + signal.SIGTERM
    assert (training_row(url).status, signal.getsignal(signal.SIGTERM)) == ("failed", before)


# What is held out, adapters, precision


def test_what_is_held_out_is_scored_each_epoch(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    result = run(recipe_file(evaluation_fraction=0.3, learning_rate=1e-2), url, tmp_path / "model")
    history = json.loads((tmp_path / "model" / "trainer_state.json").read_text())["log_history"]
    held_out = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert len(held_out) == 2
    assert result.metrics["eval_loss"] == held_out[-1] < held_out[0]
    data = result.metrics["data"]
    assert data["train_rows"] + data["evaluation_rows"] == 22


def test_the_held_out_loss_is_the_mean_over_trained_tokens(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    """However the rows are spread over steps and passes."""
    values = [
        run(recipe_file(evaluation_fraction=0.3, max_steps=1, warmup=0.5, **changes), url, tmp_path / name).metrics
        for name, changes in {"alone": {"packing": False}, "packed": {}, "large": {"pack_tokens": 4096}}.items()
    ]
    assert values[1]["eval_loss"] == pytest.approx(values[0]["eval_loss"], abs=1e-5)
    assert values[2]["eval_loss"] == pytest.approx(values[0]["eval_loss"], abs=1e-5)


def test_low_rank_adapters_train_a_pretrained_model(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    """The base stays as it was; the output is an adapter that transformers loads on top of it."""
    pytest.importorskip("peft")
    base = tmp_path / "base"
    run(recipe_file(max_steps=1), url, base)
    result = run(
        recipe_file(model={"kind": "pretrained", "path": str(base)}, lora={"rank": 2}, learning_rate=1e-2, epochs=4),
        url,
        tmp_path / "adapter",
    )
    assert 0 < result.metrics["trained_parameters"] < result.metrics["parameters"] / 4
    assert result.metrics["last_loss"] < result.metrics["first_loss"]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    described = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(base)  # absolute, so that it is found from anywhere
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert any("lora" in name for name, _ in loaded.named_parameters())


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_adapters_that_merging_would_put_into_two_layers_are_refused(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, module: str
) -> None:
    """Embedding and output layer are one matrix here: the merged model would be another one."""
    pytest.importorskip("peft")
    base = tmp_path / "base"
    run(recipe_file(max_steps=1), url, base)
    recipe = recipe_file(
        model={"kind": "pretrained", "path": str(base)},
        lora={"rank": 2, "target_modules": [module, "q_proj"]},
        cross_entropy="plain",
    )
    message = "lora: embedding and output layer of this model are one matrix"
    expect_error(message, "--recipe", recipe, "--db", url, "--output", tmp_path / "m")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by names of yesterday
def test_a_merged_adapter_is_the_model_that_was_trained(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = tmp_path / "base"
    run(recipe_file(max_steps=1), url, base)
    table: dict[str, Any] = {"model": {"kind": "pretrained", "path": str(base)}, "lora": {"rank": 2}}
    run(recipe_file(**table, max_steps=2, learning_rate=1e-1, warmup=0.0), url, tmp_path / "adapter")
    ids = torch.arange(3, 40).unsqueeze(0)
    adapted = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(base)(ids).logits
        wanted = adapted(ids).logits
        adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    assert (merged - wanted).abs().max() < 1e-4 < 1e-2 < (merged - before).abs().max()


# torch's own compiler warns of torch, and takes a minute.
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")])]
)
def test_neither_chunks_nor_a_compiler_change_a_loss(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain cross-entropy in one piece is the measure; the chunks here are of 7 tokens, held out rows included."""
    table: dict[str, Any] = {"max_steps": 2, "optimizer": "adamw", "evaluation_fraction": 0.3, "warmup": 0.0}
    plain = run(recipe_file(**table, cross_entropy="plain"), url, tmp_path / "plain")
    monkeypatch.setattr("trainer.loss.CHUNK_ELEMENTS", 7 * 320)
    other = run(recipe_file(**table, compile=compiled), url, tmp_path / "other")
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=2e-5)
    assert other.metrics["eval_loss"] == pytest.approx(plain.metrics["eval_loss"], abs=2e-5)
    told = [result.metrics["environment"]["cross_entropy"] for result in (plain, other)]
    assert told == ["plain", "chunked"]
    names = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").state_dict().keys()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "other").state_dict().keys() == names


@pytest.mark.filterwarnings("ignore")  # bitsandbytes' own, of a CPU
@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_train_on_quantised_weights(url: str, recipe_file: WriteRecipe, tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not here; `make test-apart` has it")
    base = tmp_path / "base"
    run(recipe_file(max_steps=1, model=TINY_MODEL | {"hidden_size": 128}), url, base)
    recipe = recipe_file(
        model={"kind": "pretrained", "path": str(base)}, lora={"rank": 4, "base_bits": bits}, learning_rate=1e-2
    )
    result = run(recipe, url, tmp_path / "adapter")
    assert result.metrics["last_loss"] < result.metrics["first_loss"] - 0.1
    assert 400_000 < result.metrics["parameters"] < 500_000  # of the model, not of the bytes that hold it
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_weights_are_bf16_when_asked_for(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    run(recipe_file(max_steps=1, precision="bf16"), url, tmp_path / "model")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto").dtype == torch.bfloat16


def test_dropout_of_a_base_model_is_forced_to_zero(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    base = tmp_path / "base"
    run(recipe_file(max_steps=1), url, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    run(recipe_file(max_steps=1, model={"kind": "pretrained", "path": str(base)}), url, tmp_path / "tuned")
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["attention_dropout"] == 0.0


def test_each_step_says_how_fast_and_how_full_it_was(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    result = run(recipe_file(max_steps=3), url, tmp_path / "model")
    history = json.loads((tmp_path / "model" / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    for entry in steps:
        assert entry["tokens_per_second"] > 0
        assert 0 < entry["packing_fill"] <= 1
        assert entry["learning_rate"] <= 1e-3
    assert result.metrics["seconds"] > 0


def test_the_last_step_is_logged_however_few_are(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    result = run(recipe_file(log_steps=4), url, tmp_path / "model")
    history = json.loads((tmp_path / "model" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 4, 8, 11]
    assert result.metrics["tokens"] == 2 * result.metrics["data"]["tokens_per_epoch"]


def test_tensorboard_is_reported_to_where_it_is_installed(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(recipe_file(max_steps=2, report_to=["auto"]), url, tmp_path / "model")
    assert list((tmp_path / "model").rglob("events.out.tfevents.*"))


# Mistakes


def expect_error(message: str, *arguments: object) -> None:
    """The last line on stderr, and the only one that is an error; exit code 1."""
    result = command(*arguments)
    assert result.exit_code == 1
    *before, last = result.stderr.strip().splitlines()
    assert last.startswith("Error: ")
    assert message in last
    assert not [line for line in before if line.startswith(("Error", "Traceback"))]


def test_a_data_set_that_does_not_exist_is_named(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    common = ("--recipe", recipe_file(), "--db", url, "--output", tmp_path / "model")
    expect_error("no data set other; there are: tiny v1", *common, "--dataset", "other")
    expect_error("no data set tiny v7; there are: tiny v1", *common, "--dataset", "tiny@7")
    expect_error("data set 'tiny@new': expected NAME or NAME@VERSION", *common, "--dataset", "tiny@new")
    assert not (tmp_path / "model").exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_pair_that_vanishes_is_told_in_a_line(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, workers: int
) -> None:
    """Whichever process reads it."""
    recipe, output = recipe_file(epochs=1, workers=workers), tmp_path / "model"
    run(recipe, url, output)
    described = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps({**described, "metrics": None}))  # surveyed, and not yet trained
    database = open_database(url)
    with database.writing() as session:
        session.execute(sa.delete(models.DatasetItem).where(models.DatasetItem.position == 5))
    database.close()
    message = "has no position 5, though the snapshot has 22 pairs: rows of dataset_items were deleted"
    expect_error(message, "--recipe", recipe, "--db", url, "--output", output)


def test_an_empty_data_set_is_refused(
    url: str, store: Callable[..., str], recipe_file: WriteRecipe, tmp_path: Path
) -> None:
    store(url, [], version=2)
    expect_error("data set tiny v2 is empty", "--recipe", recipe_file(), "--db", url, "--output", tmp_path / "model")


def test_another_recipes_checkpoint_is_not_overwritten(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    output = tmp_path / "model"
    run(recipe_file(max_steps=1), url, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    message = (
        f"{output} holds a checkpoint of another recipe or data set ([train] model.layers was 2 and is 1; [train] "
        "max_steps was 1 and is 2); give another --output, nothing was changed"
    )
    recipe = recipe_file(max_steps=2, model={**TINY_MODEL, "hidden_size": 32, "layers": 1})
    expect_error(message, "--recipe", recipe, "--db", url, "--output", output)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_a_sharded_runs_checkpoint_is_not_read_as_a_whole_one(
    url: str, recipe_file: WriteRecipe, tmp_path: Path
) -> None:
    recipe, output = recipe_file(save_steps=2, max_steps=3), tmp_path / "model"
    run(recipe, url, output)
    described = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps({**described, "metrics": None}))
    (output / "checkpoint-2" / "pytorch_model_fsdp_0").mkdir()
    message = f"{output / 'checkpoint-2'} was written with FSDP; go on as the run was begun, or give another --output"
    expect_error(message, "--recipe", recipe, "--db", url, "--output", output)


def test_a_folder_with_other_files_is_not_taken(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter.tex").write_text("...")
    expect_error("is not empty and holds no run", "--recipe", recipe_file(), "--db", url, "--output", output)
    assert os.listdir(output) == ["chapter.tex"]  # noqa: PTH208


def test_two_processes_do_not_train_in_one_folder(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    """The lock is of the process, and goes with it however that ends; the row stays as it was."""
    recipe, output = recipe_file(max_steps=1), tmp_path / "model"
    arguments = ("--recipe", recipe, "--db", url, "--output", output)
    run(recipe, url, output)
    holder = (
        "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.lockf(lock, fcntl.LOCK_EX); "
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(output / "state" / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        expect_error(f"another process is training in {output}", *arguments)
        other.kill()
    assert "nothing to do" in command(*arguments).output
    assert training_row(url).status == "finished"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 13888 vs 13780"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_is_told_and_the_run_goes_on_later(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As the system, safetensors and PyTorch say it; the checkpoint before it counts."""
    recipe, output = recipe_file(save_steps=1, max_steps=3), tmp_path / "model"
    save = Trainer._save_checkpoint

    def full(self: Trainer, *rest: Any) -> None:
        if self.state.global_step == 2:
            (output / "checkpoint-2").mkdir()
            raise error
        save(self, *rest)

    arguments = ("--recipe", recipe, "--db", url, "--output", output)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_checkpoint", full)
        expect_error("MiB are free there); make room, or set [train] keep_checkpoints = 1", *arguments)
    assert "going on from checkpoint-1\n" in command(*arguments).output
    assert training_row(url).status == "finished"


def test_a_folder_that_cannot_be_written_is_named(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "model"
    expect_error(
        f"{output} cannot be written: Not a directory", "--recipe", recipe_file(), "--db", url, "--output", output
    )


def test_a_folder_whose_first_file_was_cut_short_is_taken(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    output = tmp_path / "model"
    output.mkdir()
    (output / "run.json.partial").write_text('{"key')
    assert run(recipe_file(max_steps=1), url, output).metrics["steps"] == 1


def test_a_single_step_has_a_learning_rate(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    """It would be 0, were that step one of warm-up, and nothing be learned."""
    run(recipe_file(max_steps=1), url, tmp_path / "model")
    (entry,) = (
        e for e in json.loads((tmp_path / "model" / "trainer_state.json").read_text())["log_history"] if "loss" in e
    )
    assert entry["learning_rate"] == 1e-3


def test_a_recipe_without_a_train_table_is_refused(url: str, tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text('name = "tiny"\nmodel = { name = "x" }\n')
    expect_error("has no table [train]", "--recipe", path, "--db", url)


def test_a_model_that_cannot_be_loaded_says_where_it_was_looked_for(
    url: str, recipe_file: WriteRecipe, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    recipe = recipe_file(model={"kind": "pretrained", "path": str(empty)})
    expect_error(
        f"cannot load the tokenizer of folder {empty}:", "--recipe", recipe, "--db", url, "--output", tmp_path / "m"
    )
    assert training_row(url).status == "failed"


def test_a_run_that_has_not_finished_is_no_model_yet(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "run.json").write_text("{}")
    recipe = recipe_file(model={"kind": "pretrained", "path": str(begun)})
    message = f"cannot load the tokenizer of folder {begun}: its run has not finished"
    expect_error(message, "--recipe", recipe, "--db", url, "--output", tmp_path / "m")


def test_a_tokenizer_without_eos_is_refused(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    base = tmp_path / "base"
    run(recipe_file(max_steps=1), url, base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    recipe = recipe_file(model={"kind": "pretrained", "path": str(base)})
    message = f"{base}: the tokenizer has no end-of-sequence token"
    expect_error(message, "--recipe", recipe, "--db", url, "--output", tmp_path / "m")


def test_pairs_longer_than_the_models_context_are_told_of(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    """Learned positions end; rotary ones go on, and the run with them."""
    base = tmp_path / "base"
    run(recipe_file(max_steps=1), url, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    told: list[str] = []
    recipe = recipe_file(model={"kind": "pretrained", "path": str(base)}, max_steps=1)
    run(recipe, url, tmp_path / "rotary", say=told.append)
    assert any("tokens, and LlamaForCausalLM has a context of 64" in line for line in told)
    shape = {"n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": config["vocab_size"]}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=1)).save_pretrained(base)
    message = "GPT2LMHeadModel has a context of 64; set [train] max_tokens = 64"
    expect_error(message, "--recipe", recipe, "--db", url, "--output", tmp_path / "learned")


def test_a_tokenizer_larger_than_its_model_is_refused(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    base, other = tmp_path / "base", tmp_path / "other"
    run(recipe_file(max_steps=1), url, base)
    run(recipe_file(max_steps=1, model={"kind": "new", "vocabulary": 340, "hidden_size": 32, "heads": 2}), url, other)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(other / file, base / file)
    recipe = recipe_file(model={"kind": "pretrained", "path": str(base)})
    expect_error("they do not belong together", "--recipe", recipe, "--db", url, "--output", tmp_path / "m")


def test_a_loss_that_is_no_number_stops_the_run(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    recipe = recipe_file(learning_rate=1e30, optimizer="adamw", warmup=0.0)
    message = "lower [train] learning_rate"
    expect_error(message, "--recipe", recipe, "--db", url, "--output", tmp_path / "m")
    assert training_row(url).status == "failed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"base_bits": 4}}, "lora base_bits = 4 needs bitsandbytes: pip install bitsandbytes"),
        ({"cross_entropy": "liger"}, "needs a GPU and liger-kernel (pip install liger-kernel)"),
        (
            {"attention": "flash_attention_2"},
            'attention = "flash_attention_2" needs a GPU (Ampere or later), flash-attn',
        ),
        ({"attention": "flex_attention"}, 'attention = "flex_attention" trains on a GPU only'),
        ({"compile": True}, "compile = true needs a C++ compiler, and no g++ or clang++ is on PATH"),
    ],
)
def test_what_a_setting_needs_and_is_not_there_is_named(
    url: str,
    recipe_file: WriteRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    base = tmp_path / "base"
    run(recipe_file(max_steps=1), url, base)
    monkeypatch.setattr("trainer.model.find_spec", lambda name: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    recipe = recipe_file(model={"kind": "pretrained", "path": str(base)}, **changes)
    expect_error(message, "--recipe", recipe, "--db", url, "--output", tmp_path / "m")


def test_memory_that_runs_out_says_what_to_lower(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("transformers.Trainer.training_step", full)
    expect_error(
        "out of memory in step 1; in [train] try, in this order: gradient_checkpointing = true;",
        *("--recipe", recipe_file(), "--db", url, "--output", tmp_path / "m"),
    )


def test_a_model_that_does_not_fit_says_so(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")

    monkeypatch.setattr("trainer.train.settle_attention", full)
    expect_error(
        'out of memory while the model was loaded; in [train] try, in this order: precision = "bf16"; a smaller model',
        *("--recipe", recipe_file(), "--db", url, "--output", tmp_path / "m"),
    )


def test_other_errors_of_pytorch_are_not_taken_for_memory(
    url: str, recipe_file: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any, **__: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("trainer.train.settle_attention", wrong)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(recipe_file(), url, tmp_path / "m")


def test_trackers_are_looked_at_before_anything_is_made(url: str, recipe_file: WriteRecipe, tmp_path: Path) -> None:
    common = ("--db", url, "--output", tmp_path / "m")
    expect_error("report_to: foo is not supported, only", "--recipe", recipe_file(report_to=["foo"]), *common)
    for name, callback in {"wandb": "WandbCallback", "mlflow": "MLflowCallback"}.items():
        if find_spec(name) is None:
            message = f"report_to: {callback} requires {name} to be installed"
            expect_error(message, "--recipe", recipe_file(report_to=[name]), *common)
    assert not (tmp_path / "m").exists()


def test_one_process_takes_one_gpu_and_the_recipes_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several GPUs, and whatever accelerate was configured for."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    found = {}
    for name, table in {
        "plain": {"precision": "bf16"},
        "mixed": {"precision": "bf16-mixed"},
        "qlora": {"precision": "bf16", "lora": {"base_bits": 4}},
        "fp32": {"precision": "fp32", "lora": {"base_bits": 4}},
    }.items():
        settings = train_settings({"model": {"kind": "pretrained", "path": "x"}, **table}, "[train]", 0)
        arguments = training_arguments(settings, 3, tmp_path)
        assert arguments._n_gpu == 1
        found[name] = arguments.mixed_precision
    assert found == {"plain": "no", "mixed": "bf16", "qlora": "bf16", "fp32": "no"}


def test_advice_on_memory_begins_with_what_costs_least() -> None:
    settings = train_settings({"model": {"kind": "new"}, "pack_tokens": 8192}, "[train]", 0)
    assert out_of_memory_advice(settings, 4).startswith(
        "out of memory in step 5; in [train] try, in this order: pack_tokens = 1280; gradient_checkpointing = true;"
    )


def test_a_missing_torch_names_the_extra(url: str, recipe_file: WriteRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))
    expect_error("training needs torch: pip install 'selfalign[train]'", "--recipe", recipe_file(), "--db", url)
