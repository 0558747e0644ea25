"""What a pipeline has come to, counted once for all pages: funnel, verdicts, why pairs were rejected, and when."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import sqlalchemy as sa

from generator.store import Database
from generator.view.sidecar import Counted, stamp

_FUNNEL = "SELECT stage, rows FROM funnel WHERE pipeline = :name ORDER BY step"
_SPAN = """
SELECT min(e.created_at), max(e.created_at) FROM executions e
JOIN pipelines p ON p.name = :name AND e.recipe_id = p.executions_recipe_id
"""
_GRID = """
SELECT {time} AS moment, e.verdict, j.kept, j.filter, j.reason, count(*) AS responses
FROM pipelines p
JOIN responses r ON r.recipe_id = p.responses_recipe_id AND r.sample_index < p.responses_samples
LEFT JOIN executions e ON e.recipe_id = p.executions_recipe_id AND e.program_key = r.program_key
LEFT JOIN judgements j ON j.recipe_id = p.selection_recipe_id AND j.subject_id = r.id
WHERE p.name = :name AND r.instruction_id IN
    (SELECT instruction_id FROM pipeline_instructions WHERE pipeline = :name AND error IS NULL)
GROUP BY 1, 2, 3, 4, 5
"""
# A time as text, cut after so many characters, is a moment of that length in seconds.
_MOMENTS = ((19, 1), (18, 10), (16, 60), (15, 600), (13, 3600), (10, 86400), (7, 30 * 86400))
_MOST_MOMENTS = 60
_MOST_REASONS = 100


def count(database: Database, name: str) -> Counted:
    """Count everything that the overview of one pipeline shows.

    Returns:
        `funnel`: (stage, rows); `verdicts` and `rejections` with their responses; `moments`: for each, when it began
        and how many responses there were by verdict and by the filter that rejected them.
    """
    state, began = stamp(database), time.monotonic()
    is_sqlite = database.engine.dialect.name == "sqlite"
    with database.reading() as session:
        values = {"name": name}
        funnel = [(row.stage, row.rows) for row in session.execute(sa.text(_FUNNEL), values)]
        first, last = (_iso(value) for value in session.execute(sa.text(_SPAN), values).one())
        length, unit_s = _unit(first, last)
        created = "coalesce(e.created_at, r.created_at)"
        iso = created if is_sqlite else f"to_char({created} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"
        grid = session.execute(sa.text(_GRID.format(time=f"substr({iso}, 1, {length})")), values).all()
    verdicts: Counter[str] = Counter()
    rejections: Counter[tuple[str, str]] = Counter()
    moments: dict[str, dict[str, Counter[str]]] = {}
    for row in grid:
        verdicts[row.verdict or "not run"] += row.responses
        moment = moments.setdefault(row.moment, {"verdicts": Counter(), "filters": Counter()})
        moment["verdicts"][row.verdict or "not run"] += row.responses
        if row.kept is not None:
            moment["filters"]["accepted" if row.kept else f"rejected by {row.filter}"] += row.responses
            if not row.kept:
                rejections[row.filter, row.reason] += row.responses
    counts: dict[str, Any] = {
        "funnel": funnel,
        "verdicts": verdicts.most_common(),
        "rejections": [[*key, responses] for key, responses in rejections.most_common(_MOST_REASONS)],
        "reasons": len(rejections),
        "moments": [[moment, moments[moment]] for moment in sorted(moments)],
        "unit_s": unit_s,
    }
    return Counted(counts, state, time.time(), time.monotonic() - began)


def _iso(value: Any) -> str:
    return "" if value is None else str(value)


def _unit(first: str, last: str) -> tuple[int, int]:
    """How much of a time to keep so that there are few enough moments."""
    if not first:
        return _MOMENTS[-1]
    import datetime as dt

    span_s = (dt.datetime.fromisoformat(last) - dt.datetime.fromisoformat(first)).total_seconds()
    return next((moment for moment in _MOMENTS if span_s / moment[1] <= _MOST_MOMENTS), _MOMENTS[-1])
