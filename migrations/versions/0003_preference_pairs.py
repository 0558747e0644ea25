"""The view preference_pairs.

Revision: 0003, after 0002.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PREFERENCE_PAIRS = """
SELECT p.name AS pipeline, i.id AS instruction_id, i.instruction,
    good.id AS chosen_id, good.reasoning || '

' || good.implementation || '

' || good.explanation AS chosen,
    bad.id AS rejected_id, bad.reasoning || '

' || bad.implementation || '

' || bad.explanation AS rejected,
    e.verdict AS rejected_verdict, e.error_type AS rejected_error_type
FROM pipelines p
JOIN judgements j ON j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses' AND j.kept
JOIN responses good ON good.id = j.subject_id
JOIN instructions i ON i.id = good.instruction_id
JOIN responses bad ON bad.recipe_id = good.recipe_id AND bad.instruction_id = good.instruction_id
    AND bad.sample_index < p.responses_samples
JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = bad.program_key
    AND e.verdict NOT IN ('PASSED', 'NO_TESTS', 'REFUSED')
"""


def upgrade() -> None:
    """Apply."""
    op.execute(f"CREATE VIEW preference_pairs AS{PREFERENCE_PAIRS}")


def downgrade() -> None:
    """Undo."""
    op.execute("DROP VIEW preference_pairs")
