"""Seeds: functions with docstrings from permissively licensed Python code.

filters = seed_filters(settings)
for record in gather(settings):              every function found
    rejection = judge(record, filters)       None, or the first filter that objects and why; `judge_all` asks about many
"""

from __future__ import annotations

from generator.seeds.filters import (
    SEED_FILTERS,
    BatchFilter,
    Rejection,
    SeedFilter,
    batch_filters,
    judge,
    judge_all,
    seed_filters,
    seed_likenesses,
)
from generator.seeds.sources import gather, select

__all__ = [
    "SEED_FILTERS",
    "BatchFilter",
    "Rejection",
    "SeedFilter",
    "batch_filters",
    "gather",
    "judge",
    "judge_all",
    "seed_filters",
    "seed_likenesses",
    "select",
]
