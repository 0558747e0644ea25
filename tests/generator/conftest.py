"""Fixtures of the generator's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from generator.recipe import Recipe, load_recipe
from generator.store import Database, open_database
from tests.generator.rules import RECIPE, write_seeds


@pytest.fixture
def small(tmp_path: Path) -> Recipe:
    """A recipe over five seeds, with three responses to each instruction."""
    write_seeds(tmp_path, ["add_all", "collect", "gather", "measure", "total"])
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return load_recipe(path)


@pytest.fixture
def database(small: Recipe) -> Iterator[Database]:
    """The recipe's database, made."""
    database = open_database(small.database.url, create=True)
    yield database
    database.close()
