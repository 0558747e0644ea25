"""A recipe: the one TOML file that drives a run, validated before anything starts.

Sections `[train]` and `[evaluate]` belong to the trainer's floor, which parses them with its own dataclasses; here they
are carried as tables.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from generator.codeblocks import code_blocks
from sandbox_server.jobs import LimitsRequest
from sandbox_server.settings import SettingsError, parse, read_toml

if TYPE_CHECKING:
    from sandbox_server.client import Credentials


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """Where rows live; any SQLAlchemy URL of SQLite or PostgreSQL."""

    url: str = "sqlite:///runs/selfalign.db"
    """As SQLAlchemy spells it: `sqlite:///FILE`, `postgresql+psycopg://USER@HOST/NAME`."""


@dataclass(frozen=True, slots=True)
class SeedColumns:
    """What a table calls its columns; empty: the usual names are tried, see `generator.seeds.tables`."""

    code: str = ""
    """The source text."""
    licence: str = ""
    """SPDX expression."""
    origin: str = ""
    """Repository or package that the code is from."""
    version: str = ""
    """Its version or commit."""
    path: str = ""
    """File within the origin."""


@dataclass(frozen=True, slots=True)
class SeedSettings:
    """Which functions the model reads."""

    source: Literal["packages", "folder", "jsonl", "parquet", "hub"] = "packages"
    """Where code is read: installed packages, a source tree, files of rows (Parquet: extra `parquet`), a data set of
    the hub (extra `hub`)."""
    packages: tuple[str, ...] = ()
    """Installed distributions to read; empty: every one found under `path`."""
    path: str = ""
    """A site-packages folder for `packages` (empty: the running interpreter's), a source tree for `folder`, a file or a
    folder of files for `jsonl` and `parquet`, the name or local copy of a data set for `hub`."""
    subset: str = ""
    """Configuration of a data set."""
    split: str = "train"
    """Of a data set."""
    columns: SeedColumns = SeedColumns()
    """Of `jsonl`, `parquet` and `hub`."""
    licence: str = ""
    """SPDX expression of the code where the source does not tell: always for a folder, never for packages."""
    benchmarks: str = ""
    """A folder of benchmark files, all splits of them: seeds that overlap a problem are left out. `package:NAME` is the
    folder `data` of an installed package."""
    near_duplicates: float = 0.0
    """Jaccard similarity of code from which only one seed stays; 0 compares nothing. The original's is 0.5."""
    typecheck: bool = False
    """Leave out functions in which basedpyright finds an error; needs the extra `typecheck`."""
    infer_imports: bool = False
    """Put imports in front of functions that use well-known modules by name and do not import them."""
    limit: int = 0
    """At most this many, chosen by key; 0 means all. Where the model judges seeds, this many are judged."""

    def __post_init__(self) -> None:
        """Refuse what no source has."""
        if not 0 <= self.near_duplicates <= 1:
            raise ValueError(f"near_duplicates must be between 0 and 1, got {self.near_duplicates}")
        if self.limit < 0:
            raise ValueError(f"limit must be 0 (all) or more, got {self.limit}")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model writes, and through which engine it is reached."""

    name: str
    """As the server or the hub calls it."""
    revision: str = ""
    """Branch, tag or commit; part of the key of every row that the model writes."""
    engine: Literal["openai", "vllm", "transformers", "recorded"] = "openai"
    """A server that speaks OpenAI's interface, vLLM or transformers in this process, or stored completions."""
    mode: Literal["completion", "chat"] = "completion"
    """A base model continues a text, an instruct model answers in its chat template."""
    base_url: str = "http://localhost:8000/v1"
    """Of the server, for the engine `openai`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; never the key itself."""
    recording: str = ""
    """File or name of stored completions, for the engine `recorded`."""
    path: str = ""
    """Local folder for the engines `transformers` and `vllm`; empty: `name` is loaded from the hub."""
    concurrency: int = 32
    """Requests in flight."""
    vllm: dict[str, Any] = field(default_factory=dict)
    """Arguments of vLLM's own by their names, such as `max_model_len`, for the engine `vllm`; no part of any key."""

    def __post_init__(self) -> None:
        """Refuse a model that rows would not be named after, or that nothing would be asked of."""
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {self.concurrency}")
        for key in ("model", "revision"):
            if key in self.vllm:
                raise ValueError(f"vllm.{key}: which model it is, `name`, `revision` and `path` say")


@dataclass(frozen=True, slots=True)
class StageSettings:
    """One generation stage. The defaults are the original's: T 0.7, 1536 tokens."""

    fewshots: int
    """Worked examples in the prompt."""
    samples: int = 1
    """Answers drawn for each input."""
    temperature: float = 0.7
    """Of sampling; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Nucleus sampling: the likeliest tokens that together have this probability."""
    max_tokens: int = 1536
    """Longest answer."""

    def __post_init__(self) -> None:
        """Refuse what no stage can do."""
        if not 0 <= self.fewshots <= 16:
            raise ValueError(f"fewshots must be between 0 and 16, got {self.fewshots}")
        if self.samples < 1 or self.max_tokens < 1:
            raise ValueError("samples and max_tokens must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")


@dataclass(frozen=True, slots=True)
class JudgeSettings(StageSettings):
    """The model's own yes or no to each seed, before anything is made of it. One answer a seed, the likeliest."""

    fewshots: int = 8
    temperature: float = 0.0
    max_tokens: int = 48

    def __post_init__(self) -> None:
        """Refuse what no judge can do."""
        StageSettings.__post_init__(self)
        if self.fewshots > 8 or self.samples != 1:
            raise ValueError("fewshots must be between 0 and 8, and samples 1: one answer decides")


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Where candidates run: "embedded" starts a server for the build; else gRPC addresses, with commas between."""

    address: str = "embedded"
    """`"embedded"`, `host:port` or `unix:/path`; several with commas between."""
    token_env: str = "SELFALIGN_TOKEN"  # noqa: S105  # a name
    """Environment variable that holds the servers' token, if they want one; never the token itself."""
    tls: bool = False
    """Whether the servers speak TLS."""
    ca: str = ""
    """File of the authority to check them by, instead of the system's; implies `tls`."""
    certificate: str = ""
    """File of this client's certificate, for servers that want one; with `key`."""
    key: str = ""
    """File of the certificate's key."""
    runtime: str = "python"
    """Name of the runtime that candidates need; the servers must offer it."""
    concurrency: int = 0
    """Runs in flight; 0 means twice the server's slots."""
    patience_s: float = 120.0
    """How long a build waits for a sandbox that is overloaded or away before it stops."""
    limits: LimitsRequest = LimitsRequest()
    """Of each program."""

    def __post_init__(self) -> None:
        """Refuse what no program could run under."""
        if self.concurrency < 0:
            raise ValueError(f"concurrency must be 0 (twice the server's slots) or more, got {self.concurrency}")
        if not self.patience_s >= 0:
            raise ValueError(f"patience_s must be 0 or more, got {self.patience_s}")
        for name, limit in dataclasses.asdict(self.limits).items():
            if limit is not None and limit < 1:
                raise ValueError(f"limits.{name} must be at least 1, got {limit}; leave it out for the server's own")

    def credentials(self) -> Credentials:
        """How the servers are convinced, and checked."""
        from sandbox_server.client import Credentials  # grpc is loaded by those who call

        ca, certificate, key = (Path(name) if name else None for name in (self.ca, self.certificate, self.key))
        return Credentials(os.environ.get(self.token_env) or None, self.tls, ca, certificate, key)


@dataclass(frozen=True, slots=True)
class SelectionSettings:
    """What an answer that passed its own tests must be besides; docs/selection.md explains each.

    Nothing is asked for by default: every check costs runs, which `selfalign plan` counts.
    """

    agreement: bool = False
    """Run each answer with the tests of the instruction's other samples, and prefer those that most agree with."""
    min_agreement: float = 0.0
    """Share of the other samples' tests that an answer must pass; needs `agreement`."""
    mutants: int = 0
    """At most this many faults are put into each answer, for its tests to notice; its functions are emptied, too."""
    min_mutation_score: float = 0.0
    """Share of the faults that tests must notice."""
    mutant_cpu_time_ms: int = 1000
    """A fault can make a program run forever; what takes longer than this counts as noticed."""
    repeat: int = 1
    """Runs of each program that passed; all must."""
    near_duplicates: float = 0.0
    """Jaccard similarity of instructions, and of code, from which only one stays; 0 compares nothing but equality."""
    benchmarks: str = ""
    """As `[seeds] benchmarks`: pairs that overlap a problem are left out."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("min_agreement", "min_mutation_score", "near_duplicates"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.mutants <= 1000:
            raise ValueError(f"mutants must be between 0 and 1000, got {self.mutants}")
        if not 1 <= self.repeat <= 100:
            raise ValueError(f"repeat must be between 1 and 100, got {self.repeat}")
        if self.mutant_cpu_time_ms < 1:
            raise ValueError(f"mutant_cpu_time_ms must be at least 1, got {self.mutant_cpu_time_ms}")
        if self.min_agreement and not self.agreement:
            raise ValueError("min_agreement needs agreement = true")
        if self.min_mutation_score and not self.mutants:
            raise ValueError("min_mutation_score needs mutants above 0")


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """The snapshot that a build freezes."""

    name: str = ""
    """Empty: the recipe's own name."""
    sections: tuple[Literal["reasoning", "implementation", "explanation", "tests"], ...] = (
        "reasoning",
        "implementation",
        "explanation",
    )
    """Parts of an answer that are trained on, in this order."""
    tests_when_asked: bool = False
    """Whether an answer keeps its tests, at its end, where the instruction asks for tests; the original's is true."""
    sections_dropped: float = 0.0
    """Share of the pairs that go without their reasoning, and without their explanation; the original's is 0.5."""
    assertions_shown: float = 0.0
    """Share of the instructions that show assertions which the code should pass; the original's is 0.5."""
    comments: bool = True
    """Whether comments in code are trained on."""

    def __post_init__(self) -> None:
        """Refuse what gives no answer."""
        if not self.sections or len(set(self.sections)) < len(self.sections):
            raise ValueError("sections must name at least one part, and each at most once")
        for name in ("sections_dropped", "assertions_shown"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The whole file."""

    name: str
    """Of the pipeline in the database, and of its snapshots unless `[dataset]` says otherwise."""
    model: ModelSettings
    seed: int = 3407
    """Of sampling and of training; another seed makes other rows."""
    database: DatabaseSettings = DatabaseSettings()
    seeds: SeedSettings = SeedSettings()
    judge: JudgeSettings | None = None
    """The table `[judge]`, even an empty one, has the model judge seeds; without it none is asked about."""
    concepts: StageSettings = StageSettings(fewshots=8)
    """From a seed, the concepts it shows."""
    instructions: StageSettings = StageSettings(fewshots=8)
    """From concepts, a task."""
    responses: StageSettings = StageSettings(fewshots=1, samples=10)
    """To a task, answers with tests of their own."""
    sandbox: SandboxSettings = SandboxSettings()
    selection: SelectionSettings = SelectionSettings()
    dataset: DatasetSettings = DatasetSettings()
    train: dict[str, Any] = field(default_factory=dict)
    evaluate: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a seed that a generator of random numbers would."""
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be between 0 and 4294967295, got {self.seed}")


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe: a TOML file, or the one in the card of an exported data set.

    Raises:
        SettingsError: names the file, the key and what was expected.
    """
    recipe = parse(Recipe, _in_card(path) if path.suffix == ".md" else read_toml(path), str(path))
    for key, name in (("name", recipe.name), ("dataset name", recipe.dataset.name or recipe.name)):
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name):
            raise SettingsError(f"{path} {key}: expected letters, digits, '-', '_' and '.', at most 128, got {name!r}")
    return recipe


def _in_card(path: Path) -> dict[str, Any]:
    try:
        blocks = code_blocks(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    recipes = [block.code for block in blocks if block.language == "toml"]
    if len(recipes) != 1:
        raise SettingsError(f"{path}: expected one block of TOML, the recipe, found {len(recipes)}")
    try:
        return tomllib.loads(recipes[0])
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: its recipe is not valid TOML: {error}") from error


def with_model(
    recipe: Recipe,
    *,
    engine: str | None = None,
    base_url: str | None = None,
    model_name: str | None = None,
    mode: str | None = None,
) -> Recipe:
    """The recipe with another model, or the same one reached otherwise; None keeps what the recipe says.

    Args:
        recipe: the whole file.
        engine: as `ModelSettings.engine`.
        base_url: as `ModelSettings.base_url`.
        model_name: a name, or for the engines `transformers` and `vllm` also a folder.
        mode: as `ModelSettings.mode`.
    """
    changes: dict[str, Any] = {"engine": engine, "base_url": base_url, "mode": mode}
    if model_name is not None and model_name != recipe.model.name:
        # Another model: the revision and the files of the recipe's say nothing about it.
        changes |= {"name": model_name, "revision": "", "path": "", "recording": ""}
        if (engine or recipe.model.engine) in ("transformers", "vllm") and Path(model_name).is_dir():
            changes |= {"name": Path(model_name).resolve().name, "path": model_name}
    changes = {key: value for key, value in changes.items() if value is not None}
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **changes))
