"""How far pipelines are, from the database alone: any shell can ask while a build runs in another."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from generator import views
from generator.models import Pipeline
from generator.store import Database

# The view `funnel`, and the verdicts that it counts, in one pass over the responses.
_COUNTS = f"""
WITH counted AS MATERIALIZED (SELECT pipeline, verdict, responses FROM verdicts WHERE pipeline = :pipeline)
SELECT f.step, f.stage AS name, f.rows FROM ({views.funnel("counted")}) f WHERE f.pipeline = :pipeline
UNION ALL SELECT NULL, verdict, responses FROM counted WHERE verdict IS NOT NULL
ORDER BY 1, 3 DESC, 2
"""  # noqa: S608  # constants
_REJECTIONS = """
SELECT filter, reason, count(*) AS responses
FROM judgements j JOIN pipelines p ON p.selection_recipe_id = j.recipe_id
WHERE p.name = :pipeline AND j.subject_table = 'responses' AND NOT j.kept
GROUP BY filter, reason ORDER BY responses DESC, reason
"""
_DATASETS = "SELECT id, name, version, size, created_at FROM datasets ORDER BY name, version"
_ORIGINS = """
SELECT s.licence, s.origin, count(*) AS found, sum(CASE WHEN m.chosen THEN 1 ELSE 0 END) AS chosen
FROM pipeline_seeds m JOIN seeds s ON s.id = m.seed_id
WHERE m.pipeline = :name GROUP BY s.licence, s.origin ORDER BY found DESC, s.origin
"""
_SEED_REJECTIONS = """
SELECT filter, count(*) AS rejected, min(reason) AS example
FROM rejected_seeds WHERE pipeline = :name GROUP BY filter ORDER BY rejected DESC, filter
"""


def seed_summary(database: Database, pipeline: str) -> dict[str, Any]:
    """Count a pipeline's seeds.

    Args:
        database: to look in.
        pipeline: whose seeds.

    Returns:
        `found` and `chosen`, over all and by `origins`, and the `rejections` by filter, each with an example.
    """
    with database.reading() as session:
        values = {"name": pipeline}
        origins = [dict(row) for row in session.execute(sa.text(_ORIGINS), values).mappings()]
        rejections = [dict(row) for row in session.execute(sa.text(_SEED_REJECTIONS), values).mappings()]
    found, chosen = (sum(origin[key] for origin in origins) for key in ("found", "chosen"))
    return {"found": found, "chosen": chosen, "origins": origins, "rejections": rejections}


def status(database: Database, pipeline: str | None) -> dict[str, Any]:
    """Count what one pipeline, or every one, has come to.

    Returns:
        `pipelines`: by name the `funnel`, `verdicts` and `rejections`; `datasets`: every snapshot.
    """
    with database.reading() as session:

        def rows(query: str, **values: str) -> list[dict[str, Any]]:
            return [dict(row) for row in session.execute(sa.text(query), values).mappings()]

        names = session.scalars(sa.select(Pipeline.name).order_by(Pipeline.name)).all()
        pipelines = {}
        for name in names:
            if pipeline in (None, name):
                counts = rows(_COUNTS, pipeline=name)
                pipelines[name] = {
                    "funnel": [{"stage": row["name"], "rows": row["rows"]} for row in counts if row["step"]],
                    "verdicts": [
                        {"verdict": row["name"], "responses": row["rows"]} for row in counts if not row["step"]
                    ],
                    "rejections": rows(_REJECTIONS, pipeline=name),
                }
        datasets = [row | {"created_at": str(row["created_at"])} for row in rows(_DATASETS)]
    return {"pipelines": pipelines, "datasets": datasets}
