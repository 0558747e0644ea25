from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from generator import causes
from generator.causes import to_plain
from generator.pipeline import Pipeline
from generator.recipe import ModelSettings, Recipe, with_model
from generator.stages import STAGES
from sandbox_server.jobs import LimitsRequest
from sandbox_server.settings import parse


def ids(recipe: Recipe) -> list[str]:
    return [causes.generation(recipe, stage).id for stage in STAGES]


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "recorded"},
        {"base_url": "http://elsewhere/v1"},
        {"concurrency": 7},
        {"api_key_env": "OTHER"},
    ],
)
def test_how_a_model_is_reached_is_no_cause(small: Recipe, change: dict[str, object]) -> None:
    other = dataclasses.replace(small, model=dataclasses.replace(small.model, **change))  # type: ignore[arg-type]

    assert ids(other) == ids(small)


@pytest.mark.parametrize("change", [{"name": "other"}, {"revision": "2"}, {"mode": "completion"}])
def test_which_model_writes_is_a_cause_of_every_stage(small: Recipe, change: dict[str, object]) -> None:
    other = dataclasses.replace(small, model=dataclasses.replace(small.model, **change))  # type: ignore[arg-type]

    assert not set(ids(other)) & set(ids(small))


@pytest.mark.parametrize("change", [{"temperature": 0.1}, {"top_p": 0.5}, {"max_tokens": 9}, {"fewshots": 2}])
def test_a_stages_settings_are_causes_of_that_stage_alone(small: Recipe, change: dict[str, object]) -> None:
    other = dataclasses.replace(small, instructions=dataclasses.replace(small.instructions, **change))  # type: ignore[arg-type]

    assert [ours == theirs for ours, theirs in zip(ids(small), ids(other), strict=True)] == [True, False, True]


def test_how_many_samples_are_wanted_is_no_cause(small: Recipe) -> None:
    other = dataclasses.replace(small, responses=dataclasses.replace(small.responses, samples=50))

    assert ids(other) == ids(small)


def test_a_folder_without_a_revision_is_told_by_its_content(tmp_path: Path) -> None:
    """Two checkpoints of one name must not share rows."""
    names = []
    for number in (1, 2):
        folder = tmp_path / str(number) / "checkpoint"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes([number]) * 200_000)
        names.append(causes.model_name(ModelSettings("checkpoint", path=str(folder))))

    assert names[0] != names[1]
    assert all(name.startswith("checkpoint@") for name in names)


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_another_model_takes_nothing_over_from_the_recipes(small: Recipe, tmp_path: Path, engine: str) -> None:
    recipe = dataclasses.replace(small, model=dataclasses.replace(small.model, revision="1", recording="r"))

    other = with_model(recipe, engine=engine, model_name=str(tmp_path)).model

    assert (other.name, other.path, other.revision, other.recording) == (tmp_path.name, str(tmp_path), "", "")


def test_a_stored_recipe_can_be_read_again(small: Recipe) -> None:
    recipe = dataclasses.replace(
        small,
        sandbox=dataclasses.replace(small.sandbox, limits=LimitsRequest(cpu_time_ms=5)),
        train={"a": [1, {"b": 2.5}]},
    )

    assert parse(Recipe, to_plain(recipe), "stored") == recipe
    assert Pipeline(parse(Recipe, to_plain(recipe), "stored")).chain == Pipeline(recipe).chain
