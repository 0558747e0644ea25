"""Several processes, as `accelerate launch` starts them for several GPUs; here on the CPU, over gloo."""

from __future__ import annotations

import json
import os
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

DATA_PARALLEL = "distributed_type: MULTI_CPU\n"
FULLY_SHARDED = """\
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer
  fsdp_state_dict_type: FULL_STATE_DICT
"""


def history(output: Path) -> list[float]:
    entries = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in entries for key in ("loss", "eval_loss") if key in entry]


@pytest.mark.parametrize("how", [DATA_PARALLEL, FULLY_SHARDED], ids=["data-parallel", "FSDP2"])
def test_two_processes_learn_what_one_does(
    url: str, recipe_file: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    """The same steps shared out: losses, held-out losses and weights are those of one process, up to rounding."""
    recipe_path = recipe_file(evaluation_fraction=0.3, batch_size=5, optimizer="adamw", save_steps=3)
    recipe = load_recipe(recipe_path)
    settings = train_settings(recipe.train, "[train]", recipe.seed)
    alone = tmp_path / "alone"
    train(recipe, settings, url=url, output=alone)

    config, together = tmp_path / "accelerate.yaml", tmp_path / "together"
    config.write_text(
        f"{how}compute_environment: LOCAL_MACHINE\nmixed_precision: 'no'\n"
        "num_machines: 1\nnum_processes: 2\nuse_cpu: true\n"
    )
    programs = Path(sys.executable).parent  # which need not be on PATH
    selfalign = [programs / "selfalign", "train", "--recipe", recipe_path, "--db", url, "--output", together]
    done = subprocess.run(
        [
            programs / "accelerate",
            "launch",
            "--config_file",
            config,
            "--main_process_port",
            "0",
            "--no_python",
            *selfalign,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model in") == 1  # one process speaks
    assert history(together) == pytest.approx(history(alone), abs=2e-5)
    weights = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (alone, together)]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].allclose(weights[1][name], atol=1e-4) for name in weights[0])
