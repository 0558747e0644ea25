from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from generator.models import Training
from generator.recipe import load_recipe
from generator.store import add_evaluation, add_training, finish_evaluation, finish_training, open_database
from trainer.card import model_card, write_card
from trainer.config import TrainSettings, train_settings
from trainer.train import train


def settings(recipe_file: Callable[..., Path]) -> TrainSettings:
    recipe = load_recipe(recipe_file())
    return train_settings(recipe.train, "[train]", recipe.seed)


def card_of(url: str, dataset_id: str, parameters: dict[str, object], score: float | None = None) -> str:
    database = open_database(url)
    with database.writing() as session:
        training = add_training(session, dataset_id=dataset_id, parameters=parameters, output="runs/tiny-1")
        metrics = {"steps": 11, "first_loss": 5.5, "last_loss": 4.25, "tokens_per_second": 1234.5}
        finish_training(session, training.id, status="finished", metrics=metrics)
        if score is not None:
            evaluation = add_evaluation(
                session,
                benchmark="humaneval",
                subject="runs/tiny-1",
                parameters={"data_version": "1.0"},
                training_id=training.id,
            )
            finish_evaluation(session, evaluation.id, {"problems": 164, "pass@1": score})
    with database.reading() as session:
        text = model_card(session, training.id)
    database.close()
    return text


def test_the_card_tells_data_licences_training_and_scores(
    url: str, dataset_id: str, recipe_file: Callable[..., Path]
) -> None:
    parameters: dict[str, object] = {"dataset": "tiny@1", "train": settings(recipe_file).causes()}
    text = card_of(url, dataset_id, parameters, score=0.5)
    assert f"Snapshot `tiny` version 1 (id `{dataset_id}`): 22 pairs." in text
    assert "| instructions | 22 | 22 |" in text
    assert "inspired by: MIT (22 pairs);" in text
    assert "the model that wrote the pairs: `teacher`;" in text
    assert "none, the weights are new" in text
    assert "| last loss | 4.2500 |" in text
    assert "| tokens a second | 1,234 |" in text
    assert "| humaneval | problems 164, pass@1 0.5 |" in text


def test_the_scores_stand_in_the_front_matter_as_hubs_read_them(
    url: str, dataset_id: str, recipe_file: Callable[..., Path]
) -> None:
    yaml = pytest.importorskip("yaml")
    parameters: dict[str, object] = {"dataset": "tiny@1", "train": settings(recipe_file).causes()}
    front = yaml.safe_load(card_of(url, dataset_id, parameters, score=0.5).split("---")[1])
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert (front["library_name"], model["name"]) == ("transformers", "tiny-1")
    assert result["dataset"] == {"name": "HumanEval", "type": "openai_humaneval", "revision": "1.0"}
    assert result["metrics"] == [{"type": "pass@k", "name": "pass@1", "value": 0.5, "verified": False}]
    assert "model-index" not in yaml.safe_load(card_of(url, dataset_id, parameters).split("---")[1])


def test_the_card_of_a_fine_tuned_model_names_its_base(
    url: str, dataset_id: str, recipe_file: Callable[..., Path]
) -> None:
    causes = settings(recipe_file).causes()
    causes["model"] = {**causes["model"], "kind": "pretrained", "path": "bigcode/starcoder2-3b"}
    text = card_of(url, dataset_id, {"dataset": "tiny@1", "train": causes})
    front = text.split("---")[1]
    assert 'base_model: "bigcode/starcoder2-3b"' in front
    assert "library_name: transformers" in front
    adapter = {**causes, "lora": {"rank": 16}}
    assert "library_name: peft" in card_of(url, dataset_id, {"dataset": "tiny@1", "train": adapter})
    assert "3. the model that was trained: `bigcode/starcoder2-3b`." in text
    assert "None yet; `selfalign eval` scores a checkpoint." in text


def test_the_card_holds_the_whole_recipe(url: str, dataset_id: str, recipe_file: Callable[..., Path]) -> None:
    causes = settings(recipe_file).causes()
    text = card_of(url, dataset_id, {"dataset": "tiny@1", "train": causes})
    assert json.loads(text.split("```json\n")[1].split("\n```")[0]) == json.loads(json.dumps(causes))


@pytest.mark.train
def test_a_card_written_before_an_evaluation_is_brought_up_to_date(
    url: str, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    """The same `selfalign train` again trains nothing and writes the scores that have come since."""
    recipe = load_recipe(recipe_file(max_steps=1))
    found = train_settings(recipe.train, "[train]", recipe.seed)
    result = train(recipe, found, url=url, output=tmp_path / "model")
    database = open_database(url)
    with database.writing() as session:
        row = add_evaluation(session, benchmark="mbpp", subject="x", parameters={}, training_id=result.training_id)
        finish_evaluation(session, row.id, {"pass@1": 0.25})
    card = tmp_path / "model" / "README.md"
    assert "pass@1" not in card.read_text()
    train(recipe, found, url=url, output=tmp_path / "model")
    assert "| mbpp | pass@1 0.25 |" in card.read_text()
    with database.reading() as session:
        assert session.get_one(Training, result.training_id).status == "finished"
        assert write_card(session, result.training_id, tmp_path / "model") == card
    database.close()
