"""Fixtures of the generator's tests. What uses a database runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from generator.recipe import Recipe, load_recipe
from generator.store import Database, open_database
from tests import postgres
from tests.generator.rules import RECIPE, write_seeds

SQLITE_ONLY = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""For tests of what only SQLite does."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database can be made, or is, without rows."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/small.db"
    server: postgres.Server = request.getfixturevalue("postgres_server")
    return server.migrated()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database can be made, and has no table yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new.db"
    server: postgres.Server = request.getfixturevalue("postgres_server")
    return server.empty()


@pytest.fixture
def small(tmp_path: Path, url: str) -> Recipe:
    """A recipe over five seeds, with three responses to each instruction."""
    write_seeds(tmp_path, ["add_all", "collect", "gather", "measure", "total"])
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.format(folder=tmp_path, url=url))
    return load_recipe(path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """A database with every table and no row."""
    database = open_database(url, create=True)
    yield database
    database.close()
