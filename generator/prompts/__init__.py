"""The words that the model is given: a text for each stage and sixteen worked examples, as TOML files beside this one.

An example runs through all stages: the seed function, the concepts in it, an instruction that grew out of them, and an
answer with its own tests, which pass. The judge of seeds has examples of its own, bad ones among them.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from sandbox_server.settings import parse


@dataclass(frozen=True, slots=True)
class StageText:
    """What one stage says. `query` and `answer` are the headings of what is asked and what is answered."""

    system: str
    query: str
    answer: str


@dataclass(frozen=True, slots=True)
class Example:
    """One worked example. `implementation` and `tests` are plain Python; fences are added where it is shown."""

    name: str
    category: str
    language: str
    difficulty: str
    concepts: tuple[str, ...]
    seed: str
    instruction: str
    reasoning: str
    implementation: str
    explanation: str
    tests: str


@dataclass(frozen=True, slots=True)
class JudgedSeed:
    """One function as the judge should see it; `answer` begins with Yes or No."""

    name: str
    seed: str
    answer: str


@cache
def stage_text(stage: str) -> StageText:
    """The text of the stage named `stage`."""
    table = tomllib.loads((files(__name__) / "stages.toml").read_text(encoding="utf-8"))[stage]
    return parse(StageText, {key: text.strip() for key, text in table.items()}, f"stages.toml: [{stage}]")


@cache
def examples() -> tuple[Example, ...]:
    """All worked examples, by name."""
    return tuple(map(_example, sorted((files(__name__) / "examples").iterdir(), key=lambda file: file.name)))


@cache
def judged_seeds() -> tuple[JudgedSeed, ...]:
    """All examples of the judge."""
    table = tomllib.loads((files(__name__) / "judge.toml").read_text(encoding="utf-8"))
    stripped = [{key: value.strip("\n") for key, value in entry.items()} for entry in table["example"]]
    return tuple(parse(JudgedSeed, entry, "judge.toml") for entry in stripped)


def _example(file: Traversable) -> Example:
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    stripped = {key: value.strip("\n") if isinstance(value, str) else value for key, value in table.items()}
    return parse(Example, {"name": file.name.removesuffix(".toml"), **stripped}, file.name)
