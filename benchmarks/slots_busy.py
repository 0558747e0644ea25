"""How busy a build keeps the sandbox's slots, and what drawing and running side by side saves.

    python benchmarks/slots_busy.py [--programs 600] [--program-ms 100] [--model-ms 20] [--quick]

The sandbox is the real one; programs sleep, so that a loaded machine tells the same, and the model answers after a
given time. Busy: the programs' own wall time, over slots times the time from the first program to the last; making a
world for each, parsing and storing are what is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from store_rows import SEED, InstantModel, Timed  # beside this file

from generator import models
from generator.engines import Completion, CompletionRequest
from generator.pipeline import build
from generator.recipe import ModelSettings, Recipe, SeedSettings, StageSettings
from generator.store import open_database
from sandbox_server.client import connect

SAMPLES = 10


class SlowModel(InstantModel):
    """Answers after a while, with programs that take a while."""

    def __init__(self, answer_s: float, program_s: float) -> None:
        super().__init__()
        self._answer_s, self._program_s = answer_s, program_s

    async def complete(self, request: CompletionRequest) -> Completion:
        """Answer."""
        completion = await super().complete(request)
        await asyncio.sleep(self._answer_s)
        sleep = f"import time\ntime.sleep({self._program_s})\nassert add(0) =="
        text = completion.text.replace("assert add(0) ==", sleep)
        return Completion(text, completion.finish_reason, completion.prompt_tokens, completion.completion_tokens)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=600)
    parser.add_argument("--program-ms", type=float, default=100.0)
    parser.add_argument("--model-ms", type=float, default=20.0)
    parser.add_argument("--concurrency", type=int, default=1, help="of the model")
    parser.add_argument("--quick", action="store_true", help="100 programs")
    options = parser.parse_args()
    programs = 100 if options.quick else options.programs
    with tempfile.TemporaryDirectory() as folder:
        for number in range(programs // SAMPLES):
            Path(folder, f"add_{number}.py").write_text(SEED.format(number=number))
        recipe = Recipe(
            name="bench",
            model=ModelSettings("slow", mode="completion", concurrency=options.concurrency),
            seeds=SeedSettings(source="folder", path=folder, licence="MIT"),
            responses=StageSettings(fewshots=1, samples=SAMPLES),
        )
        asyncio.run(measure(recipe, f"sqlite:///{folder}/bench.db", options.model_ms / 1000, options.program_ms / 1000))


async def measure(recipe: Recipe, url: str, answer_s: float, program_s: float) -> None:
    """Build, and print."""
    database, timed = open_database(url, create=True), Timed(side_by_side=True)
    async with connect("embedded") as sandbox:
        slots = (await sandbox.info()).slots
        began = time.perf_counter()
        await build(recipe, database, timed, engine=SlowModel(answer_s, program_s), sandbox=sandbox, freeze=False)
        ended = time.perf_counter()
    with database.reading() as session:
        run, wall_ms = session.execute(sa.select(sa.func.count(), sa.func.sum(models.Execution.wall_time_ms))).one()
    database.close()
    drawing_s = timed.took_s["responses"]
    running_s = timed.took_s["executions"]
    alone_s = wall_ms / 1000 / slots
    print(f"{slots} slots; Python {platform.python_version()}; {os.cpu_count()} CPUs; load {os.getloadavg()[0]:.1f}")
    print(f"{run} programs of {program_s * 1000:.0f} ms: slots {alone_s / running_s:.1%} busy for {running_s:.1f} s")
    print(f"responses drawn in {drawing_s:.1f} s of these; the whole build took {ended - began:.1f} s")


if __name__ == "__main__":
    main()
