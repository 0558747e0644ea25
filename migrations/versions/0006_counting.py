"""Count what there is from indexes alone.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

USABLE = (("concepts", "seed_id"), ("instructions", "concepts_id"))


def upgrade() -> None:
    """Apply."""
    readable = sa.text("error IS NULL")
    for table, parent_id in USABLE:
        columns = ["recipe_id", parent_id, "sample_index", "id"]
        op.create_index(f"ix_{table}_usable", table, columns, sqlite_where=readable, postgresql_where=readable)
    op.drop_index("ix_executions_recipe_id", "executions")
    op.create_index(
        "ix_executions_recipe_id_verdict_program_key", "executions", ["recipe_id", "verdict", "program_key"]
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_executions_recipe_id_verdict_program_key", "executions")
    op.create_index("ix_executions_recipe_id", "executions", ["recipe_id"])
    for table, _ in USABLE:
        op.drop_index(f"ix_{table}_usable", table)
