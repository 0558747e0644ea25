"""Making and checking the schema. The statements are in `migrations/`, run by alembic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from generator.store import Database, DatabaseError, connect

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0011"
"""The newest revision under `migrations/versions`; a test compares. Stated, so that opening needs no alembic."""

_LOCK = 0x5E1FA11  # any number that other programs on the same PostgreSQL do not lock


def ensure(database: Database, *, create: bool) -> None:
    """Accept a database of this code's schema; make one where there are no tables at all.

    Raises:
        DatabaseError: the schema is older, newer, or somebody else's.
    """
    revision = current_revision(database)
    if revision == HEAD:
        return
    if revision is None and create:
        upgrade(database)
    elif revision is None:
        raise DatabaseError(f"{database.name}: no tables yet; `selfalign db upgrade` or `selfalign build` makes them")
    elif revision in _known_revisions():
        raise DatabaseError(
            f"{database.name}: schema {revision} is older than this selfalign's {HEAD}; run `selfalign db upgrade`"
        )
    else:
        raise _newer(database, revision)


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the schema to `HEAD`, in one transaction.

    Returns:
        The revision before (None for an empty database) and after.

    Raises:
        DatabaseError: the schema is newer, the tables are somebody else's, or may not be changed.
    """
    from alembic import command

    engine = database.engine.execution_options(selfalign_writes=True)
    with database.translated(), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        before = _revision(database, connection)  # again: another process may have been first
        if before is not None and before not in _known_revisions():
            raise _newer(database, before)
        command.upgrade(_alembic_config(connection), HEAD)
    return before, HEAD


def upgrade_url(url: str) -> tuple[str, str | None, str]:
    """`upgrade` the database at `url`, made where it is missing.

    Returns:
        Its name, and the revision before and after.
    """
    database = connect(url, create=True)
    try:
        return database.name, *upgrade(database)
    finally:
        database.close()


def current_revision(database: Database) -> str | None:
    """The revision that the database has; None where it has no tables.

    Raises:
        DatabaseError: it has tables, and none of them says a revision, or may not be read.
    """
    with database.translated(), database.engine.connect() as connection:
        return _revision(database, connection)


def _revision(database: Database, connection: sa.Connection) -> str | None:
    tables = sa.inspect(connection).get_table_names()
    if "alembic_version" in tables:
        revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return revision
    if tables:
        raise DatabaseError(f"{database.name}: holds tables that are not selfalign's; give an empty database")
    return None


def _known_revisions() -> frozenset[str]:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_alembic_config(None))
    return frozenset(script.revision for script in scripts.walk_revisions())


def _alembic_config(connection: sa.Connection | None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "migrations:.")
    config.attributes["connection"] = connection
    return config


def _newer(database: Database, revision: str) -> DatabaseError:
    return DatabaseError(
        f"{database.name}: schema {revision} is newer than this selfalign's {HEAD}; "
        "upgrade selfalign, or give another database with --db"
    )
