"""A database with a snapshot of pairs, as a build leaves it, and the smallest recipe that trains on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from generator import models
from generator.keys import key_of
from generator.store import ensure_recipe, find_dataset, insert_new, open_database

if find_spec("torch") and find_spec("transformers"):
    import torch

    torch.set_num_threads(1)  # the models are tiny: a second thread only waits
else:  # evaluation, settings and order are tested without them
    without = ("test_config.py", "test_order.py")
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name not in without]

TINY = {
    "model": {"kind": "new", "vocabulary": 320, "hidden_size": 32, "layers": 2, "heads": 2},
    "batch_size": 4,
    "epochs": 2,
    "max_tokens": 512,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "report_to": [],
}
"""A `[train]` table that a test changes: seconds on a CPU."""


STAGES = ("concepts", "instructions", "responses", "selection")
DRAWN = {"text": "", "finish_reason": "stop", "prompt_tokens": None, "completion_tokens": None, "error": None}


def make_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Instructions and responses of different lengths, the same for the same seed."""
    rng = random.Random(seed)
    pairs = []
    for index in range(count):
        name = f"{rng.choice(['sum', 'count', 'merge', 'find'])}_{rng.choice(['items', 'words', 'rows'])}_{index}"
        body = "\n".join(f"    total += values[{step}]" for step in range(rng.randint(1, 8)))
        pairs.append(
            (
                f"Write a function `{name}` that adds up {rng.randint(1, 9)} values.",
                f"```python\ndef {name}(values):\n    total = 0\n{body}\n    return total\n```",
            )
        )
    return pairs


def store_pairs(url: str, pairs: list[tuple[str, str]], *, name: str = "tiny", version: int = 1) -> str:
    """Store `pairs` as the snapshot `name`, with the rows that they come from; returns its id."""
    database = open_database(url, create=True)
    dataset_id = key_of("dataset", name, version, pairs)
    seed_id, concepts_id = key_of("seed", name), key_of("concepts", name)
    keys = [(key_of("instruction", dataset_id, p), key_of("response", dataset_id, p)) for p in range(len(pairs))]
    with database.writing() as session:
        recipe = {stage: ensure_recipe(session, stage, {"model": "teacher"}) for stage in STAGES}
        columns = {"name": "f", "code": "def f(): ...", "docstring": "", "origin": "package", "version": "1.0"}
        place = {"path": "f.py", "line": 1, "licence": "MIT", "licence_source": "License: MIT"}
        insert_new(session, models.Seed, [{"id": seed_id, **columns, **place}])
        insert_new(
            session,
            models.Concepts,
            [{"id": concepts_id, "seed_id": seed_id, "recipe_id": recipe["concepts"], "sample_index": 0, **DRAWN}],
        )
        drawn = {"category": "", "difficulty": "", "language": "", **DRAWN}
        insert_new(
            session,
            models.Instruction,
            [
                {
                    "id": keys[p][0],
                    "concepts_id": concepts_id,
                    "recipe_id": recipe["instructions"],
                    "sample_index": int(dataset_id[:6], 16) + p,
                    "instruction": instruction,
                    **drawn,
                }
                for p, (instruction, _) in enumerate(pairs)
            ],
        )
        insert_new(
            session,
            models.Response,
            [
                {"id": r, "instruction_id": i, "recipe_id": recipe["responses"], "sample_index": 0, **DRAWN}
                for i, r in keys
            ],
        )
        snapshot = {"id": dataset_id, "name": name, "version": version, "size": len(pairs)}
        content = {"content_key": key_of("content", pairs), "recipe_id": recipe["selection"]}
        insert_new(session, models.Dataset, [{**snapshot, **content}])
        insert_new(
            session,
            models.DatasetItem,
            [
                {"dataset_id": dataset_id, "position": p, "response_id": keys[p][1], "instruction": i, "response": r}
                for p, (i, r) in enumerate(pairs)
            ],
        )
    database.close()
    return dataset_id


@pytest.fixture
def pairs() -> list[tuple[str, str]]:
    """Of the snapshot `tiny`."""
    return make_pairs(22)


@pytest.fixture
def url(tmp_path: Path, pairs: list[tuple[str, str]]) -> str:
    """Of a database with the snapshot `tiny`."""
    url = f"sqlite:///{tmp_path}/pairs.db"
    store_pairs(url, pairs)
    return url


@pytest.fixture
def dataset_id(url: str) -> str:
    """Of the snapshot `tiny`."""
    database = open_database(url)
    with database.reading() as session:
        found = find_dataset(session, "tiny").id
    database.close()
    return found


@pytest.fixture
def recipe_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe whose `[train]` table is `TINY` with changes; None takes a key away."""

    def write(**changes: Any) -> Path:
        table = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
        path = tmp_path / "tiny.toml"
        lines = ['name = "tiny"', 'model = { name = "teacher" }', "[train]"]
        path.write_text("\n".join([*lines, *(f"{key} = {toml(value)}" for key, value in table.items())]) + "\n")
        return path

    return write


def toml(value: Any) -> str:
    """A TOML value, inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


@pytest.fixture(scope="session")
def store() -> Callable[..., str]:
    """`store_pairs`."""
    return store_pairs
