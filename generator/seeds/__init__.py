"""Seeds: functions with docstrings from permissively licensed Python code.

filters = seed_filters(settings)
for record in gather(settings):              every function found
    rejection = judge(record, filters)       None, or the first filter that objects and why
"""

from __future__ import annotations

from generator.seeds.filters import SEED_FILTERS, Rejection, SeedFilter, judge, seed_filters, seed_likenesses
from generator.seeds.sources import gather, select

__all__ = ["SEED_FILTERS", "Rejection", "SeedFilter", "gather", "judge", "seed_filters", "seed_likenesses", "select"]
