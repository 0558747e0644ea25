"""The SQL interface: views that stay stable while tables change. `docs/sql.md` shows them at work.

Each runs unchanged on SQLite and PostgreSQL. A database gets them from its migrations, which hold copies of their own;
a test compares those with these.
"""

from __future__ import annotations

# CROSS JOIN is SQLite's word for "in this order": from the seeds down, each step along an index that holds all it asks.
# Left to choose, it begins with the rows and looks up the whole chain of each. To PostgreSQL it is a join as any other.
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

LINEAGE = """
SELECT r.id AS response_id, r.sample_index, r.instruction_id, i.concepts_id, c.seed_id, r.program_key,
    s.name AS seed_name, s.origin, s.version, s.path, s.line, s.licence,
    r.recipe_id AS responses_recipe_id, i.recipe_id AS instructions_recipe_id, c.recipe_id AS concepts_recipe_id,
    rr.parameters ->> 'model' AS responses_model, ri.parameters ->> 'model' AS instructions_model,
    rc.parameters ->> 'model' AS concepts_model
FROM responses r
JOIN instructions i ON i.id = r.instruction_id
JOIN concepts c ON c.id = i.concepts_id
JOIN seeds s ON s.id = c.seed_id
JOIN recipes rr ON rr.id = r.recipe_id
JOIN recipes ri ON ri.id = i.recipe_id
JOIN recipes rc ON rc.id = c.recipe_id
"""

ACCEPTED_PAIRS = """
SELECT d.name AS dataset, d.version AS dataset_version, x.position, x.response_id, x.instruction, x.response,
    r.code, r.test_code, i.category, i.difficulty, i.language, l.instruction_id, l.concepts_id, l.seed_id,
    l.responses_model AS model, l.origin, l.licence
FROM datasets d
JOIN dataset_items x ON x.dataset_id = d.id
JOIN responses r ON r.id = x.response_id
JOIN instructions i ON i.id = r.instruction_id
JOIN lineage l ON l.response_id = r.id
WHERE d.version = (SELECT max(n.version) FROM datasets n WHERE n.name = d.name)
"""

REJECTED_PAIRS = """
SELECT p.name AS pipeline, r.id AS response_id, r.instruction_id, i.instruction, r.text, r.code, r.test_code,
    j.filter, j.filter_version, j.reason, e.verdict, e.error_type, e.error_message, m.parameters ->> 'model' AS model,
    j.other_id
FROM pipelines p
JOIN judgements j ON j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses' AND NOT j.kept
JOIN responses r ON r.id = j.subject_id
JOIN instructions i ON i.id = r.instruction_id
JOIN recipes m ON m.id = r.recipe_id
LEFT JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
"""

_FUNNEL = """
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
    FROM (SELECT pipeline, verdict, responses FROM {verdicts} UNION ALL SELECT name, NULL, 0 FROM pipelines) v
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


def funnel(verdicts: str) -> str:
    """The query of the view `funnel`, with `verdicts` for the table that says what the view of that name says."""
    return _FUNNEL.format(verdicts=verdicts)


FUNNEL = funnel("verdicts")

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

VIEWS: tuple[tuple[str, str], ...] = (
    # Later ones read earlier ones.
    ("pipeline_concepts", PIPELINE_CONCEPTS),
    ("pipeline_instructions", PIPELINE_INSTRUCTIONS),
    ("pipeline_responses", PIPELINE_RESPONSES),
    ("verdicts", VERDICTS),
    ("lineage", LINEAGE),
    ("accepted_pairs", ACCEPTED_PAIRS),
    ("rejected_pairs", REJECTED_PAIRS),
    ("funnel", FUNNEL),
    ("preference_pairs", PREFERENCE_PAIRS),
    ("scored_responses", SCORED_RESPONSES),
    ("rejected_seeds", REJECTED_SEEDS),
)
