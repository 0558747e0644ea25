"""Count a pipeline from indexes: one pass from its seeds down, whatever the rows of other pipelines.

Revision: 0008, after 0007.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

PIPELINE_CONCEPTS_BEFORE = """
SELECT p.name AS pipeline, c.id AS concepts_id, c.seed_id, c.error
FROM pipelines p
JOIN pipeline_seeds s ON s.pipeline = p.name AND s.chosen
JOIN concepts c ON c.recipe_id = p.concepts_recipe_id AND c.seed_id = s.seed_id
    AND c.sample_index < p.concepts_samples
WHERE p.judge_recipe_id IS NULL OR EXISTS (SELECT 1 FROM opinions o
    WHERE o.recipe_id = p.judge_recipe_id AND o.seed_id = s.seed_id AND o.sample_index = 0 AND o.worth)
"""

PIPELINE_INSTRUCTIONS_BEFORE = """
SELECT p.name AS pipeline, i.id AS instruction_id, i.concepts_id, c.seed_id, i.error
FROM pipelines p
JOIN pipeline_concepts c ON c.pipeline = p.name AND c.error IS NULL
JOIN instructions i ON i.recipe_id = p.instructions_recipe_id AND i.concepts_id = c.concepts_id
    AND i.sample_index < p.instructions_samples
"""

PIPELINE_RESPONSES_BEFORE = """
SELECT p.name AS pipeline, r.id AS response_id, r.instruction_id, i.concepts_id, i.seed_id, r.program_key, r.error
FROM pipelines p
JOIN pipeline_instructions i ON i.pipeline = p.name AND i.error IS NULL
JOIN responses r ON r.recipe_id = p.responses_recipe_id AND r.instruction_id = i.instruction_id
    AND r.sample_index < p.responses_samples
"""

FUNNEL_BEFORE = """
SELECT p.name AS pipeline, 1 AS step, 'seeds found' AS stage,
    (SELECT count(*) FROM pipeline_seeds s WHERE s.pipeline = p.name) AS rows
FROM pipelines p
UNION ALL SELECT p.name, 2, 'seeds chosen',
    (SELECT count(*) FROM pipeline_seeds s WHERE s.pipeline = p.name AND s.chosen) FROM pipelines p
UNION ALL SELECT p.name, 3, 'seeds judged',
    (SELECT count(*) FROM pipeline_seeds s JOIN opinions o ON o.recipe_id = p.judge_recipe_id
        AND o.seed_id = s.seed_id AND o.sample_index = 0 WHERE s.pipeline = p.name AND s.chosen)
FROM pipelines p WHERE p.judge_recipe_id IS NOT NULL
UNION ALL SELECT p.name, 4, 'seeds kept by the judge',
    (SELECT count(*) FROM pipeline_seeds s JOIN opinions o ON o.recipe_id = p.judge_recipe_id
        AND o.seed_id = s.seed_id AND o.sample_index = 0 AND o.worth WHERE s.pipeline = p.name AND s.chosen)
FROM pipelines p WHERE p.judge_recipe_id IS NOT NULL
UNION ALL SELECT p.name, 5, 'concepts drawn',
    (SELECT count(*) FROM pipeline_concepts c WHERE c.pipeline = p.name) FROM pipelines p
UNION ALL SELECT p.name, 6, 'concepts read',
    (SELECT count(*) FROM pipeline_concepts c WHERE c.pipeline = p.name AND c.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 7, 'instructions drawn',
    (SELECT count(*) FROM pipeline_instructions i WHERE i.pipeline = p.name) FROM pipelines p
UNION ALL SELECT p.name, 8, 'instructions read',
    (SELECT count(*) FROM pipeline_instructions i WHERE i.pipeline = p.name AND i.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 9, 'responses drawn',
    (SELECT count(*) FROM pipeline_responses r WHERE r.pipeline = p.name) FROM pipelines p
UNION ALL SELECT p.name, 10, 'responses read',
    (SELECT count(*) FROM pipeline_responses r WHERE r.pipeline = p.name AND r.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 11, 'responses executed',
    (SELECT count(*) FROM pipeline_responses r
     JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
     WHERE r.pipeline = p.name AND r.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 12, 'responses passed',
    (SELECT count(*) FROM pipeline_responses r
     JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
         AND e.verdict = 'PASSED'
     WHERE r.pipeline = p.name AND r.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 13, 'responses kept by every filter',
    (SELECT count(*) FROM judgements j WHERE j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses'
     AND (j.kept OR j.other_id IS NOT NULL)) FROM pipelines p
UNION ALL SELECT p.name, 14, 'pairs accepted',
    (SELECT count(*) FROM judgements j WHERE j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses'
     AND j.kept) FROM pipelines p
"""

PIPELINE_CONCEPTS = """
SELECT p.name AS pipeline, c.id AS concepts_id, c.seed_id, c.error
FROM pipelines p
CROSS JOIN pipeline_seeds s
CROSS JOIN concepts c
WHERE s.pipeline = p.name AND s.chosen
    AND (p.judge_recipe_id IS NULL OR EXISTS (SELECT 1 FROM opinions o
        WHERE o.recipe_id = p.judge_recipe_id AND o.seed_id = s.seed_id AND o.sample_index = 0 AND o.worth))
    AND c.recipe_id = p.concepts_recipe_id AND c.seed_id = s.seed_id AND c.sample_index < p.concepts_samples
"""

PIPELINE_INSTRUCTIONS = """
SELECT p.name AS pipeline, i.id AS instruction_id, i.concepts_id, c.seed_id, i.error
FROM pipelines p
CROSS JOIN pipeline_concepts c
CROSS JOIN instructions i
WHERE c.pipeline = p.name AND c.error IS NULL
    AND i.recipe_id = p.instructions_recipe_id AND i.concepts_id = c.concepts_id
    AND i.sample_index < p.instructions_samples
"""

PIPELINE_RESPONSES = """
SELECT p.name AS pipeline, r.id AS response_id, r.instruction_id, i.concepts_id, i.seed_id, r.program_key, r.error
FROM pipelines p
CROSS JOIN pipeline_instructions i
CROSS JOIN responses r
WHERE i.pipeline = p.name AND i.error IS NULL
    AND r.recipe_id = p.responses_recipe_id AND r.instruction_id = i.instruction_id
    AND r.sample_index < p.responses_samples
"""

VERDICTS = """
SELECT r.pipeline, e.verdict, count(*) AS responses
FROM pipelines p
CROSS JOIN pipeline_responses r
LEFT JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
WHERE r.pipeline = p.name AND r.error IS NULL
GROUP BY r.pipeline, e.verdict
"""

FUNNEL = """
SELECT p.name AS pipeline, 1 AS step, 'seeds found' AS stage,
    (SELECT count(*) FROM pipeline_seeds s WHERE s.pipeline = p.name) AS rows
FROM pipelines p
UNION ALL SELECT p.name, 2, 'seeds chosen',
    (SELECT count(*) FROM pipeline_seeds s WHERE s.pipeline = p.name AND s.chosen) FROM pipelines p
UNION ALL SELECT p.name, 3, 'seeds judged',
    (SELECT count(*) FROM pipeline_seeds s JOIN opinions o ON o.recipe_id = p.judge_recipe_id
        AND o.seed_id = s.seed_id AND o.sample_index = 0 WHERE s.pipeline = p.name AND s.chosen)
FROM pipelines p WHERE p.judge_recipe_id IS NOT NULL
UNION ALL SELECT p.name, 4, 'seeds kept by the judge',
    (SELECT count(*) FROM pipeline_seeds s JOIN opinions o ON o.recipe_id = p.judge_recipe_id
        AND o.seed_id = s.seed_id AND o.sample_index = 0 AND o.worth WHERE s.pipeline = p.name AND s.chosen)
FROM pipelines p WHERE p.judge_recipe_id IS NOT NULL
UNION ALL SELECT p.name, 5, 'concepts drawn',
    (SELECT count(*) FROM pipeline_concepts c WHERE c.pipeline = p.name) FROM pipelines p
UNION ALL SELECT p.name, 6, 'concepts read',
    (SELECT count(*) FROM pipeline_concepts c WHERE c.pipeline = p.name AND c.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 7, 'instructions drawn',
    (SELECT count(*) FROM pipeline_instructions i WHERE i.pipeline = p.name) FROM pipelines p
UNION ALL SELECT p.name, 8, 'instructions read',
    (SELECT count(*) FROM pipeline_instructions i WHERE i.pipeline = p.name AND i.error IS NULL) FROM pipelines p
UNION ALL SELECT p.name, 9, 'responses drawn',
    (SELECT count(*) FROM pipeline_responses r WHERE r.pipeline = p.name) FROM pipelines p
UNION ALL SELECT c.pipeline, n.step, n.stage,
    CASE n.step WHEN 10 THEN c.responses_read WHEN 11 THEN c.executed ELSE c.passed END
FROM (SELECT v.pipeline, CAST(sum(v.responses) AS BIGINT) AS responses_read,
        CAST(sum(CASE WHEN v.verdict IS NULL THEN 0 ELSE v.responses END) AS BIGINT) AS executed,
        CAST(sum(CASE WHEN v.verdict = 'PASSED' THEN v.responses ELSE 0 END) AS BIGINT) AS passed
    FROM (SELECT pipeline, verdict, responses FROM verdicts UNION ALL SELECT name, NULL, 0 FROM pipelines) v
    GROUP BY v.pipeline) c
CROSS JOIN (SELECT 10 AS step, 'responses read' AS stage UNION ALL SELECT 11, 'responses executed'
    UNION ALL SELECT 12, 'responses passed') n
UNION ALL SELECT p.name, 13, 'responses kept by every filter',
    (SELECT count(*) FROM judgements j WHERE j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses'
     AND (j.kept OR j.other_id IS NOT NULL)) FROM pipelines p
UNION ALL SELECT p.name, 14, 'pairs accepted',
    (SELECT count(*) FROM judgements j WHERE j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses'
     AND j.kept) FROM pipelines p
"""


def upgrade() -> None:
    """Apply."""
    readable = sa.text("error IS NULL")
    columns = ["recipe_id", "instruction_id", "sample_index", "id", "program_key"]
    op.create_index("ix_responses_usable", "responses", columns, sqlite_where=readable, postgresql_where=readable)
    _replace("pipeline_concepts", PIPELINE_CONCEPTS)
    _replace("pipeline_instructions", PIPELINE_INSTRUCTIONS)
    _replace("pipeline_responses", PIPELINE_RESPONSES)
    op.execute(f"CREATE VIEW verdicts AS{VERDICTS}")
    _replace("funnel", FUNNEL)


def downgrade() -> None:
    """Undo."""
    _replace("funnel", FUNNEL_BEFORE)
    op.execute("DROP VIEW verdicts")
    _replace("pipeline_responses", PIPELINE_RESPONSES_BEFORE)
    _replace("pipeline_instructions", PIPELINE_INSTRUCTIONS_BEFORE)
    _replace("pipeline_concepts", PIPELINE_CONCEPTS_BEFORE)
    op.drop_index("ix_responses_usable", "responses")


def _replace(name: str, query: str) -> None:
    """Put a query of the same columns in a view's place; PostgreSQL drops none that others read."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"CREATE OR REPLACE VIEW {name} AS{query}")
        return
    op.execute(f"DROP VIEW {name}")
    op.execute(f"CREATE VIEW {name} AS{query}")
