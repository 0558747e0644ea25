"""What makes each stage's rows what they are: a recipe file's settings become the parameters of `recipes` rows.

Everything that changes a result is in here and nothing that does not: not the engine (a server, a process and a
recording of one model draw from the same distribution), not addresses, concurrency or folders of output, and not the
number of samples, so that asking for more keeps those there are.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.checks import VERSION as CHECKS_VERSION
from generator.checks import are_wanted
from generator.clean_up import VERSION as CLEAN_UP_VERSION
from generator.mutants import VERSION as MUTANTS_VERSION
from generator.recipe import DatasetSettings, ModelSettings, Recipe, SandboxSettings, SeedSettings, StageSettings
from generator.stages import Stage
from generator.store import recipe_key
from sandbox_server.jobs import Limits, LimitsRequest, RuntimeInfo

_MODEL_FILES = frozenset({".safetensors", ".bin", ".gguf", ".json", ".model", ".txt", ".jinja"})
_SAMPLED_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Cause:
    """A row of `recipes`, stored or not."""

    stage: str
    parameters: dict[str, Any]

    @property
    def id(self) -> str:
        """Its key."""
        return recipe_key(self.stage, self.parameters)


def seeds(recipe: Recipe) -> Cause:
    """Where seeds are looked for: what is set, so that a setting that is new in a version changes nothing."""
    usual = SeedSettings()
    settings = {item.name: getattr(recipe.seeds, item.name) for item in dataclasses.fields(usual)}
    for name in ("limit", "near_duplicates", "typecheck"):  # these say how many are read, and which, not what is there
        del settings[name]
    chosen = {name: value for name, value in settings.items() if value != getattr(usual, name)}
    return Cause("seeds", {"source": recipe.seeds.source} | {name: to_plain(value) for name, value in chosen.items()})


def seed_filters(
    recipe: Recipe, filters: Iterable[tuple[str, str]], likenesses: Iterable[tuple[str, str]], source: Cause
) -> Cause:
    """Which filters seeds pass, by name and version; where they are compared, also among which they are."""
    parameters: dict[str, Any] = {"filters": [list(entry) for entry in filters]}
    if ways := [list(entry) for entry in likenesses]:
        parameters |= {"alike": ways, "source": source.id, "pipeline": recipe.name}
    return Cause("seed filters", parameters)


def generation(recipe: Recipe, stage: Stage) -> Cause:
    """How one stage's completions are drawn and read."""
    settings = stage_settings(recipe, stage.name)
    parameters = {
        "model": model_name(recipe.model),
        "seed": recipe.seed,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
    }
    return Cause(stage.name, parameters | stage.fingerprint(settings, recipe.model.mode))


def execution(runtime: RuntimeInfo, limits: Limits) -> Cause:
    """What programs are run in."""
    return Cause(
        "executions",
        {"runtime": runtime.name, "fingerprint": runtime.fingerprint, "limits": dataclasses.asdict(limits)},
    )


def checks(recipe: Recipe, responses: Cause, executions: Cause) -> tuple[Cause, ...]:
    """What is run of answers that passed their own tests, and before it how: the last is the checks' own recipe.

    Empty where nothing is. Faults and repetitions run otherwise than answers do; what runs alike is run once.
    """
    settings, how = recipe.selection, executions.parameters
    if not are_wanted(settings):
        return ()
    limits = how["limits"]
    short = limits | {"cpu_time_ms": min(settings.mutant_cpu_time_ms, limits["cpu_time_ms"])}
    mutants = Cause(executions.stage, how | {"limits": short})
    repeats = Cause(executions.stage, how | {"repeat": settings.repeat})
    parameters: dict[str, Any] = {"version": CHECKS_VERSION, "responses": responses.id, "executions": executions.id}
    if settings.agreement:
        parameters |= {"agreement": True, "samples": recipe.responses.samples}
    if settings.mutants:
        parameters |= {"mutants": settings.mutants, "operators": MUTANTS_VERSION, "mutant_executions": mutants.id}
    if settings.repeat > 1:
        parameters |= {"repeat": settings.repeat, "repeat_executions": repeats.id}
    return mutants, repeats, Cause("checks", parameters)


def selection(recipe: Recipe, filters: Iterable[tuple[str, str]], before: Iterable[Cause]) -> Cause:
    """How pairs are chosen, and from what: the recipes of all stages before are named, and the pipeline.

    Which pair stays depends on all others that are the pipeline's; a second one, of the same stages over other seeds,
    keeps others.
    """
    parameters: dict[str, Any] = {"pipeline": recipe.name} | {cause.stage: cause.id for cause in before}
    parameters["filters"] = [list(entry) for entry in filters]
    parameters["sections"] = list(recipe.dataset.sections)
    usual = DatasetSettings()
    names = ("tests_when_asked", "sections_dropped", "assertions_shown", "comments")
    drawn = {name: getattr(recipe.dataset, name) for name in names}
    if changed := {name: value for name, value in drawn.items() if value != getattr(usual, name)}:
        parameters["clean_up"] = changed | {"version": CLEAN_UP_VERSION}
    return Cause("selection", parameters)


def stage_settings(recipe: Recipe, stage: str) -> StageSettings:
    """The settings of the generation stage named `stage`."""
    settings = getattr(recipe, stage)
    assert isinstance(settings, StageSettings)
    return settings


def model_name(model: ModelSettings) -> str:
    """A model as rows name it: with its revision, or for a folder without one with a hash of what is in it."""
    revision = model.revision or (_folder_hash(Path(model.path)) if model.path else "")
    return f"{model.name}@{revision}" if revision else model.name


@functools.cache
def _folder_hash(folder: Path) -> str:
    """A hash of a model's files: their names, sizes, first and last 64 KiB, which tell checkpoints apart in no time.

    Empty where there is no folder; the engine will say so.
    """
    content = hashlib.blake2b(digest_size=16)
    files = sorted(file for file in folder.rglob("*") if file.suffix in _MODEL_FILES) if folder.is_dir() else []
    for file in files:
        size = file.stat().st_size
        content.update(f"{file.relative_to(folder).as_posix()} {size}\n".encode())
        with file.open("rb") as stream:
            content.update(stream.read(_SAMPLED_BYTES))
            stream.seek(max(0, size - _SAMPLED_BYTES))
            content.update(stream.read())
    return content.hexdigest() if files else ""


def complete_limits(asked: LimitsRequest, default: Limits) -> Limits:
    """Fill what was not asked for with the server's defaults."""
    given = {key: value for key, value in dataclasses.asdict(asked).items() if value is not None}
    return dataclasses.replace(default, **given)


def runs_as_asked(
    parameters: dict[str, Any], settings: SandboxSettings, default_limits: Mapping[str, Any] | None
) -> bool:
    """Whether executions of these parameters run as the settings ask, as far as can be told without the server.

    Args:
        parameters: of a recipe of executions.
        settings: of the sandbox.
        default_limits: what the server gave programs that asked for nothing when a build last asked it; None where that
            is not known, and what the settings leave open is taken to be as it was.
    """
    limits = parameters["limits"]
    asked = {name: value for name, value in dataclasses.asdict(settings.limits).items() if value is not None}
    wanted = {**(limits if default_limits is None else default_limits), **asked}
    return bool(parameters["runtime"] == settings.runtime and limits == wanted)


def to_plain(settings: Any) -> Any:
    """A settings dataclass as what JSON can hold and `settings.parse` reads again; what is not set is left out."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        values = ((item.name, getattr(settings, item.name)) for item in dataclasses.fields(settings))
        return {name: to_plain(value) for name, value in values if value is not None}
    if isinstance(settings, tuple | list):
        return [to_plain(item) for item in settings]
    if isinstance(settings, dict):
        return {str(key): to_plain(value) for key, value in settings.items()}
    return settings if isinstance(settings, str | int | float | bool | None) else str(settings)
