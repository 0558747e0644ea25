"""How alembic runs: on the connection that `generator.schema` hands over, or for a developer on `-x db=URL`.

alembic -x db=sqlite:////path/to/scratch.db revision --autogenerate -m "what changes"
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from generator.models import Base


def migrate(connection: sa.Connection) -> None:
    """Run the migrations that were asked for."""
    # SQLite changes a table by copying it, which alembic calls a batch.
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Find the connection and migrate."""
    if (connection := context.config.attributes.get("connection")) is not None:
        migrate(connection)
        return
    url = context.get_x_argument(as_dictionary=True).get("db")
    if url is None:
        raise SystemExit("give a database: alembic -x db=URL ...; users run `selfalign db upgrade`")
    with sa.create_engine(url).begin() as connection:
        migrate(connection)


main()
