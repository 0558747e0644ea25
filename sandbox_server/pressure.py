"""Hold programs back while the host is short of something (PSI, the kernel's pressure stall information)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from sandbox_server.admission import Admission

logger = logging.getLogger(__name__)

PRESSURE = Path("/proc/pressure")
_LOOK_AGAIN_S = 1.0


@contextlib.asynccontextmanager
async def watching_pressure(admission: Admission, max_percent: Mapping[str, float]) -> AsyncIterator[None]:
    """Run programs one at a time while a resource is under more pressure than it may be.

    Args:
        admission: what lets programs run.
        max_percent: by resource (``memory``, ``cpu``), the share of the last 10 s in which some process waited for it;
            0 never looks. A kernel without PSI is never under pressure.
    """
    watched = {resource: limit for resource, limit in max_percent.items() if limit and stalled_percent(resource) >= 0}
    task = asyncio.create_task(_watch(admission, watched)) if watched else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def stalled_percent(resource: str) -> float:
    """Read the share of the last 10 s in which some process waited for `resource`; -1 if the kernel does not tell."""
    try:
        some = (PRESSURE / resource).read_text().splitlines()[0]
        return float(some.split()[1].removeprefix("avg10="))
    except (OSError, IndexError, ValueError):
        return -1.0


async def _watch(admission: Admission, watched: Mapping[str, float]) -> None:
    held_back = False
    while True:
        short = [resource for resource, limit in watched.items() if stalled_percent(resource) > limit]
        if bool(short) != held_back:
            held_back = bool(short)
            admission.hold_back(held_back)
            if held_back:
                logger.warning("the host is short of %s: programs run one at a time", " and ".join(short))
            else:
                logger.info("the host has enough again")
        await asyncio.sleep(_LOOK_AGAIN_S)
