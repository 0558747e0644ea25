"""How far pipelines are, from the database alone: any shell can ask while a build runs in another."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from generator import work
from generator.models import Pipeline, PipelineSeed
from generator.store import Database
from generator.work import JUDGE, LEVELS, Chain

_READ = "SELECT count(*) FROM pipeline_responses WHERE pipeline = :pipeline AND error IS NULL"
_VERDICTS = """
SELECT e.verdict, count(*) AS responses
FROM pipeline_responses r
JOIN executions e ON e.recipe_id = :executions AND e.program_key = r.program_key
WHERE r.pipeline = :pipeline
GROUP BY e.verdict ORDER BY responses DESC, e.verdict
"""
# The same where the pipeline has all responses of their recipe: two indexes are read, and no row.
_READ_ALL = "SELECT count(*) FROM responses WHERE recipe_id = :responses AND program_key IS NOT NULL"
_VERDICTS_ALL = """
SELECT e.verdict, count(*) AS responses
FROM executions e CROSS JOIN responses r
WHERE e.recipe_id = :executions AND r.recipe_id = :responses AND r.program_key = e.program_key
GROUP BY e.verdict ORDER BY responses DESC, e.verdict
"""
_ALL = "SELECT count(*) FROM responses WHERE recipe_id = :responses"
_JUDGED = """
SELECT kept, filter, reason, count(*) AS responses, count(other_id) AS alike
FROM judgements WHERE recipe_id = :selection AND subject_table = 'responses'
GROUP BY kept, filter, reason ORDER BY responses DESC, reason
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
        rows = session.scalars(sa.select(Pipeline).order_by(Pipeline.name)).all()
        datasets = [dict(row) for row in session.execute(sa.text(_DATASETS)).mappings()]
    return {
        "pipelines": {row.name: _progress(database, row) for row in rows if pipeline in (None, row.name)},
        "datasets": [row | {"created_at": str(row["created_at"])} for row in datasets],
    }


def _progress(database: Database, row: Pipeline) -> dict[str, Any]:
    """What the view `funnel` says of one pipeline, with its verdicts and rejections, at the cost of far fewer looks."""
    stages = [stage for stage in LEVELS if stage != JUDGE or row.judge_recipe_id]
    chain = Chain(
        pipeline=row.name,
        recipes={stage: getattr(row, f"{stage}_recipe_id") for stage in stages},
        samples={stage: 1 if stage == JUDGE else getattr(row, f"{stage}_samples") for stage in stages},
    )
    values = {
        "pipeline": row.name,
        "responses": row.responses_recipe_id,
        "executions": row.executions_recipe_id,
        "selection": row.selection_recipe_id,
    }
    member = PipelineSeed
    found = sa.select(sa.func.count()).select_from(member).where(member.pipeline == row.name)
    *judge, concepts, instructions, responses = (work.count(database, chain, stage) for stage in stages)
    with database.reading() as session:

        def rows(query: str) -> list[dict[str, Any]]:
            return [dict(row) for row in session.execute(sa.text(query), values).mappings()]

        has_all = session.scalar(sa.text(_ALL), values) == responses.rows
        read = session.scalar(sa.text(_READ_ALL if has_all else _READ), values)
        verdicts = rows(_VERDICTS_ALL if has_all else _VERDICTS)
        judged = rows(_JUDGED)
        seeds_found = session.scalar(found)
    ended = {verdict["verdict"]: verdict["responses"] for verdict in verdicts}
    accepted = sum(entry["responses"] for entry in judged if entry["kept"])
    funnel = {
        "seeds found": seeds_found,
        "seeds chosen": (judge[0] if judge else concepts).parents,
        **({"seeds judged": judge[0].rows, "seeds kept by the judge": concepts.parents} if judge else {}),
        "concepts drawn": concepts.rows,
        "concepts read": instructions.parents,
        "instructions drawn": instructions.rows,
        "instructions read": responses.parents,
        "responses drawn": responses.rows,
        "responses read": read,
        "responses executed": sum(ended.values()),
        "responses passed": ended.get("PASSED", 0),
        "responses kept by every filter": accepted + sum(entry["alike"] for entry in judged),
        "pairs accepted": accepted,
    }
    return {
        "funnel": [{"stage": stage, "rows": count} for stage, count in funnel.items()],
        "verdicts": verdicts,
        "rejections": [
            {name: entry[name] for name in ("filter", "reason", "responses")} for entry in judged if not entry["kept"]
        ],
    }
