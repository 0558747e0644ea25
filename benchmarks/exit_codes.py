"""How many self-tested answers would pass if exit code 0 were enough, and what the sandbox says of those.

    python benchmarks/exit_codes.py [--db sqlite:///runs/demo.db]

Every program of the database is run once more as one plain script, code and tests together, in the same jails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import Counter

from sqlalchemy import select

from generator.models import Execution, Response
from generator.store import open_database
from sandbox_server.client import connect
from sandbox_server.jobs import Job, LimitsRequest

LIMITS = LimitsRequest(cpu_time_ms=2000)


async def exit_codes(programs: dict[str, tuple[str, str]]) -> dict[str, int | None]:
    """Run each program as a script and return its exit code; None for one that did not end by itself."""
    async with connect("embedded") as sandbox:

        async def run(code: str, tests: str) -> int | None:
            return (await sandbox.run(Job(code=f"{code}\n\n{tests}", limits=LIMITS))).exit_code

        codes = await asyncio.gather(*(run(*program) for program in programs.values()))
    return dict(zip(programs, codes, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", default="sqlite:///runs/demo.db")
    with contextlib.closing(open_database(parser.parse_args().db)) as database, database.reading() as session:
        rows = session.execute(
            select(Response.program_key, Response.code, Response.test_code, Execution.verdict).join(
                Execution, Execution.program_key == Response.program_key
            )
        ).all()
    programs = {key: (code or "", tests or "") for key, code, tests, _ in rows}
    verdicts = {key: verdict for key, _, _, verdict in rows}
    codes = asyncio.run(exit_codes(programs))
    clean = [key for key, code in codes.items() if code == 0]
    print(f"{len(programs)} programs; {len(clean)} end with exit code 0; the sandbox's verdicts on those:")
    for verdict, count in Counter(verdicts[key] for key in clean).most_common():
        print(f"  {verdict:<14}{count:>4}")


if __name__ == "__main__":
    main()
