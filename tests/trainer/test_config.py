from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from generator.recipe import load_recipe
from sandbox_server.settings import SettingsError
from trainer.config import TrainSettings, train_settings

NEW = {"kind": "new"}
RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_defaults_are_the_released_models() -> None:
    settings = train_settings({"model": NEW}, "x.toml [train]", seed=5)
    assert (settings.learning_rate, settings.epochs, settings.batch_size, settings.warmup) == (1e-5, 4.0, 64, 0.05)
    assert (settings.schedule, settings.max_tokens, settings.optimizer) == ("linear", 1280, "adafactor")
    assert (settings.precision, settings.dropout, settings.max_grad_norm, settings.weight_decay) == ("bf16", 0, 0, 0)
    assert settings.seed == 5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "x.toml [train]: missing key 'model'"),
        ({"model": NEW, "epoch": 3}, "x.toml [train]: unknown key 'epoch'; did you mean 'epochs'?"),
        ({"model": NEW, "epochs": 0}, "x.toml [train]: epochs must be above 0, got 0.0"),
        ({"model": NEW, "batch_size": 0}, "x.toml [train]: batch_size must be at least 1, got 0"),
        ({"model": NEW, "workers": -1}, "x.toml [train]: workers must not be negative, got -1"),
        ({"model": NEW, "max_tokens": 4}, "x.toml [train]: max_tokens must be at least 8, got 4"),
        ({"model": NEW, "pack_tokens": 64}, "x.toml [train]: pack_tokens 64 must hold an example of max_tokens 1280"),
        ({"model": NEW, "warmup": 1.0}, "x.toml [train]: warmup must be from 0 up to but not including 1, got 1.0"),
        (
            {"model": NEW, "optimizer": "sgd"},
            "x.toml [train] optimizer: expected one of 'adafactor', 'adamw', got 'sgd'",
        ),
        ({"model": {"kind": "pretrained"}}, 'x.toml [train] model: model kind "pretrained" needs a path'),
        ({"model": {"kind": "new", "path": "x"}}, 'x.toml [train] model: model kind "new" takes no path'),
        (
            {"model": {"kind": "new", "heads": 3}},
            "x.toml [train] model: hidden_size 256 must be a multiple of 2 x heads",
        ),
        ({"model": {"kind": "new", "kv_heads": 3}}, "x.toml [train] model: heads 4 must be a multiple of kv_heads 3"),
        ({"model": {"kind": "new", "vocabulary": 10}}, "x.toml [train] model: vocabulary must be at least 300"),
        ({"model": NEW, "lora": {"rank": 0}}, "x.toml [train] lora: rank must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_named_with_its_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        train_settings(table, "x.toml [train]", seed=0)
    assert str(caught.value).startswith(message)


def test_how_a_run_is_carried_out_is_no_cause_of_its_result() -> None:
    settings = TrainSettings(model=train_settings({"model": NEW}, "x", 0).model)
    causes = settings.causes()
    assert "learning_rate" in causes
    assert "packing" in causes
    assert not {"workers", "report_to", "save_steps", "keep_checkpoints", "log_steps", "attention"} & set(causes)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_the_recipes_of_this_repository_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    settings = train_settings(recipe.train, f"{path} [train]", recipe.seed)
    assert settings.seed == recipe.seed
