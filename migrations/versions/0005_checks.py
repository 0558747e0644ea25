"""Checks of responses beyond their own tests, their scores, and what tells near-duplicates.

Judgements are taken back: the next build judges again, which draws nothing and runs nothing, and notes what is alike.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCORED_RESPONSES = """
SELECT p.name AS pipeline, s.response_id, r.instruction_id, s.agreement, s.tests, s.tests_passed, s.group_size,
    s.stub_failed, s.mutants, s.mutants_killed, s.mutation_score, s.flaky, j.kept, j.filter, j.reason, j.other_id
FROM pipelines p
JOIN scores s ON s.recipe_id = p.checks_recipe_id AND s.complete
JOIN responses r ON r.id = s.response_id
LEFT JOIN judgements j ON j.recipe_id = p.selection_recipe_id AND j.subject_id = s.response_id
"""

REJECTED_PAIRS_BEFORE = """
SELECT p.name AS pipeline, r.id AS response_id, r.instruction_id, i.instruction, r.text, r.code, r.test_code,
    j.filter, j.filter_version, j.reason, e.verdict, e.error_type, e.error_message, m.parameters ->> 'model' AS model
FROM pipelines p
JOIN judgements j ON j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses' AND NOT j.kept
JOIN responses r ON r.id = j.subject_id
JOIN instructions i ON i.id = r.instruction_id
JOIN recipes m ON m.id = r.recipe_id
LEFT JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
"""

REJECTED_PAIRS = REJECTED_PAIRS_BEFORE.replace(
    "m.parameters ->> 'model' AS model", "m.parameters ->> 'model' AS model,\n    j.other_id"
)

FUNNEL_BEFORE = """
SELECT p.name AS pipeline, 1 AS step, 'seeds found' AS stage,
    (SELECT count(*) FROM pipeline_seeds s WHERE s.pipeline = p.name) AS rows
FROM pipelines p
UNION ALL SELECT p.name, 2, 'seeds chosen',
    (SELECT count(*) FROM pipeline_seeds s WHERE s.pipeline = p.name AND s.chosen) FROM pipelines p
UNION ALL SELECT p.name, 3, 'concepts drawn',
    (SELECT count(*) FROM pipeline_concepts c WHERE c.pipeline = p.name) FROM pipelines p
UNION ALL SELECT p.name, 4, 'concepts read',
    (SELECT count(*) FROM pipeline_concepts c WHERE c.pipeline = p.name AND c.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 5, 'instructions drawn',
    (SELECT count(*) FROM pipeline_instructions i WHERE i.pipeline = p.name) FROM pipelines p
UNION ALL SELECT p.name, 6, 'instructions read',
    (SELECT count(*) FROM pipeline_instructions i WHERE i.pipeline = p.name AND i.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 7, 'responses drawn',
    (SELECT count(*) FROM pipeline_responses r WHERE r.pipeline = p.name) FROM pipelines p
UNION ALL SELECT p.name, 8, 'responses read',
    (SELECT count(*) FROM pipeline_responses r WHERE r.pipeline = p.name AND r.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 9, 'responses executed',
    (SELECT count(*) FROM pipeline_responses r
     JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
     WHERE r.pipeline = p.name AND r.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 10, 'responses passed',
    (SELECT count(*) FROM pipeline_responses r
     JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
         AND e.verdict = 'PASSED'
     WHERE r.pipeline = p.name AND r.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 11, 'pairs accepted',
    (SELECT count(*) FROM judgements j WHERE j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses'
     AND j.kept) FROM pipelines p
"""

FUNNEL = FUNNEL_BEFORE.replace(
    "UNION ALL SELECT p.name, 11, 'pairs accepted',",
    """UNION ALL SELECT p.name, 11, 'responses kept by every filter',
    (SELECT count(*) FROM judgements j WHERE j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses'
     AND (j.kept OR j.other_id IS NOT NULL)) FROM pipelines p
UNION ALL SELECT p.name, 12, 'pairs accepted',""",
)


def upgrade() -> None:
    """Apply."""
    op.execute("DELETE FROM judgements")
    op.add_column("judgements", sa.Column("other_id", sa.String(length=32), nullable=True))
    op.add_column("executions", sa.Column("repeat_verdicts", sa.JSON(none_as_null=True), nullable=True))
    # SQLite adds a foreign key only by copying the table, which the views that read it forbid.
    op.add_column("pipelines", sa.Column("checks_recipe_id", sa.String(length=32), nullable=True))
    op.create_table(
        "checks",
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("response_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("other_id", sa.String(length=32), nullable=True),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("program_key", sa.String(length=32), nullable=False),
        sa.Column("executions_recipe_id", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["executions_recipe_id"], ["recipes.id"], name=op.f("fk_checks_executions_recipe_id_recipes")
        ),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_checks_recipe_id_recipes")),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name=op.f("fk_checks_response_id_responses")),
        sa.PrimaryKeyConstraint("recipe_id", "response_id", "kind", "number", name=op.f("pk_checks")),
    )
    op.create_table(
        "scores",
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("response_id", sa.String(length=32), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("tests", sa.Integer(), nullable=True),
        sa.Column("tests_passed", sa.Integer(), nullable=True),
        sa.Column("group_size", sa.Integer(), nullable=True),
        sa.Column("agreement", sa.Double(), nullable=True),
        sa.Column("stub_failed", sa.Boolean(), nullable=True),
        sa.Column("mutants", sa.Integer(), nullable=True),
        sa.Column("mutants_killed", sa.Integer(), nullable=True),
        sa.Column("mutation_score", sa.Double(), nullable=True),
        sa.Column("flaky", sa.Boolean(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_scores_recipe_id_recipes")),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name=op.f("fk_scores_response_id_responses")),
        sa.PrimaryKeyConstraint("recipe_id", "response_id", name=op.f("pk_scores")),
    )
    op.create_index("ix_scores_recipe_id_complete", "scores", ["recipe_id", "complete"])
    op.create_table(
        "bands",
        sa.Column("key", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("key", "subject_id", name=op.f("pk_bands")),
        sqlite_with_rowid=False,
    )
    _replace("rejected_pairs", REJECTED_PAIRS)
    _replace("funnel", FUNNEL)
    op.execute(f"CREATE VIEW scored_responses AS{SCORED_RESPONSES}")


def downgrade() -> None:
    """Undo."""
    op.execute("DROP VIEW scored_responses")
    _replace("funnel", FUNNEL_BEFORE)
    _replace("rejected_pairs", REJECTED_PAIRS_BEFORE)
    op.drop_table("bands")
    op.drop_index("ix_scores_recipe_id_complete", "scores")
    op.drop_table("scores")
    op.drop_table("checks")
    op.drop_column("pipelines", "checks_recipe_id")
    op.drop_column("executions", "repeat_verdicts")
    op.drop_column("judgements", "other_id")


def _replace(name: str, query: str) -> None:
    op.execute(f"DROP VIEW {name}")
    op.execute(f"CREATE VIEW {name} AS{query}")
