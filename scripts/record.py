"""Draw the completions that a recipe's prompts need and its recording lacks, from a live server.

    python scripts/record.py recipes/demo.toml --base-url http://127.0.0.1:8077/v1

What is stored already is not drawn again; what no prompt needs any more is dropped from the file. An interruption loses
nothing: run it again. The stages are the pipeline's own, so the keys are those that the engine `recorded` looks up.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from generator.engines import EngineError, RequestFailed
from generator.engines.factory import open_engine
from generator.engines.recorded import Recording, RecordingEngine, recording_path
from generator.recipe import Recipe, load_recipe
from generator.records import ConceptsFields, ConceptsInput, Fields, InstructionFields, InstructionInput, Parent
from generator.seeds import gather, seed_filters, select
from generator.stages import STAGES, ParseError, Stage
from sandbox_server.settings import SettingsError


class Recorder:
    """Runs seeds through the stages and counts what comes out."""

    def __init__(self, recipe: Recipe, engine: RecordingEngine) -> None:
        self._recipe = recipe
        self._engine = engine
        self._in_flight = asyncio.Semaphore(recipe.model.concurrency)
        self.counts: Counter[str] = Counter()

    async def follow(self, parent: Parent, stages: tuple[Stage, ...] = STAGES) -> None:
        """Draw all samples of the first stage for one parent, and for each the stages after it."""
        stage, *rest = stages
        samples = getattr(self._recipe, stage.name).samples
        await asyncio.gather(*(self._sample(parent, stage, tuple(rest), index) for index in range(samples)))

    async def _sample(self, parent: Parent, stage: Stage, rest: tuple[Stage, ...], index: int) -> None:
        fields = await self._draw(parent, stage, index)
        if fields and rest:
            await self.follow(_parent(fields), rest)

    async def _draw(self, parent: Parent, stage: Stage, index: int) -> Fields | None:
        request = stage.request(
            parent,
            id=f"{stage.name}-{index}",
            sample_index=index,
            seed=self._recipe.seed,
            settings=getattr(self._recipe, stage.name),
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
        print(f"\r{self.counts.total()} completions", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Record, save, and say what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--base-url", required=True, help="of an OpenAI-compatible server of the recipe's model")
    parser.add_argument("--limit", type=int, help="only the first so many seeds; the file then keeps what it has")
    parser.add_argument("--output", type=Path, help="another file than the recipe's recording")
    parser.add_argument("--note", action="append", default=[], metavar="KEY=TEXT", help="a fact for the file's header")
    arguments = parser.parse_args()
    try:
        asyncio.run(_record(arguments))
    except (SettingsError, EngineError) as error:
        sys.exit(f"\nrecord: {error}")


async def _record(arguments: argparse.Namespace) -> None:
    recipe = load_recipe(arguments.recipe)
    model = replace(recipe.model, engine="openai", base_url=arguments.base_url)
    recording = Recording(arguments.output or recording_path(recipe.model.recording))
    before = len(recording)
    engine = RecordingEngine(open_engine(model), recipe.model, recording)
    recorder = Recorder(recipe, engine)
    seeds = select(gather(recipe.seeds), arguments.limit or recipe.seeds.limit, seed_filters(recipe.seeds))
    try:
        await asyncio.gather(*(recorder.follow(seed) for seed in seeds))
    finally:
        await engine.close()
    # Everything was asked for, so what was not is left over from older prompts.
    keep = None if arguments.limit else frozenset(engine.used)
    drawn = len(recording) - before
    recording.save(_header(recipe, recording.header, arguments.note, drawn), keep)
    print(f"\n{recording.path}: {len(recording)} completions of {len(seeds)} seeds", *_lines(recorder.counts), sep="\n")


def _header(recipe: Recipe, old: dict[str, object], notes: Iterable[str], drawn: int) -> dict[str, object]:
    stages = {stage.name: getattr(recipe, stage.name) for stage in STAGES}
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


def _parent(fields: Fields) -> Parent:
    match fields:
        case ConceptsFields(concepts):
            return ConceptsInput(concepts)
        case InstructionFields(instruction):
            return InstructionInput(instruction)
    raise AssertionError("responses have no stage after them")


def _lines(counts: Counter[str]) -> list[str]:
    return [f"{count:6}  {what}" for what, count in sorted(counts.items())]


if __name__ == "__main__":
    main()
