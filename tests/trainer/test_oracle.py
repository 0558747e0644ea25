"""TRL's SFTTrainer trains on the same data from the same weights: every step's loss must be ours."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from generator.recipe import load_recipe
from trainer.chat import prepare_tokenizer, prompt_of
from trainer.config import TemplateSettings, train_settings
from trainer.dataset import EpochOrder
from trainer.loop import quiet_libraries
from trainer.model import learn_tokenizer
from trainer.train import train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its imports, which are not ours to mend
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

STEPS, BATCH, SEED = 20, 4, 3407


@pytest.fixture
def base(tmp_path: Path, pairs: list[tuple[str, str]]) -> Path:
    """A tiny Llama, saved with its tokenizer."""
    tokenizer = learn_tokenizer((text for pair in pairs for text in pair), 400)
    prepare_tokenizer(tokenizer, TemplateSettings(), source="test")
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def oracle_losses(
    base: Path, pairs: list[tuple[str, str]], output: Path, *, optimizer: str, accumulation: int
) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(base)
    order = EpochOrder(len(pairs), SEED)(np.arange(STEPS * BATCH))
    rows = [
        {
            "prompt": prompt_of(tokenizer, [{"role": "user", "content": pairs[position][0]}]),
            "completion": pairs[position][1],
        }
        for position in order
    ]
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": BATCH // accumulation,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "warmup_steps": math.ceil(0.1 * STEPS),
        "optim": optimizer,
        "max_grad_norm": 0.0,
    }
    config = trl.SFTConfig(
        output_dir=str(output),
        max_steps=STEPS,
        train_sampling_strategy="sequential",
        completion_only_loss=True,
        max_length=512,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=SEED,
        **arguments,
    )
    oracle = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    with quiet_libraries():
        oracle.train()
    return [entry["loss"] for entry in oracle.state.log_history if "loss" in entry]


def read_losses(output: Path) -> list[float]:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.parametrize(
    ("optimizer", "theirs", "accumulation"),
    [("adafactor", "adafactor", 1), ("adamw", "adamw_torch", 1), ("adamw", "adamw_torch", 2)],
)
def test_twenty_losses_are_those_of_trl(
    base: Path,
    url: str,
    pairs: list[tuple[str, str]],
    recipe_file: Callable[..., Path],
    tmp_path: Path,
    optimizer: str,
    theirs: str,
    accumulation: int,
) -> None:
    """Ours streamed from the database and packed, theirs padded: equal to 1e-5 at every step."""
    recipe = load_recipe(
        recipe_file(
            model={"kind": "pretrained", "path": str(base)},
            epochs=STEPS,
            max_steps=STEPS,
            warmup=0.1,
            optimizer=optimizer,
            seed=SEED,
        )
    )
    settings = train_settings(recipe.train, "[train]", recipe.seed)
    output = tmp_path / "ours"
    train(recipe, settings, url=url, output=output)
    ours = read_losses(output)
    oracle = oracle_losses(base, pairs, tmp_path / "oracle", optimizer=theirs, accumulation=accumulation)
    assert len(ours) == len(oracle) == STEPS
    assert ours[-1] < ours[0] - 0.5
    assert ours == pytest.approx(oracle, abs=1e-5)
