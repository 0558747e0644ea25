"""Seeds: functions with docstrings from permissively licensed Python code.

for record in gather(settings):              every function found, by key
    rejection = judge(record)                None, or the first filter that objects and why
"""

from __future__ import annotations

from generator.seeds.filters import SEED_FILTERS, Rejection, SeedFilter, judge
from generator.seeds.sources import gather, select

__all__ = ["SEED_FILTERS", "Rejection", "SeedFilter", "gather", "judge", "select"]
