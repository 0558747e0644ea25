"""The first tables.

Revision: 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

VIEWS = (
    (
        "pipeline_concepts",
        """
SELECT p.name AS pipeline, c.id AS concepts_id, c.seed_id, c.error
FROM pipelines p
JOIN pipeline_seeds s ON s.pipeline = p.name AND s.chosen
JOIN concepts c ON c.recipe_id = p.concepts_recipe_id AND c.seed_id = s.seed_id
    AND c.sample_index < p.concepts_samples
""",
    ),
    (
        "pipeline_instructions",
        """
SELECT p.name AS pipeline, i.id AS instruction_id, i.concepts_id, c.seed_id, i.error
FROM pipelines p
JOIN pipeline_concepts c ON c.pipeline = p.name AND c.error IS NULL
JOIN instructions i ON i.recipe_id = p.instructions_recipe_id AND i.concepts_id = c.concepts_id
    AND i.sample_index < p.instructions_samples
""",
    ),
    (
        "pipeline_responses",
        """
SELECT p.name AS pipeline, r.id AS response_id, r.instruction_id, i.concepts_id, i.seed_id, r.program_key, r.error
FROM pipelines p
JOIN pipeline_instructions i ON i.pipeline = p.name AND i.error IS NULL
JOIN responses r ON r.recipe_id = p.responses_recipe_id AND r.instruction_id = i.instruction_id
    AND r.sample_index < p.responses_samples
""",
    ),
    (
        "lineage",
        """
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
""",
    ),
    (
        "accepted_pairs",
        """
SELECT d.name AS dataset, d.version AS dataset_version, x.position, x.response_id, x.instruction, x.response,
    r.code, r.test_code, i.category, i.difficulty, i.language, l.instruction_id, l.concepts_id, l.seed_id,
    l.responses_model AS model, l.origin, l.licence
FROM datasets d
JOIN dataset_items x ON x.dataset_id = d.id
JOIN responses r ON r.id = x.response_id
JOIN instructions i ON i.id = r.instruction_id
JOIN lineage l ON l.response_id = r.id
WHERE d.version = (SELECT max(n.version) FROM datasets n WHERE n.name = d.name)
""",
    ),
    (
        "rejected_pairs",
        """
SELECT p.name AS pipeline, r.id AS response_id, r.instruction_id, i.instruction, r.text, r.code, r.test_code,
    j.filter, j.filter_version, j.reason, e.verdict, e.error_type, e.error_message, m.parameters ->> 'model' AS model
FROM pipelines p
JOIN judgements j ON j.recipe_id = p.selection_recipe_id AND j.subject_table = 'responses' AND NOT j.kept
JOIN responses r ON r.id = j.subject_id
JOIN instructions i ON i.id = r.instruction_id
JOIN recipes m ON m.id = r.recipe_id
LEFT JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
""",
    ),
    (
        "funnel",
        """
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
""",
    ),
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "recipes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("parameters", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recipes")),
    )
    op.create_index("ix_recipes_stage", "recipes", ["stage"])

    op.create_table(
        "seeds",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("docstring", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("licence_source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_seeds")),
    )
    op.create_table(
        "concepts",
        sa.Column("seed_id", sa.String(length=32), nullable=False),
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("concepts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sample_index", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(length=32), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_concepts_recipe_id_recipes")),
        sa.ForeignKeyConstraint(["seed_id"], ["seeds.id"], name=op.f("fk_concepts_seed_id_seeds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_concepts")),
        sa.UniqueConstraint(
            "recipe_id", "seed_id", "sample_index", name=op.f("uq_concepts_recipe_id_seed_id_sample_index")
        ),
    )
    op.create_index("ix_concepts_seed_id", "concepts", ["seed_id"])

    op.create_table(
        "datasets",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("content_key", sa.String(length=32), nullable=False),
        sa.Column("parent_id", sa.String(length=32), nullable=True),
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["datasets.id"], name=op.f("fk_datasets_parent_id_datasets")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_datasets_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_datasets_name_version")),
    )
    op.create_table(
        "executions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("program_key", sa.String(length=32), nullable=False),
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("verdict", sa.String(length=32), nullable=False),
        sa.Column("assurance", sa.String(length=32), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("assertions_run", sa.Integer(), nullable=True),
        sa.Column("assertions_failed", sa.Integer(), nullable=True),
        sa.Column("first_failure", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_traceback", sa.Text(), nullable=True),
        sa.Column("stdout", sa.LargeBinary(), nullable=False),
        sa.Column("stderr", sa.LargeBinary(), nullable=False),
        sa.Column("wall_time_ms", sa.Double(), nullable=False),
        sa.Column("cpu_time_ms", sa.Double(), nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("runtime_fingerprint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_executions_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_executions")),
        sa.UniqueConstraint("program_key", "recipe_id", name=op.f("uq_executions_program_key_recipe_id")),
    )
    op.create_index("ix_executions_recipe_id", "executions", ["recipe_id"])
    op.create_index("ix_executions_verdict", "executions", ["verdict"])

    op.create_table(
        "judgements",
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=32), nullable=False),
        sa.Column("subject_table", sa.String(length=32), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("filter", sa.String(length=64), nullable=True),
        sa.Column("filter_version", sa.String(length=32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_judgements_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("recipe_id", "subject_id", name=op.f("pk_judgements")),
    )
    op.create_index("ix_judgements_subject_id", "judgements", ["subject_id"])

    op.create_table(
        "pipelines",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("parameters", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("seeds_recipe_id", sa.String(length=32), nullable=True),
        sa.Column("seed_filters_recipe_id", sa.String(length=32), nullable=True),
        sa.Column("concepts_recipe_id", sa.String(length=32), nullable=True),
        sa.Column("instructions_recipe_id", sa.String(length=32), nullable=True),
        sa.Column("responses_recipe_id", sa.String(length=32), nullable=True),
        sa.Column("executions_recipe_id", sa.String(length=32), nullable=True),
        sa.Column("selection_recipe_id", sa.String(length=32), nullable=True),
        sa.Column("concepts_samples", sa.Integer(), nullable=False),
        sa.Column("instructions_samples", sa.Integer(), nullable=False),
        sa.Column("responses_samples", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["concepts_recipe_id"], ["recipes.id"], name=op.f("fk_pipelines_concepts_recipe_id_recipes")
        ),
        sa.ForeignKeyConstraint(
            ["executions_recipe_id"], ["recipes.id"], name=op.f("fk_pipelines_executions_recipe_id_recipes")
        ),
        sa.ForeignKeyConstraint(
            ["instructions_recipe_id"], ["recipes.id"], name=op.f("fk_pipelines_instructions_recipe_id_recipes")
        ),
        sa.ForeignKeyConstraint(
            ["responses_recipe_id"], ["recipes.id"], name=op.f("fk_pipelines_responses_recipe_id_recipes")
        ),
        sa.ForeignKeyConstraint(
            ["seed_filters_recipe_id"], ["recipes.id"], name=op.f("fk_pipelines_seed_filters_recipe_id_recipes")
        ),
        sa.ForeignKeyConstraint(["seeds_recipe_id"], ["recipes.id"], name=op.f("fk_pipelines_seeds_recipe_id_recipes")),
        sa.ForeignKeyConstraint(
            ["selection_recipe_id"], ["recipes.id"], name=op.f("fk_pipelines_selection_recipe_id_recipes")
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pipelines")),
    )
    op.create_table(
        "instructions",
        sa.Column("concepts_id", sa.String(length=32), nullable=False),
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("difficulty", sa.Text(), nullable=False),
        sa.Column("language", sa.Text(), nullable=False),
        sa.Column("instruction", sa.Text(), nullable=True),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sample_index", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(length=32), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["concepts_id"], ["concepts.id"], name=op.f("fk_instructions_concepts_id_concepts")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_instructions_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instructions")),
        sa.UniqueConstraint(
            "recipe_id", "concepts_id", "sample_index", name=op.f("uq_instructions_recipe_id_concepts_id_sample_index")
        ),
    )
    op.create_index("ix_instructions_concepts_id", "instructions", ["concepts_id"])

    op.create_table(
        "pipeline_seeds",
        sa.Column("pipeline", sa.String(length=128), nullable=False),
        sa.Column("seed_id", sa.String(length=32), nullable=False),
        sa.Column("chosen", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["pipeline"], ["pipelines.name"], name=op.f("fk_pipeline_seeds_pipeline_pipelines")),
        sa.ForeignKeyConstraint(["seed_id"], ["seeds.id"], name=op.f("fk_pipeline_seeds_seed_id_seeds")),
        sa.PrimaryKeyConstraint("pipeline", "seed_id", name=op.f("pk_pipeline_seeds")),
    )
    op.create_table(
        "trainings",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("output", sa.Text(), nullable=False),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_trainings_dataset_id_datasets")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_trainings_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trainings")),
    )
    op.create_index("ix_trainings_dataset_id", "trainings", ["dataset_id"])

    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("training_id", sa.String(length=32), nullable=True),
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("benchmark", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("scores", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_evaluations_recipe_id_recipes")),
        sa.ForeignKeyConstraint(["training_id"], ["trainings.id"], name=op.f("fk_evaluations_training_id_trainings")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    op.create_index("ix_evaluations_benchmark", "evaluations", ["benchmark"])
    op.create_index("ix_evaluations_training_id", "evaluations", ["training_id"])

    op.create_table(
        "responses",
        sa.Column("instruction_id", sa.String(length=32), nullable=False),
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("reasoning", sa.Text(), nullable=True),
        sa.Column("implementation", sa.Text(), nullable=True),
        sa.Column("explanation", sa.Text(), nullable=True),
        sa.Column("tests", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("test_code", sa.Text(), nullable=True),
        sa.Column("program_key", sa.String(length=32), nullable=True),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sample_index", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(length=32), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["instruction_id"], ["instructions.id"], name=op.f("fk_responses_instruction_id_instructions")
        ),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_responses_recipe_id_recipes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_responses")),
        sa.UniqueConstraint(
            "recipe_id",
            "instruction_id",
            "sample_index",
            name=op.f("uq_responses_recipe_id_instruction_id_sample_index"),
        ),
    )
    op.create_index("ix_responses_instruction_id", "responses", ["instruction_id"])
    op.create_index("ix_responses_program_key", "responses", ["program_key"])

    op.create_table(
        "dataset_items",
        sa.Column("dataset_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("response_id", sa.String(length=32), nullable=False),
        sa.Column("instruction", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_items_dataset_id_datasets")),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name=op.f("fk_dataset_items_response_id_responses")),
        sa.PrimaryKeyConstraint("dataset_id", "position", name=op.f("pk_dataset_items")),
    )
    op.create_index("ix_dataset_items_response_id", "dataset_items", ["response_id"])

    op.create_table(
        "evaluation_samples",
        sa.Column("evaluation_id", sa.String(length=32), nullable=False),
        sa.Column("task_id", sa.String(length=128), nullable=False),
        sa.Column("sample_index", sa.Integer(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("verdict", sa.String(length=32), nullable=False),
        sa.Column("details", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name=op.f("fk_evaluation_samples_evaluation_id_evaluations")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "task_id", "sample_index", name=op.f("pk_evaluation_samples")),
    )
    op.create_index("ix_evaluation_samples_verdict", "evaluation_samples", ["verdict"])
    for name, query in VIEWS:
        op.execute(f"CREATE VIEW {name} AS{query}")


def downgrade() -> None:
    """Undo."""
    for name, _ in reversed(VIEWS):
        op.execute(f"DROP VIEW {name}")

    op.drop_table("evaluation_samples")

    op.drop_table("dataset_items")

    op.drop_table("responses")

    op.drop_table("evaluations")

    op.drop_table("trainings")
    op.drop_table("pipeline_seeds")

    op.drop_table("instructions")
    op.drop_table("pipelines")

    op.drop_table("judgements")

    op.drop_table("executions")
    op.drop_table("datasets")

    op.drop_table("concepts")
    op.drop_table("seeds")

    op.drop_table("recipes")
