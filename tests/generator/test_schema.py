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
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import Recipe
from generator.store import Database, DatabaseError, connect, open_database
from generator.views import VIEWS
from tests.fakes import FakeSandbox
from tests.generator.conftest import SQLITE_ONLY
from tests.generator.rules import RuleEngine


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", "migrations:.")
    return ScriptDirectory.from_config(config)


def test_there_is_one_head_and_the_code_names_it() -> None:
    assert scripts().get_heads() == [schema.HEAD]


def test_the_migrations_make_the_tables_that_the_models_describe(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})

        assert compare_metadata(context, Base.metadata) == []


@SQLITE_ONLY
def test_the_migrations_make_the_views_that_the_code_describes(database: Database) -> None:
    with database.engine.connect() as connection:
        made = dict(connection.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'view'")).all())

    assert made == {name: f"CREATE VIEW {name} AS{query}".rstrip() for name, query in VIEWS}


def test_every_view_can_be_read(database: Database) -> None:
    with database.reading() as session:
        for name, _ in VIEWS:
            assert session.execute(sa.text(f"SELECT * FROM {name}")).all() == []


def downgrade(connection: sa.Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "migrations:.")
    config.attributes["connection"] = connection
    command.downgrade(config, revision)


@pytest.mark.parametrize("revision", [script.revision for script in scripts().walk_revisions()][1:])
async def test_an_older_database_says_what_to_do_and_keeps_its_rows_when_upgraded(
    small: Recipe, database: Database, url: str, revision: str
) -> None:
    await build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox())
    count = sa.select(sa.func.count()).select_from(Base.metadata.tables["responses"])
    with database.engine.execution_options(selfalign_writes=True).begin() as connection:
        downgrade(connection, revision)
    with pytest.raises(DatabaseError, match=rf"schema {revision} is older .* run `selfalign db upgrade`"):
        open_database(url)

    assert schema.upgrade(database) == (revision, schema.HEAD)

    with database.reading() as session:
        assert session.scalar(count) == 15
        assert session.execute(sa.text("SELECT * FROM preference_pairs")).all() == []
    report = await build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox())
    assert (report.completions_drawn, report.programs_run) == (0, 0)
    assert report.snapshot is not None
    assert (report.snapshot.size, report.snapshot.is_new) == (5, False)


def test_downgrading_removes_everything(database: Database) -> None:
    with database.engine.execution_options(selfalign_writes=True).begin() as connection:
        downgrade(connection, "base")

        look = sa.inspect(connection)
        assert (look.get_table_names(), look.get_view_names()) == (["alembic_version"], [])


def test_upgrading_twice_does_nothing(database: Database) -> None:
    assert schema.upgrade(database) == (schema.HEAD, schema.HEAD)


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
