"""Several processes, as `accelerate launch` starts them for several GPUs; here on the CPU, over gloo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from generator.recipe import load_recipe
from trainer.config import train_settings
from trainer.train import train

pytestmark = [pytest.mark.train, pytest.mark.slow]

DATA_PARALLEL = "distributed_type: MULTI_GPU\n"  # of MULTI_CPU, or with use_cpu, accelerate starts one process alone
FULLY_SHARDED = """\
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_cpu_ram_efficient_loading: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
"""  # as `accelerate config` writes it


def history(output: Path) -> list[float]:
    entries = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in entries for key in ("loss", "eval_loss") if key in entry]


def launch(config: Path, *arguments: object, program: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Train in the processes that `config` asks for, by `selfalign` or another program with its commands."""
    programs = Path(sys.executable).parent  # which need not be on PATH
    accelerate = [programs / "accelerate", "launch", "--config_file", config, "--main_process_port", "0", "--no_python"]
    command = [programs / "selfalign"] if program is None else [sys.executable, program]
    return subprocess.run(
        [*map(str, [*accelerate, *command]), "train", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize("how", [DATA_PARALLEL, FULLY_SHARDED], ids=["data-parallel", "FSDP2"])
def test_two_processes_learn_what_one_does(
    url: str, recipe_file: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    """The same steps shared out: losses, held-out losses and weights are those of one process, up to rounding.

    And stopped and resumed, they are those of the two processes that were not, to the last bit. The precision is the
    recipe's, whatever accelerate's configuration says.
    """
    program = Path(__file__).with_name("sharded_on_cpu.py") if how == FULLY_SHARDED else None
    recipe_path = recipe_file(evaluation_fraction=0.3, batch_size=5, optimizer="adamw", save_steps=3)
    recipe = load_recipe(recipe_path)
    settings = train_settings(recipe.train, "[train]", recipe.seed)
    alone = tmp_path / "alone"
    train(recipe, settings, url=url, output=alone)

    config, together = tmp_path / "accelerate.yaml", tmp_path / "together"
    config.write_text(
        f"{how}compute_environment: LOCAL_MACHINE\nmixed_precision: bf16\n"
        "num_machines: 1\nnum_processes: 2\nuse_cpu: false\n"
    )
    done = launch(config, "--recipe", recipe_path, "--db", url, "--output", together, program=program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model in") == 1  # one process speaks
    assert json.loads((together / "run.json").read_text())["metrics"]["environment"]["processes"] == 2
    assert history(together) == pytest.approx(history(alone), abs=2e-5)
    assert (together / "checkpoint-3" / "pytorch_model_fsdp_0").exists() == (how == FULLY_SHARDED)
    weights = {folder: AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (alone, together)}
    assert weights[alone].keys() == weights[together].keys()
    assert all(weights[alone][name].allclose(weights[together][name], atol=1e-4) for name in weights[alone])

    # Stopped after its first checkpoint, and started again, as if the rest had never been.
    before = history(together)
    described = json.loads((together / "run.json").read_text())
    (together / "run.json").write_text(json.dumps({**described, "metrics": None}))
    for checkpoint in together.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-3":
            shutil.rmtree(checkpoint)
    done = launch(config, "--recipe", recipe_path, "--db", url, "--output", together, program=program)
    assert done.returncode == 0, done.stderr
    assert "going on from checkpoint-3" in done.stdout + done.stderr
    assert history(together) == before
    again = AutoModelForCausalLM.from_pretrained(together).state_dict()
    assert all(again[name].equal(weights[together][name]) for name in again)
