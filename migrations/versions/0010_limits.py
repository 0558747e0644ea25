"""Keep what the sandbox gives programs that ask for no limit, so that a plan sees a limit that is no longer asked for.

Revision: 0010, after 0009.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("pipelines", sa.Column("default_limits", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("pipelines", "default_limits")
