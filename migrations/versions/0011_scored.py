"""Show the scores of a pipeline's own responses only: others have some under the same checks.

Revision: 0011, after 0010.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SCORED_RESPONSES = """
SELECT p.name AS pipeline, s.response_id, r.instruction_id, s.agreement, s.tests, s.tests_passed, s.group_size,
    s.stub_failed, s.mutants, s.mutants_killed, s.mutation_score, s.flaky, j.kept, j.filter, j.reason, j.other_id
FROM pipelines p
CROSS JOIN pipeline_responses r
CROSS JOIN scores s
LEFT JOIN judgements j ON j.recipe_id = p.selection_recipe_id AND j.subject_id = s.response_id
WHERE p.checks_recipe_id IS NOT NULL AND r.pipeline = p.name
    AND s.recipe_id = p.checks_recipe_id AND s.response_id = r.response_id AND s.complete
"""

SCORED_RESPONSES_BEFORE = """
SELECT p.name AS pipeline, s.response_id, r.instruction_id, s.agreement, s.tests, s.tests_passed, s.group_size,
    s.stub_failed, s.mutants, s.mutants_killed, s.mutation_score, s.flaky, j.kept, j.filter, j.reason, j.other_id
FROM pipelines p
JOIN scores s ON s.recipe_id = p.checks_recipe_id AND s.complete
JOIN responses r ON r.id = s.response_id
LEFT JOIN judgements j ON j.recipe_id = p.selection_recipe_id AND j.subject_id = s.response_id
"""


def upgrade() -> None:
    """Apply."""
    _replace(SCORED_RESPONSES)


def downgrade() -> None:
    """Undo."""
    _replace(SCORED_RESPONSES_BEFORE)


def _replace(query: str) -> None:
    op.execute("DROP VIEW scored_responses")
    op.execute(f"CREATE VIEW scored_responses AS{query}")
