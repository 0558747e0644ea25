"""Draw the completions that a recipe's prompts need and its recording lacks, from a live server.

    python scripts/record.py recipes/demo.toml --base-url http://127.0.0.1:8077/v1

What is stored already is not drawn again; what no prompt needs any more is dropped from the file. An interruption loses
nothing: run it again. Seeds and stages are the pipeline's own, the model's judgement of seeds included where the recipe
has one, so the keys are those that the engine `recorded` looks up. No program is run.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from generator.causes import stage_settings
from generator.engines import EngineError, RequestFailed
from generator.engines.factory import open_engine
from generator.engines.recorded import Recording, RecordingEngine, recording_path
from generator.pipeline import Pipeline, Report, prepare
from generator.progress import to_stream
from generator.recipe import Recipe, load_recipe
from generator.records import (
    ConceptsFields,
    ConceptsInput,
    Fields,
    InstructionFields,
    InstructionInput,
    JudgeFields,
    Parent,
)
from generator.stages import JUDGE, STAGES, ParseError, Stage
from generator.store import DatabaseError, open_database
from generator.work import Share, pending_draws
from sandbox_server.settings import SettingsError


class Recorder:
    """Runs seeds through the stages and counts what comes out."""

    def __init__(self, recipe: Recipe, engine: RecordingEngine) -> None:
        self._recipe = recipe
        self._engine = engine
        self._in_flight = asyncio.Semaphore(recipe.model.concurrency)
        self.counts: Counter[str] = Counter()

    async def follow(self, parent: Parent, stages: Sequence[Stage]) -> None:
        """Draw all samples of the first stage for one parent, and for each the stages after it."""
        stage, *rest = stages
        samples = stage_settings(self._recipe, stage.name).samples
        await asyncio.gather(*(self._sample(parent, stage, rest, index) for index in range(samples)))

    async def _sample(self, parent: Parent, stage: Stage, rest: Sequence[Stage], index: int) -> None:
        fields = await self._draw(parent, stage, index)
        if rest and (below := _parent(parent, fields)):
            await self.follow(below, rest)

    async def _draw(self, parent: Parent, stage: Stage, index: int) -> Fields | None:
        request = stage.request(
            parent,
            id=f"{stage.name}-{index}",
            sample_index=index,
            seed=self._recipe.seed,
            settings=stage_settings(self._recipe, stage.name),
            mode=self._recipe.model.mode,
        )
        try:
            async with self._in_flight:
                completion = await self._engine.complete(request)
            fields = stage.parse(completion.text, completion.finish_reason)
        except (RequestFailed, ParseError) as error:
            self._count(f"{stage.name}: {error}")
            return None
        self._count(stage.name)
        return fields

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        if sys.stderr.isatty():
            print(f"\r{self.counts.total()} completions", end="", file=sys.stderr, flush=True)


def main(given: Sequence[str] | None = None) -> None:
    """Record, save, and say what there is."""
    arguments = parse(given)
    try:
        asyncio.run(record(arguments))
    except (SettingsError, EngineError, DatabaseError) as error:
        sys.exit(f"\nrecord: {error}")


def parse(given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--base-url", required=True, help="of an OpenAI-compatible server of the recipe's model")
    parser.add_argument("--limit", type=int, help="only the first so many seeds; the file then keeps what it has")
    parser.add_argument("--output", type=Path, help="another file than the recipe's recording")
    parser.add_argument("--note", action="append", default=[], metavar="KEY=TEXT", help="a fact for the file's header")
    return parser.parse_args(given)


async def record(arguments: argparse.Namespace) -> None:
    """Draw what is missing, and write the file anew."""
    recipe = load_recipe(arguments.recipe)
    if not (arguments.output or recipe.model.recording):
        raise SettingsError(f"{arguments.recipe} [model] recording: names no file to write; give --output FILE")
    model = replace(recipe.model, engine="openai", base_url=arguments.base_url)
    recording = Recording(arguments.output or recording_path(recipe.model.recording))
    before = len(recording)
    engine = RecordingEngine(open_engine(model), recipe.model, recording)
    recorder = Recorder(recipe, engine)
    stages = stages_of(recipe)
    seeds = await asyncio.to_thread(chosen_seeds, recipe, arguments.limit or recipe.seeds.limit)
    try:
        await asyncio.gather(*(recorder.follow(seed, stages) for seed in seeds))
    finally:
        await engine.close()
    # Everything was asked for, so what was not is left over from older prompts.
    keep = None if arguments.limit else frozenset(engine.used)
    drawn = len(recording) - before
    recording.save(_header(recipe, recording.header, arguments.note, drawn), keep)
    print(f"\n{recording.path}: {len(recording)} completions of {len(seeds)} seeds", *_lines(recorder.counts), sep="\n")


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The generation stages that the recipe has, in their order."""
    return tuple(stage for stage in (JUDGE, *STAGES) if stage.name in Pipeline(recipe).stages)


def chosen_seeds(recipe: Recipe, limit: int) -> list[Parent]:
    """The seeds that a build would read, chosen as a build does, in a database that is thrown away."""
    pipeline = Pipeline(replace(recipe, seeds=replace(recipe.seeds, limit=limit)))
    with tempfile.TemporaryDirectory() as folder, to_stream(sys.stderr) as progress:
        database = open_database(f"sqlite:///{folder}/seeds.db", create=True)
        try:
            prepare(database, pipeline, progress, Report(pipeline.name))
            first = stages_of(recipe)[0].name
            pages = pending_draws(database, pipeline.chain, first, Share())
            return [draw.parent for page in pages for draw in page if draw.sample_index == 0]
        finally:
            database.close()


def _header(recipe: Recipe, old: dict[str, object], notes: Iterable[str], drawn: int) -> dict[str, object]:
    stages = {stage.name: stage_settings(recipe, stage.name) for stage in stages_of(recipe)}
    return {
        **old,
        "model": recipe.model.name,
        "revision": recipe.model.revision,
        "sampling": {
            name: {"temperature": each.temperature, "top_p": each.top_p, "max_tokens": each.max_tokens}
            for name, each in stages.items()
        },
        "date": dt.datetime.now(dt.UTC).date().isoformat() if drawn or "date" not in old else old["date"],
        **dict(note.partition("=")[::2] for note in notes),
    }


def _parent(parent: Parent, fields: Fields | None) -> Parent | None:
    """What the next stage reads; None where nothing is made of this."""
    match fields:
        case JudgeFields(worth):
            return parent if worth else None
        case ConceptsFields(concepts):
            return ConceptsInput(concepts)
        case InstructionFields(instruction):
            return InstructionInput(instruction)
    return None


def _lines(counts: Counter[str]) -> list[str]:
    return [f"{count:6}  {what}" for what, count in sorted(counts.items())]


if __name__ == "__main__":
    main()
