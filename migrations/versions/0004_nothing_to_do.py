"""Find in one pass that nothing is to be done.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.drop_index("ix_responses_program_key", "responses")
    op.create_index("ix_responses_recipe_id_program_key", "responses", ["recipe_id", "program_key"])
    op.add_column("pipelines", sa.Column("dataset_id", sa.String(length=32), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("pipelines", "dataset_id")
    op.drop_index("ix_responses_recipe_id_program_key", "responses")
    op.create_index("ix_responses_program_key", "responses", ["program_key"])
