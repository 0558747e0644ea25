"""The demo's recording answers every prompt of the demo's recipe, and says where it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from generator.engines.recorded import Recording, completion_key, recording_path
from generator.recipe import Recipe, load_recipe
from generator.records import ConceptsFields, ConceptsInput, InstructionFields, InstructionInput, Parent, ResponseFields
from generator.seeds import gather, select
from generator.stages import STAGES, ParseError

REPOSITORY = Path(__file__).parents[2]
RECIPES = REPOSITORY / "recipes"


@pytest.fixture
def demo() -> Recipe:
    recipe = load_recipe(RECIPES / "demo.toml")
    return replace(recipe, seeds=replace(recipe.seeds, path=str(REPOSITORY / recipe.seeds.path)))


def test_every_recipe_that_ships_is_valid() -> None:
    names = {load_recipe(path).name for path in RECIPES.glob("*.toml")}
    assert names >= {"demo", "demo-live", "starcoder2-15b"}


def test_the_originals_parameters_are_the_originals() -> None:
    recipe = load_recipe(RECIPES / "starcoder2-15b.toml")
    assert recipe.seed == 3407
    assert [(each.fewshots, each.samples) for each in (recipe.concepts, recipe.instructions, recipe.responses)] == [
        (8, 1),
        (8, 1),
        (1, 10),
    ]
    for each in (recipe.concepts, recipe.instructions, recipe.responses):
        assert (each.temperature, each.top_p, each.max_tokens) == (0.7, 1.0, 1536)
    judge = recipe.judge
    assert judge is not None
    assert (judge.fewshots, judge.temperature, judge.max_tokens) == (7, 0.0, 5)


def test_the_live_demo_asks_what_the_recorded_one_asked() -> None:
    """Only sizes and the way to the model differ."""
    demo, live = (load_recipe(RECIPES / name) for name in ("demo.toml", "demo-live.toml"))
    assert (live.model.name, live.model.revision, live.model.mode) == (
        demo.model.name,
        demo.model.revision,
        demo.model.mode,
    )
    assert live.seeds == replace(demo.seeds, limit=10)


def test_the_recording_is_small_and_says_where_it_comes_from(demo: Recipe) -> None:
    path = recording_path(demo.model.recording)
    assert path.stat().st_size < 5 << 20
    header = Recording(path).header
    assert header["model"] == demo.model.name
    assert header["revision"] == demo.model.revision
    assert header["licence"] == "Apache-2.0"
    assert len(header["sha256"]) == 64
    assert header["date"]
    assert header["server"]
    for stage in STAGES:
        settings = getattr(demo, stage.name)
        assert header["sampling"][stage.name] == {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
        }


def test_every_prompt_of_the_demo_is_recorded_and_nothing_else(demo: Recipe) -> None:
    if not Path(demo.seeds.path).is_dir():
        pytest.skip("the demo's packages are not installed: make setup-demo")
    recording = Recording(recording_path(demo.model.recording))
    asked, usable = set(), dict.fromkeys((stage.name for stage in STAGES), 0)
    parents: list[Parent] = list(select(gather(demo.seeds), demo.seeds.limit))
    assert len(parents) == 64
    for stage in STAGES:
        children: list[Parent] = []
        settings = getattr(demo, stage.name)
        for parent in parents:
            for index in range(settings.samples):
                request = stage.request(
                    parent, id="", sample_index=index, seed=demo.seed, settings=settings, mode=demo.model.mode
                )
                asked.add(key := completion_key(demo.model, request))
                completion = recording.get(key)
                assert completion is not None, f"{stage.name}: not recorded; run `make record`"
                try:
                    fields = stage.parse(completion.text, completion.finish_reason)
                except ParseError:
                    continue
                usable[stage.name] += 1
                match fields:
                    case ConceptsFields(concepts):
                        children.append(ConceptsInput(concepts))
                    case InstructionFields(instruction):
                        children.append(InstructionInput(instruction))
                    case ResponseFields():
                        pass
        parents = children
    assert len(asked) == len(recording)
    assert usable == {"concepts": 64, "instructions": 57, "responses": 211}
