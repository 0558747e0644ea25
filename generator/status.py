"""How far pipelines are, from the database alone: any shell can ask while a build runs in another."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from generator.store import Database

_PIPELINES = "SELECT name FROM pipelines ORDER BY name"
_FUNNEL = "SELECT stage, rows FROM funnel WHERE pipeline = :name ORDER BY step"
_VERDICTS = """
SELECT e.verdict, count(*) AS responses
FROM pipelines p
JOIN pipeline_responses r ON r.pipeline = p.name
JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
WHERE p.name = :name
GROUP BY e.verdict ORDER BY responses DESC, e.verdict
"""
_REJECTIONS = """
SELECT filter, reason, count(*) AS responses
FROM rejected_pairs WHERE pipeline = :name
GROUP BY filter, reason ORDER BY responses DESC, reason
"""
_DATASETS = "SELECT id, name, version, size, created_at FROM datasets ORDER BY name, version"
_ORIGINS = """
SELECT s.licence, s.origin, count(*) AS found, sum(CASE WHEN m.chosen THEN 1 ELSE 0 END) AS chosen
FROM pipeline_seeds m JOIN seeds s ON s.id = m.seed_id
WHERE m.pipeline = :name GROUP BY s.licence, s.origin ORDER BY found DESC, s.origin
"""
_SEED_REJECTIONS = """
SELECT j.filter, count(*) AS rejected, min(j.reason) AS example
FROM pipeline_seeds m JOIN judgements j ON j.subject_id = m.seed_id AND j.recipe_id = :recipe AND NOT j.kept
WHERE m.pipeline = :name GROUP BY j.filter ORDER BY rejected DESC, j.filter
"""


def seed_summary(database: Database, pipeline: str, filters: str) -> dict[str, Any]:
    """Count a pipeline's seeds.

    Args:
        database: to look in.
        pipeline: whose seeds.
        filters: recipe id of the seed filters.

    Returns:
        `found` and `chosen`, over all and by `origins`, and the `rejections` by filter, each with an example.
    """
    with database.reading() as session:
        values = {"name": pipeline, "recipe": filters}
        origins = [dict(row) for row in session.execute(sa.text(_ORIGINS), {"name": pipeline}).mappings()]
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

        names = [row["name"] for row in rows(_PIPELINES) if pipeline in (None, row["name"])]
        return {
            "pipelines": {
                name: {
                    "funnel": rows(_FUNNEL, name=name),
                    "verdicts": rows(_VERDICTS, name=name),
                    "rejections": rows(_REJECTIONS, name=name),
                }
                for name in names
            },
            "datasets": [row | {"created_at": str(row["created_at"])} for row in rows(_DATASETS)],
        }
