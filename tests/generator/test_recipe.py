"""What a recipe may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from generator.recipe import load_recipe
from sandbox_server.settings import SettingsError

RECIPE = """
name = "r"
model.name = "m"
concepts.fewshots = 1
instructions.fewshots = 1
responses.fewshots = 1
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed = -1", ": seed must be between"),
        ("model.concurrency = 0", " model: concurrency must be at least 1"),
        ("responses.temperature = -0.1", " responses: temperature must be"),
        ("responses.temperature = nan", " responses: temperature must be"),
        ("concepts.temperature = inf", " concepts: temperature must be"),
        ("instructions.top_p = 0.0", " instructions: top_p must be"),
        ("judge.top_p = 1.5", " judge: top_p must be"),
        ("sandbox.concurrency = -1", " sandbox: concurrency must be"),
        ("sandbox.patience_s = nan", " sandbox: patience_s must be"),
        ("sandbox.limits.cpu_time_ms = 0", " sandbox: limits.cpu_time_ms must be at least 1"),
        ("sandbox.limits.memory_bytes = -1", " sandbox: limits.memory_bytes must be at least 1"),
    ],
)
def test_a_value_that_no_build_could_use_is_refused_with_its_place(tmp_path: Path, line: str, words: str) -> None:
    """With some every row would have failed, with some a build would have waited for ever."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    load_recipe(path)
    path.write_text(RECIPE + line)

    with pytest.raises(SettingsError) as refused:
        load_recipe(path)

    assert str(refused.value).startswith(f"{path}{words}")
