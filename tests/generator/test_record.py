"""`scripts/record.py` draws what a build of the same recipe asks for: every stage that it has, over HTTP."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from generator.engines import CompletionRequest
from generator.engines.recorded import Recording
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import Recipe, load_recipe
from generator.store import open_database
from tests.fakes import FakeSandbox
from tests.generator import model_server, rules
from tests.generator.model_server import ModelServer, serve_model
from tests.generator.rules import RECIPE, stage_of, write_seeds

RECORDED = """
[judge]
fewshots = 1
"""


def answer(request: CompletionRequest) -> str:
    """As everywhere here, but one seed is not worth reading, and one answer about another cannot be read."""
    asked = request.prompt.messages[-1].content
    if stage_of(request) == "judge":
        return "No: its name says nothing." if "def collect" in asked else "Yes."
    if stage_of(request) == "concepts" and "def gather" in asked:
        return ""
    return rules.answer(request)


@pytest.fixture
def record() -> ModuleType:
    """The script."""
    path = Path(__file__).parents[2] / "scripts/record.py"
    spec = importlib.util.spec_from_file_location("record", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    monkeypatch.setattr(model_server, "answer", answer)
    with serve_model() as server:
        yield server


def write_recipe(folder: Path, more: str) -> Path:
    """A recipe over four seeds of which two are alike, that replays `rule.jsonl`."""
    write_seeds(folder, ["add_all", "collect", "gather"])
    twin = (folder / "seeds" / "add_all.py").read_text().replace("def add_all", "def add_everything")
    (folder / "seeds" / "twin.py").write_text(twin)
    text = RECIPE.format(folder=folder, url=f"sqlite:///{folder}/small.db")
    text = text.replace('engine = "openai"', f'engine = "recorded"\nrecording = "{folder}/rule.jsonl"')
    text = text.replace('licence = "MIT"', 'licence = "MIT"\nnear_duplicates = 0.5')
    path = folder / "small.toml"
    path.write_text(text + more)
    return path


async def replay(recipe: Recipe) -> dict[str, int]:
    """Build with nothing but the recording: what was drawn, by stage."""
    database = open_database(recipe.database.url, create=True)
    try:
        report = await build(recipe, database, Silent(), sandbox=FakeSandbox())
    finally:
        database.close()
    assert report.failed == 0
    return report.drawn


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", {"concepts": 3, "instructions": 2, "responses": 6}),
        (RECORDED, {"judge": 3, "concepts": 2, "instructions": 1, "responses": 3}),
    ],
)
async def test_a_recording_answers_every_question_of_the_build(
    record: ModuleType, server: ModelServer, tmp_path: Path, more: str, expected: dict[str, int]
) -> None:
    path = write_recipe(tmp_path, more)

    await record.record(record.parse(["--base-url", server.url, str(path)]))

    recording = Recording(tmp_path / "rule.jsonl")
    assert len(recording) == len(server.calls) == sum(expected.values())
    assert list(recording.header["sampling"]) == list(expected)
    assert await replay(load_recipe(path)) == expected


async def test_recording_again_asks_nothing_and_changes_nothing(
    record: ModuleType, server: ModelServer, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path, RECORDED)
    arguments = record.parse([str(path), "--base-url", server.url, "--note", "licence=Apache-2.0"])
    await record.record(arguments)
    before, calls = (tmp_path / "rule.jsonl").read_bytes(), len(server.calls)

    await record.record(arguments)

    assert len(server.calls) == calls
    assert (tmp_path / "rule.jsonl").read_bytes() == before
    assert json.loads(before.splitlines()[0])["licence"] == "Apache-2.0"


async def test_what_no_prompt_needs_any_more_is_dropped_unless_only_some_seeds_were_asked_about(
    record: ModuleType, server: ModelServer, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path, RECORDED)
    await record.record(record.parse([str(path), "--base-url", server.url]))
    path.write_text(path.read_text().replace("samples = 3", "samples = 2"))
    arguments = [str(path), "--base-url", server.url]

    await record.record(record.parse([*arguments, "--limit", "1"]))
    some = len(Recording(tmp_path / "rule.jsonl"))
    await record.record(record.parse(arguments))

    assert (some, len(Recording(tmp_path / "rule.jsonl"))) == (9, 8)


def test_a_source_that_is_not_there_is_told_in_one_line(
    record: ModuleType, server: ModelServer, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path, "")
    path.write_text(path.read_text().replace(f"{tmp_path}/seeds", f"{tmp_path}/nowhere"))

    with pytest.raises(SystemExit) as stopped:
        record.main([str(path), "--base-url", server.url])

    assert "nowhere" in str(stopped.value)
    assert len(str(stopped.value).strip().splitlines()) == 1
    assert not (tmp_path / "rule.jsonl").exists()


def test_a_recipe_that_names_no_recording_is_told_what_to_give(
    record: ModuleType, server: ModelServer, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path, "")
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("recording")))

    with pytest.raises(SystemExit, match=r"\[model\] recording: names no file to write; give --output FILE"):
        record.main([str(path), "--base-url", server.url])
