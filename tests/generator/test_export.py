"""Snapshots as files that others read: pyarrow, datasets, and ourselves."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import tomllib
from pathlib import Path

import pytest
import sqlalchemy as sa

from generator import causes, export, models
from generator.export import FORMS, LAYOUTS, ExportError
from generator.pipeline import Pipeline, build, declare
from generator.progress import Silent
from generator.recipe import DatasetSettings, Recipe, SelectionSettings, load_recipe
from generator.store import Database, find_dataset
from generator.toml import dumps
from sandbox_server.jobs import Job, Outcome, ProgramError, Verdict
from sandbox_server.settings import SettingsError
from tests.fakes import FakeSandbox, passes
from tests.generator.conftest import SQLITE_ONLY
from tests.generator.rules import RuleEngine


async def sometimes(job: Job) -> Outcome:
    """Break every third."""
    if int(job.request_id[:8], 16) % 3 == 0:
        return Outcome(Verdict.ERROR, error=ProgramError("NameError", "name 'x' is not defined"))
    return await passes(job)


@pytest.fixture
def built(small: Recipe, database: Database) -> Database:
    """The small recipe, built, with failures."""
    asyncio.run(build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox(sometimes)))
    return database


def write(database: Database, path: Path, form: str, columns: str = "pairs", *, replace: bool = False) -> int:
    with database.reading() as session:
        dataset = find_dataset(session, "small")
        return export.export(session, dataset, path, form, LAYOUTS[columns], replace=replace)


def lines(database: Database, path: Path, columns: str) -> list[dict[str, object]]:
    write(database, path, "jsonl", columns)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("columns", LAYOUTS)
def test_parquet_holds_what_json_lines_hold(built: Database, tmp_path: Path, columns: str) -> None:
    import pyarrow.parquet as pq

    write(built, tmp_path / "p.parquet", "parquet", columns)
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()

    assert rows
    assert rows == lines(built, tmp_path / "p.jsonl", columns)
    assert list(rows[0]) == list(LAYOUTS[columns].fields)


@SQLITE_ONLY
@pytest.mark.parametrize("columns", LAYOUTS)
def test_a_folder_holds_the_rows_in_files_of_bounded_size(
    built: Database, tmp_path: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("generator.export.ROWS_PER_FILE", 2)
    count = write(built, tmp_path / "folder", "folder", columns)
    files = sorted((tmp_path / "folder" / "data").iterdir())
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]

    assert rows == lines(built, tmp_path / "p.jsonl", columns)
    assert len(rows) == count
    assert files[0].name == f"train-00000-of-{len(files):05}.parquet"
    assert len(files) == count // 2 + 1
    assert f"num_examples: {count}" in (tmp_path / "folder" / "README.md").read_text()


@SQLITE_ONLY
@pytest.mark.train
@pytest.mark.parametrize("columns", LAYOUTS)
def test_datasets_loads_the_folder_with_the_types_that_its_card_says(
    built: Database, tmp_path: Path, columns: str
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra 'hub' is not installed")
    count = write(built, tmp_path / "folder", "folder", columns)

    loaded = datasets.load_dataset(str(tmp_path / "folder"), split="train", cache_dir=str(tmp_path / "cache"))

    assert loaded.num_rows == count
    assert loaded.column_names == list(LAYOUTS[columns].fields)
    assert list(loaded) == lines(built, tmp_path / "p.jsonl", columns)


@SQLITE_ONLY
def test_parquet_without_pyarrow_names_the_extra_and_leaves_nothing(
    built: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    for form in ("parquet", "folder"):
        with pytest.raises(ExportError, match=r"pip install 'selfalign\[parquet\]'$"):
            write(built, tmp_path / "out", form)

    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.parametrize(
    ("spdx", "named"),
    [
        ("MIT", "mit"),
        ("BSD-3-Clause", "bsd-3-clause"),
        ("LicenseRef-BSD", "bsd"),
        ("LicenseRef-Own", "other"),
        ("(MIT) AND (ISC)", "other"),
    ],
)
@SQLITE_ONLY
def test_a_card_names_licences_as_hubs_do(built: Database, tmp_path: Path, spdx: str, named: str) -> None:
    with built.writing() as session:
        session.execute(sa.update(models.Seed).values(licence=spdx))
    write(built, tmp_path / "out", "folder")

    assert f"license:\n- {named}\n" in (tmp_path / "out" / "README.md").read_text()


def test_preference_pairs_set_an_answer_beside_one_that_failed(built: Database, tmp_path: Path) -> None:
    rows = lines(built, tmp_path / "p.jsonl", "preference")
    with built.reading() as session:
        failed = set(
            session.scalars(sa.select(models.Execution.program_key).where(models.Execution.verdict == "ERROR"))
        )
        bad = list(session.scalars(sa.select(models.Response).where(models.Response.program_key.in_(failed))))
        pairs = {item.instruction: item.response for item in session.scalars(sa.select(models.DatasetItem))}

    assert rows
    assert {row["rejected_verdict"] for row in rows} == {"ERROR"}
    assert all(row["chosen"] == pairs[str(row["prompt"])] for row in rows)
    wrong = {"\n\n".join((row.reasoning or "", row.implementation or "", row.explanation or "")) for row in bad}
    assert {row["rejected"] for row in rows} <= wrong


async def test_preference_pairs_of_a_snapshot_stay_when_more_samples_are_drawn(
    small: Recipe, database: Database, tmp_path: Path
) -> None:
    await build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox(sometimes))
    before = lines(database, tmp_path / "before.jsonl", "preference")
    more = dataclasses.replace(small, name="more", responses=dataclasses.replace(small.responses, samples=9))

    report = await build(more, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox(sometimes))

    assert report.drawn["responses"] == 30
    assert lines(database, tmp_path / "after.jsonl", "preference") == before


def test_both_sides_of_a_preference_keep_the_tests_that_were_asked_for(
    built: Database, small: Recipe, tmp_path: Path
) -> None:
    with built.writing() as session:
        session.execute(sa.update(models.Instruction).values(instruction=models.Instruction.instruction + " Test it."))
    asked = dataclasses.replace(small, dataset=DatasetSettings(sections=("implementation",), tests_when_asked=True))
    asyncio.run(build(asked, built, Silent(), engine=RuleEngine(), sandbox=FakeSandbox(sometimes)))

    rows = lines(built, tmp_path / "p.jsonl", "preference")

    assert rows
    for row in rows:
        for side in ("chosen", "rejected"):
            implementation, _, tests = str(row[side]).partition("\n\n")
            assert implementation.startswith("```python\ndef add")
            assert tests.startswith("```python\nassert add")


def test_the_card_carries_the_recipe_which_makes_the_same_keys(built: Database, small: Recipe, tmp_path: Path) -> None:
    write(built, tmp_path / "folder", "folder")
    again, first = Pipeline(load_recipe(tmp_path / "folder" / "README.md")), Pipeline(small)
    text = (tmp_path / "folder" / "README.md").read_text()

    assert (again.seeds.id, again.seed_filters.id, again.chain) == (first.seeds.id, first.seed_filters.id, first.chain)
    assert causes.to_plain(again.recipe) | {"database": 0} == causes.to_plain(small) | {"database": 0}
    assert "small.db" not in text
    assert "postgres" not in text
    with built.reading() as session:
        dataset = find_dataset(session, "small")
    assert f"| snapshot | `{dataset.id}` |" in text
    assert "| MIT | seeds | 5 |" in text
    assert "selfalign build --recipe README.md" in text


@SQLITE_ONLY
def test_the_card_of_an_older_snapshot_carries_the_recipe_that_made_it(
    built: Database, small: Recipe, tmp_path: Path
) -> None:
    shorter = dataclasses.replace(small, dataset=dataclasses.replace(small.dataset, sections=("implementation",)))
    asyncio.run(build(shorter, built, Silent(), engine=RuleEngine(), sandbox=FakeSandbox(sometimes)))
    with built.reading() as session:
        for version in (1, 2):
            dataset = find_dataset(session, "small", version)
            export.export(session, dataset, tmp_path / str(version), "folder", LAYOUTS["pairs"])

    first, second = (load_recipe(tmp_path / version / "README.md") for version in ("1", "2"))
    assert first.dataset == small.dataset
    assert second.dataset == shorter.dataset


@SQLITE_ONLY
def test_a_recipe_that_came_after_the_snapshot_leaves_its_card_alone(
    built: Database, small: Recipe, tmp_path: Path
) -> None:
    """A build that changes the recipe, and stops before it selects."""
    write(built, tmp_path / "before", "folder")
    declare(built, Pipeline(dataclasses.replace(small, seeds=dataclasses.replace(small.seeds, limit=1))))
    write(built, tmp_path / "after", "folder")

    assert (tmp_path / "after" / "README.md").read_text() == (tmp_path / "before" / "README.md").read_text()


def test_the_card_of_a_snapshot_without_a_recipe_says_what_is_known(built: Database, tmp_path: Path) -> None:
    """As those are that an older version froze."""
    with built.writing() as session:
        session.execute(sa.update(models.Dataset).values(settings=None))
    write(built, tmp_path / "folder", "folder")

    text = (tmp_path / "folder" / "README.md").read_text()
    assert "kept no recipes" in text
    assert '"temperature": 0.7' in text
    with pytest.raises(SettingsError, match="expected one block of TOML, the recipe, found 0"):
        load_recipe(tmp_path / "folder" / "README.md")


async def test_the_card_counts_the_programs_of_answers_alone(small: Recipe, database: Database, tmp_path: Path) -> None:
    """Samples that ran with each other's tests are checks, and no answers."""
    checked = dataclasses.replace(small, selection=SelectionSettings(agreement=True))
    report = await build(checked, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox(passes))
    write(database, tmp_path / "folder", "folder")

    assert report.programs_run > 15
    assert "| programs run | 15 | 15 |" in (tmp_path / "folder" / "README.md").read_text()


@SQLITE_ONLY
@pytest.mark.parametrize("form", FORMS)
def test_what_is_there_is_replaced_as_a_whole_and_only_when_asked(built: Database, tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    write(built, path, form)
    before = path.stat().st_ino

    with pytest.raises(ExportError, match="exists; give another --output, or --force"):
        write(built, path, form)
    write(built, path, form, replace=True)

    assert path.stat().st_ino != before
    assert [file.name for file in tmp_path.glob("*out*")] == ["out"]


@SQLITE_ONLY
def test_a_device_or_a_folder_with_other_files_is_never_replaced(built: Database, tmp_path: Path) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    (folder / "thesis.tex").touch()

    with pytest.raises(ExportError, match="neither a file nor a folder"):
        write(built, pipe, "jsonl", replace=True)
    with pytest.raises(ExportError, match=r"folder: holds thesis\.tex, which is no part of an export"):
        write(built, folder, "folder", replace=True)

    assert pipe.is_fifo()
    assert (folder / "thesis.tex").exists()


@SQLITE_ONLY
@pytest.mark.parametrize("form", FORMS)
def test_an_export_that_fails_leaves_nothing(
    built: Database, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object):  # type: ignore[no-untyped-def]
        yield {"id": "a", "instruction": "b", "response": "c"}
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(LAYOUTS, "pairs", export.Layout(LAYOUTS["pairs"].fields, broken))
    with pytest.raises(OSError, match="No space left"):
        write(built, tmp_path / "out", form)

    assert list(tmp_path.glob("*out*")) == []


def test_toml_is_written_as_it_is_read() -> None:
    table = {
        "name": 'a "quoted" \\ name\n\x7f\u00e9\x01',
        "on": True,
        "share": 0.5,
        "many": [1, 2],
        "nested": {"deep": {"key with blanks": [{"a": "b"}]}, "empty": {}},
    }

    assert tomllib.loads(dumps(table)) == table
