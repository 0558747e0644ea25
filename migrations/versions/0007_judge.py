"""Ask the model whether a seed is worth reading: its opinions, and the views that heed them.

Revision: 0007, after 0006.
"""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

PIPELINE_CONCEPTS_BEFORE = """
SELECT p.name AS pipeline, c.id AS concepts_id, c.seed_id, c.error
FROM pipelines p
JOIN pipeline_seeds s ON s.pipeline = p.name AND s.chosen
JOIN concepts c ON c.recipe_id = p.concepts_recipe_id AND c.seed_id = s.seed_id
    AND c.sample_index < p.concepts_samples
"""

_HEEDED = """WHERE p.judge_recipe_id IS NULL OR EXISTS (SELECT 1 FROM opinions o
    WHERE o.recipe_id = p.judge_recipe_id AND o.seed_id = s.seed_id AND o.sample_index = 0 AND o.worth)
"""
PIPELINE_CONCEPTS = PIPELINE_CONCEPTS_BEFORE + _HEEDED

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
UNION ALL SELECT p.name, 11, 'responses kept by every filter',
    (SELECT count(*) FROM judgements j WHERE j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses'
     AND (j.kept OR j.other_id IS NOT NULL)) FROM pipelines p
UNION ALL SELECT p.name, 12, 'pairs accepted',
    (SELECT count(*) FROM judgements j WHERE j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses'
     AND j.kept) FROM pipelines p
"""

_JUDGED = """UNION ALL SELECT p.name, 3, 'seeds judged',
    (SELECT count(*) FROM pipeline_seeds s JOIN opinions o ON o.recipe_id = p.judge_recipe_id
        AND o.seed_id = s.seed_id AND o.sample_index = 0 WHERE s.pipeline = p.name AND s.chosen)
FROM pipelines p WHERE p.judge_recipe_id IS NOT NULL
UNION ALL SELECT p.name, 4, 'seeds kept by the judge',
    (SELECT count(*) FROM pipeline_seeds s JOIN opinions o ON o.recipe_id = p.judge_recipe_id
        AND o.seed_id = s.seed_id AND o.sample_index = 0 AND o.worth WHERE s.pipeline = p.name AND s.chosen)
FROM pipelines p WHERE p.judge_recipe_id IS NOT NULL
"""
_MOVED = re.sub(r"p\.name, (\d+), ", lambda step: f"p.name, {int(step[1]) + 2}, ", FUNNEL_BEFORE)
FUNNEL = _MOVED.replace("p.name, 4, 'seeds chosen'", "p.name, 2, 'seeds chosen'").replace(
    "UNION ALL SELECT p.name, 5, ", _JUDGED + "UNION ALL SELECT p.name, 5, "
)

REJECTED_SEEDS = """
SELECT m.pipeline, s.id AS seed_id, s.name, s.origin, j.filter, j.reason
FROM pipelines p
JOIN pipeline_seeds m ON m.pipeline = p.name
JOIN judgements j ON j.recipe_id = p.seed_filters_recipe_id AND j.subject_id = m.seed_id AND NOT j.kept
JOIN seeds s ON s.id = m.seed_id
UNION ALL
SELECT m.pipeline, s.id, s.name, s.origin, 'judge', coalesce(o.error, nullif(o.reason, ''), 'the model answered No')
FROM pipelines p
JOIN pipeline_seeds m ON m.pipeline = p.name AND m.chosen
JOIN opinions o ON o.recipe_id = p.judge_recipe_id AND o.seed_id = m.seed_id AND o.sample_index = 0
    AND (o.error IS NOT NULL OR NOT o.worth)
JOIN seeds s ON s.id = m.seed_id
"""


def upgrade() -> None:
    """Apply."""
    # SQLite adds a foreign key only by copying the table, which the views that read it forbid.
    op.add_column("pipelines", sa.Column("judge_recipe_id", sa.String(length=32), nullable=True))
    op.create_table(
        "opinions",
        sa.Column("seed_id", sa.String(length=32), nullable=False),
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("worth", sa.Boolean(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sample_index", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(length=32), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_opinions_recipe_id_recipes")),
        sa.ForeignKeyConstraint(["seed_id"], ["seeds.id"], name=op.f("fk_opinions_seed_id_seeds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_opinions")),
        sa.UniqueConstraint(
            "recipe_id", "seed_id", "sample_index", name=op.f("uq_opinions_recipe_id_seed_id_sample_index")
        ),
    )
    op.create_index("ix_opinions_seed_id", "opinions", ["seed_id"])
    _replace("pipeline_concepts", PIPELINE_CONCEPTS)
    _replace("funnel", FUNNEL)
    op.execute(f"CREATE VIEW rejected_seeds AS{REJECTED_SEEDS}")


def downgrade() -> None:
    """Undo."""
    op.execute("DROP VIEW rejected_seeds")
    _replace("funnel", FUNNEL_BEFORE)
    _replace("pipeline_concepts", PIPELINE_CONCEPTS_BEFORE)
    op.drop_index("ix_opinions_seed_id", "opinions")
    op.drop_table("opinions")
    op.drop_column("pipelines", "judge_recipe_id")


def _replace(name: str, query: str) -> None:
    """Put a query of the same columns in a view's place; PostgreSQL drops none that others read."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"CREATE OR REPLACE VIEW {name} AS{query}")
        return
    op.execute(f"DROP VIEW {name}")
    op.execute(f"CREATE VIEW {name} AS{query}")
