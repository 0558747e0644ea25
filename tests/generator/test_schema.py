from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from generator import schema
from generator.models import Base
from generator.store import Database, connect, open_database
from generator.views import VIEWS


@pytest.fixture
def empty(tmp_path: Path) -> Database:
    return open_database(str(tmp_path / "a.db"), create=True)


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "migrations:.")
    return ScriptDirectory.from_config(config)


def test_there_is_one_head_and_the_code_names_it() -> None:
    assert scripts().get_heads() == [schema.HEAD]


def test_the_migrations_make_the_tables_that_the_models_describe(empty: Database) -> None:
    with empty.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})

        assert compare_metadata(context, Base.metadata) == []


def test_the_migrations_make_the_views_that_the_code_describes(empty: Database) -> None:
    with empty.engine.connect() as connection:
        made = dict(connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'view'")).all())

    assert made == {name: f"CREATE VIEW {name} AS{query}".rstrip() for name, query in VIEWS}


def test_every_view_can_be_read(empty: Database) -> None:
    with empty.reading() as session:
        for name, _ in VIEWS:
            assert session.execute(sa.text(f"SELECT * FROM {name}")).all() == []


def test_downgrading_removes_everything(empty: Database) -> None:
    with empty.engine.execution_options(selfalign_writes=True).begin() as connection:
        config = Config()
        config.set_main_option("script_location", "migrations:.")
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

        left = connection.execute(sa.text("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")).scalars()
        assert list(left) == ["alembic_version"]


def test_upgrading_twice_does_nothing(empty: Database) -> None:
    assert schema.upgrade(empty) == (schema.HEAD, schema.HEAD)


def test_a_database_without_tables_says_how_to_make_them(tmp_path: Path) -> None:
    database = connect(str(tmp_path / "bare.db"), create=True)

    with pytest.raises(Exception, match="no tables yet; `selfalign db upgrade`"):
        schema.ensure(database, create=False)


def test_every_column_that_measures_says_its_unit() -> None:
    """A number of time or size without a unit in its name is a trap."""
    for table in Base.metadata.tables.values():
        for column in table.columns:
            if re.search(r"time|memory|wall|cpu", column.name) and not column.name.endswith("_at"):
                assert re.search(r"_(ms|bytes)$|^runtime_fingerprint$", column.name), f"{table.name}.{column.name}"
