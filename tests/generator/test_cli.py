from __future__ import annotations

import asyncio
import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from generator import models
from generator.pipeline import build
from generator.progress import Silent
from generator.recipe import ModelSettings, Recipe, SelectionSettings
from generator.store import Database
from generator.view.counts import count
from sandbox_server.jobs import Job, LimitsRequest, Outcome, ProgramError, Verdict
from selfalign import main
from tests.fakes import FakeSandbox, passes
from tests.generator.conftest import SQLITE_ONLY
from tests.generator.model_server import ModelServer, serve_model
from tests.generator.rules import RuleEngine, write_seeds

Run = Any


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def invoke(*arguments: str) -> Result:
        command, *rest = arguments
        where = ["--recipe", str(tmp_path / "small.toml")] if "--recipe" not in rest else []
        if command == "db":
            command, *rest = rest
            return CliRunner().invoke(main, ["db", command, *where, *rest])
        return CliRunner().invoke(main, [command, *where, *rest])

    return invoke


@pytest.fixture
def built(small: Recipe, database: Database) -> Recipe:
    """The small recipe, built."""
    asyncio.run(build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox()))
    return small


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with serve_model() as server:
        yield server


def fails_with(result: Result, *words: str) -> None:
    """It left with a last line on stderr that holds `words`, and no traceback."""
    assert result.exit_code == 1, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in line


def counted(step: dict[str, Any]) -> tuple[int, int, int]:
    return step["done"], step["to_do"], step["at_most"]


def test_plan_counts_the_work_before_anything_is_stored(run: Run, small: Recipe) -> None:
    steps = {step["stage"]: step for step in json.loads(run("plan", "--json").stdout)["steps"]}

    assert steps["seeds"]["to_do"] == 5
    assert counted(steps["concepts"]) == (0, 0, 5)
    assert steps["responses"]["at_most"] == steps["executions"]["at_most"] == 15


def test_plan_says_that_it_reads_the_source_only_when_it_does(run: Run, small: Recipe) -> None:
    assert run("plan").stderr == "reading the source of seeds, which no build has read yet\n"
    run("seeds")
    assert run("plan").stderr == ""


def test_plan_after_seeds_says_what_can_be_drawn_now(run: Run, small: Recipe) -> None:
    run("seeds")
    steps = {step["stage"]: step for step in json.loads(run("plan", "--json").stdout)["steps"]}

    assert "seeds" not in steps
    assert counted(steps["concepts"]) == (0, 5, 5)
    assert steps["concepts"]["prompt_tokens"] is steps["concepts"]["time_s"] is None
    assert "unknown" in run("plan").stdout


def test_plan_after_a_build_has_nothing(run: Run, built: Recipe) -> None:
    result = run("plan")

    assert "nothing to do: every row is there" in result.stdout
    assert not any(step["at_most"] for step in json.loads(run("plan", "--json").stdout)["steps"])


def test_plan_of_a_changed_filter_says_that_only_pairs_are_selected(run: Run, built: Recipe, tmp_path: Path) -> None:
    """Also of a filter that was in force two builds ago, and of fewer seeds."""
    path = tmp_path / "small.toml"
    text = path.read_text()
    path.write_text(text + "\n[selection]\nnear_duplicates = 0.9\n")
    words = "nothing to draw or to run: only pairs are selected anew"
    assert words in run("plan").stdout
    run("build")
    assert "nothing to do: every row is there" in run("plan").stdout

    path.write_text(text)
    assert words in run("plan").stdout
    path.write_text(text.replace('licence = "MIT"', 'licence = "MIT"\nlimit = 3'))
    fewer = run("plan").stdout
    assert words in fewer
    assert "2 seeds leave the choice: their rows stay" in fewer


def test_plan_for_another_model_starts_anew(run: Run, built: Recipe) -> None:
    steps = json.loads(run("plan", "--model", "other", "--json").stdout)["steps"]

    assert [step["at_most"] for step in steps] == [5, 5, 15, 15, 15]
    assert steps[2]["prompt_tokens"] is None  # another model reads other tokens
    assert steps[3]["judged_by"] == "15 rows of this recipe"


def test_plan_judges_tokens_and_time_by_what_is_stored(run: Run, built: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(path.read_text().replace("samples = 3", "samples = 5\ntemperature = 0.9"))
    responses = json.loads(run("plan", "--json").stdout)["steps"][2]

    assert counted(responses) == (0, 25, 25)
    assert (responses["prompt_tokens"], responses["completion_tokens"]) == (25 * 100, 25 * 20)  # as the engine counts
    assert 0 <= responses["time_s"] < 60
    assert responses["judged_by"] == "15 rows of an earlier recipe"
    assert "responses: judged by 15 rows of an earlier recipe" in run("plan").stdout


def test_plan_for_the_same_model_reached_otherwise_has_nothing(run: Run, built: Recipe) -> None:
    steps = json.loads(run("plan", "--engine", "openai", "--base-url", "http://elsewhere/v1", "--json").stdout)["steps"]

    assert not any(step["at_most"] for step in steps)


def test_status_tells_the_funnel(run: Run, built: Recipe) -> None:
    found = json.loads(run("status", "--json").stdout)

    funnel = {row["stage"]: row["rows"] for row in found["pipelines"]["small"]["funnel"]}
    assert funnel == {
        "seeds found": 5,
        "seeds chosen": 5,
        "concepts drawn": 5,
        "concepts read": 5,
        "instructions drawn": 5,
        "instructions read": 5,
        "responses drawn": 15,
        "responses read": 15,
        "responses executed": 15,
        "responses passed": 15,
        "responses kept by every filter": 15,
        "pairs accepted": 5,
    }
    assert found["pipelines"]["small"]["verdicts"] == [{"verdict": "PASSED", "responses": 15}]
    assert [(row["name"], row["version"], row["size"]) for row in found["datasets"]] == [("small", 1, 5)]
    assert "pairs accepted" in run("status").stdout


@SQLITE_ONLY
def test_status_says_how_many_reasons_it_leaves_out(run: Run, small: Recipe, database: Database) -> None:
    """Fifteen answers that fail in fifteen ways."""

    async def fail(job: Job) -> Outcome:
        return Outcome(Verdict.ERROR, error=ProgramError(f"Error{job.code.rpartition(' ')[2].strip()}", "no"))

    asyncio.run(build(small, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox(fail)))
    told = run("status").stdout

    assert told.count("verdict ERROR: Error") == 12
    assert "3 more reasons, of 3 responses: see --json" in told


def test_status_the_viewer_and_the_view_funnel_count_what_belongs(run: Run, built: Recipe, database: Database) -> None:
    """Not the rows of seeds that are left out, of samples that are not wanted, of answers that cannot be read."""
    with database.writing() as session:
        left_out, first, second, third, _ = session.scalars(
            sa.select(models.PipelineSeed).order_by(models.PipelineSeed.seed_id)
        )
        left_out.chosen = False
        session.get_one(models.Pipeline, "small").responses_samples = 2
        of_seed = sa.select(models.Response).join(models.Instruction).join(models.Concepts)
        unread, unrun, failed = (
            session.scalars(
                of_seed.where(models.Concepts.seed_id == seed.seed_id, models.Response.sample_index == 1)
            ).one()
            for seed in (first, second, third)
        )
        execution = models.Execution
        session.execute(sa.delete(execution).where(execution.program_key == unrun.program_key))
        session.execute(
            sa.update(execution).where(execution.program_key == failed.program_key).values(verdict="FAILED")
        )
        unread.error, unread.program_key = "no part Tests", None
        session.add(models.Pipeline(name="empty", parameters={}))
    told = json.loads(run("status", "--json").stdout)["pipelines"]["small"]
    query = "SELECT stage, rows FROM funnel WHERE pipeline = '{}' ORDER BY step"

    assert [row["rows"] for row in told["funnel"]] == [5, 4, 4, 4, 4, 4, 8, 7, 6, 5, 15, 5]
    assert told["funnel"] == json.loads(run("db", "query", query.format("small"), "--json").stdout)
    assert told["funnel"] == [
        {"stage": stage, "rows": rows} for stage, rows in count(database, "small").counts["funnel"]
    ]
    assert told["verdicts"] == [{"verdict": "PASSED", "responses": 5}, {"verdict": "FAILED", "responses": 1}]
    nothing = json.loads(run("db", "query", query.format("empty"), "--json").stdout)
    assert [(row["stage"], row["rows"]) for row in nothing] == [(row["stage"], 0) for row in told["funnel"]]


def test_show_tells_a_responses_whole_story(run: Run, built: Recipe) -> None:
    id = json.loads(run("db", "query", "SELECT response_id FROM accepted_pairs LIMIT 1", "--json").stdout)[0][
        "response_id"
    ]
    story = json.loads(run("show", id[:12], "--json").stdout)

    assert list(story) == [
        *("seeds", "concepts", "instructions", "responses", "judgements", "executions", "scores", "checks"),
        *("datasets", "recipes"),
    ]
    assert story["responses"]["id"] == id
    assert story["seeds"]["id"] == story["concepts"]["seed_id"]
    assert story["executions"][0]["verdict"] == "PASSED"
    assert story["judgements"][0]["kept"] is True
    position = story["datasets"][0]["position"]
    assert story["datasets"] == [{"name": "small", "version": 1, "position": position, "current_in": ["small"]}]
    assert "PASSED" in run("show", id).stdout


def test_show_says_what_is_current_and_what_an_earlier_recipe_came_to(
    run: Run, built: Recipe, database: Database
) -> None:
    def heads(table: str) -> list[str]:
        return [line for line in run("show", id).stdout.splitlines() if line.startswith(table)]

    query = "SELECT response_id FROM accepted_pairs LIMIT 1"
    id = json.loads(run("db", "query", query, "--json").stdout)[0]["response_id"]
    before = heads("judgements")
    changed = dataclasses.replace(built, selection=SelectionSettings(near_duplicates=0.9))
    asyncio.run(build(changed, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox()))

    assert before == ["judgements  (current in small)"]
    assert heads("judgements") == ["judgements  (current in small)", "judgements  (current in no pipeline)"]
    assert [head.partition("  ")[2] for head in heads("executions")] == ["(current in small)"]
    assert heads("responses") == [f"responses {id}  (current in small)"]


def test_show_knows_every_kind_of_id(run: Run, built: Recipe) -> None:
    for table in ("seeds", "concepts", "instructions", "executions", "recipes", "datasets"):
        id = json.loads(run("db", "query", f"SELECT id FROM {table} LIMIT 1", "--json").stdout)[0]["id"]

        assert json.loads(run("show", id, "--json").stdout)[table]["id"] == id


def test_show_refuses_what_is_no_id(run: Run, built: Recipe) -> None:
    fails_with(run("show", "xyz"), "expected an id")
    fails_with(run("show", "ffffffffffff"), "no row has an id that begins with ffffffffffff")


def test_export_writes_pairs(run: Run, built: Recipe, tmp_path: Path) -> None:
    result = run("export", "--output", str(tmp_path / "out" / "pairs.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]

    assert result.stdout.startswith("5 pairs of small v1")
    assert [set(row) for row in rows] == [{"id", "instruction", "response"}] * 5
    assert "assert" not in rows[0]["response"]  # the tests are not part of the answer
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "pairs.jsonl"]


def test_export_knows_the_originals_columns(run: Run, built: Recipe) -> None:
    row = json.loads(run("export", "--columns", "original").stdout.splitlines()[0])

    assert list(row) == ["fingerprint", "sha1", "seed", "response", "concepts", "prompt", "instruction", "id"]
    assert row["seed"].startswith("def ")
    assert row["prompt"].endswith(row["instruction"])


def test_export_replaces_nothing_unasked(run: Run, built: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("mine")

    fails_with(run("export", "--output", str(path)), f"{path}: exists; give another --output, or --force")
    assert path.read_text() == "mine"
    assert run("export", "--output", str(path), "--force").exit_code == 0
    assert len(path.read_text().splitlines()) == 5
    fails_with(run("export", "--output", str(path), "--format", "folder", "--force"), "is a file")


def test_export_writes_what_the_ending_promises(run: Run, built: Recipe, tmp_path: Path) -> None:
    assert run("export", "--output", str(tmp_path / "pairs.parquet")).exit_code == 0
    assert (tmp_path / "pairs.parquet").read_bytes()[:4] == b"PAR1"
    for name in ("pairs.csv", "pairs"):
        told = run("export", "--output", str(tmp_path / name))
        assert told.exit_code == 2
        assert "end it in .jsonl or .parquet, or give --format" in told.stderr
    assert [path.name for path in tmp_path.glob("pairs*")] == ["pairs.parquet"]


def test_export_knows_the_columns_that_trl_reads(run: Run, built: Recipe) -> None:
    row = json.loads(run("export", "--columns", "trl").stdout.splitlines()[0])

    assert list(row) == ["prompt", "completion"]


def test_export_names_a_version_that_is_not_there(run: Run, built: Recipe) -> None:
    fails_with(run("export", "--dataset", "small@9"), "no data set small v9; there are: small v1")


def test_diff_tells_what_one_snapshot_has_and_the_other_has_not(
    run: Run, built: Recipe, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "seeds" / "total.py").unlink()
    write_seeds(tmp_path, ["another"])
    run("seeds")
    asyncio.run(build(built, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox()))

    changes = json.loads(run("diff", "small@1", "small", "--json").stdout)["changes"]

    assert sorted(change["kind"] for change in changes) == ["added", "removed"]
    assert "small v1 -> small v2: 1 added, 1 removed, 0 changed" in run("diff", "small@1", "small@v2").stdout
    assert "0 added, 0 removed, 0 changed" in run("diff", "small", "small").stdout


def test_diff_tells_why_a_selection_rejected_what_the_other_kept(run: Run, built: Recipe, database: Database) -> None:
    """Both ways round; what is no longer the pipeline's was rejected by none."""

    async def some_fail(job: Job) -> Outcome:
        outcome = await passes(job)
        failed = int(job.tests.split("1 + ")[1]) % 2
        return dataclasses.replace(outcome, verdict=Verdict.FAILED) if failed else outcome

    def reasons(old: str, new: str) -> set[tuple[str, str | None]]:
        changes = json.loads(run("diff", old, new, "--json").stdout)["changes"]
        return {(change["kind"], change["reason"]) for change in changes}

    limits = dataclasses.replace(built.sandbox, limits=LimitsRequest(cpu_time_ms=1000))
    failing = dataclasses.replace(built, sandbox=limits)
    none = dataclasses.replace(failing, seeds=dataclasses.replace(built.seeds, limit=1))

    def rebuild(recipe: Recipe) -> None:
        asyncio.run(build(recipe, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox(some_fail)))

    rebuild(failing)
    chosen = "one_per_instruction: another response of its instruction was chosen"
    assert reasons("small@1", "small@2") == {("removed", "passed: verdict FAILED"), ("added", chosen)}
    assert "passed: verdict FAILED" in run("diff", "small@1", "small@2").stdout
    rebuild(none)
    assert reasons("small@2", "small@3") == {("removed", None)}


def test_diff_tells_a_pair_whose_text_changed(run: Run, built: Recipe, database: Database) -> None:
    sections = dataclasses.replace(built.dataset, sections=("implementation",))
    shorter = dataclasses.replace(built, dataset=sections)
    asyncio.run(build(shorter, database, Silent(), engine=RuleEngine(), sandbox=FakeSandbox()))

    assert "0 added, 0 removed, 5 changed" in run("diff", "small@1", "small@2").stdout


def test_every_engine_of_a_recipe_is_an_option() -> None:
    (offered,) = [parameter.type for parameter in main.commands["build"].params if parameter.name == "engine"]

    assert isinstance(offered, click.Choice)
    assert tuple(offered.choices) == typing.get_args(typing.get_type_hints(ModelSettings)["engine"])


def test_a_recipe_without_its_option_is_recognised(run: Run) -> None:
    result = run("plan", "mine.toml")

    assert result.exit_code == 2
    assert "unexpected extra argument (mine.toml): did you mean --recipe FILE?" in result.stderr


@pytest.mark.parametrize("version", ["", "x", "v", "1.5", "-1"])
def test_a_version_that_is_no_number_is_refused(run: Run, built: Recipe, version: str) -> None:
    result = run("diff", f"small@{version}", "small")

    assert result.exit_code == 2
    assert "expected a data set's NAME or NAME@VERSION" in result.stderr


def test_a_query_as_json_tells_columns_apart_and_holds_nothing_but_json(
    run: Run, built: Recipe, database: Database
) -> None:
    """Joins have columns of one name; programs' output is bytes; a number can be none."""
    postgres = database.engine.dialect.name == "postgresql"
    octets, number = ("'a'::bytea", "'inf'::float8") if postgres else ("x'61'", "1e999")
    query = f"SELECT 1 AS id, 2 AS id, {octets} AS stdout, {number} AS loss, NULL AS reason"

    (row,) = json.loads(run("db", "query", "--json", query).stdout, parse_constant=pytest.fail)

    assert row == {"id": 1, "id_2": 2, "stdout": "a", "loss": "inf", "reason": None}
    assert run("db", "query", "SELECT 1 AS id, 2 AS id").stdout.split() == ["id", "id_2", "1", "2"]


def test_db_upgrade_makes_the_tables_and_says_so(run: Run, new_url: str) -> None:
    assert "made" in run("db", "upgrade", "--db", new_url).stdout
    assert "nothing to do" in run("db", "upgrade", "--db", new_url).stdout


@pytest.mark.parametrize("command", ["seeds", "plan", "build", "status", "export"])
def test_a_broken_recipe_is_named_before_anything_is_made(
    run: Run, small: Recipe, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(path.read_text().replace("fewshots", "fewshot"))

    fails_with(run(command), "small.toml", "unknown key 'fewshot'; did you mean 'fewshots'?")
    assert not (tmp_path / "small.db").exists()


@pytest.mark.parametrize("command", ["seeds", "plan", "build", "status", "export"])
def test_a_database_of_a_newer_schema_is_refused(run: Run, built: Recipe, database: Database, command: str) -> None:
    import sqlalchemy as sa

    with database.writing() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    fails_with(run(command), "schema 9999 is newer", "upgrade selfalign")


def test_an_unreachable_sandbox_stops_the_build_before_a_model_is_asked(
    run: Run, small: Recipe, tmp_path: Path, server: ModelServer
) -> None:
    path = tmp_path / "small.toml"
    path.write_text(path.read_text() + '\n[sandbox]\naddress = "127.0.0.1:1"\npatience_s = 0.3\n')

    fails_with(run("build", "--base-url", server.url), "no sandbox serves at 127.0.0.1:1", "selfalign sandbox serve")
    assert server.calls == []


@pytest.mark.nsjail
def test_an_unreachable_model_stops_the_build_in_one_line(run: Run, small: Recipe) -> None:
    result = run("build", "--base-url", "http://127.0.0.1:1/v1", "--model", "m")

    lines = result.stderr.splitlines()
    assert lines[-1].startswith("Error: no model server answers at http://127.0.0.1:1/v1")
    assert "the same command goes on from there" in lines[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.nsjail
def test_a_build_runs_everything_through_the_real_sandbox_and_then_has_nothing_to_do(
    run: Run, small: Recipe, server: ModelServer
) -> None:
    first = run("build", "--engine", "openai", "--base-url", server.url, "--model", "rule")
    second = run("build", "--engine", "openai", "--base-url", server.url, "--model", "rule")

    assert "25 completions drawn, 15 programs run; data set small v1 holds 5 pairs" in first.stdout
    assert "nothing to do: 0 completions drawn, 0 programs run" in second.stdout
    assert len(server.calls) == 25


def test_overlap_names_the_pair_and_the_problem_and_exits_with_3(run: Run, built: Recipe, tmp_path: Path) -> None:
    clean, scored = tmp_path / "clean", tmp_path / "scored"
    for folder in (clean, scored):
        folder.mkdir()
    other = "Write a python function to remove the first and the last occurrence of a given character."
    (clean / "one.jsonl").write_text(json.dumps({"task_id": 1, "text": other}) + "\n")
    lines = run("export").stdout.splitlines()
    asked = json.loads(lines[2])["instruction"]
    (scored / "mine.jsonl").write_text(json.dumps({"task_id": 7, "text": asked}) + "\n")

    none = run("overlap", "--benchmarks", str(clean))
    found = run("overlap", "--benchmarks", str(scored), "--json")

    assert (none.exit_code, none.stdout) == (0, "0 of 5 pairs of small v1 overlap one of 1 problems\n")
    assert found.exit_code == 3
    told = json.loads(found.stdout)
    assert (told["dataset"], told["version"], told["pairs"], told["problems"]) == ("small", 1, 5, 1)
    worst = max(told["overlaps"], key=lambda finding: finding["share"])
    assert worst["share"] == 1.0
    assert (worst["position"], worst["place"], worst["problem"]) == (2, "instruction", "mine/7")


def test_overlap_without_benchmarks_says_how_to_name_them(run: Run, built: Recipe, tmp_path: Path) -> None:
    result = run("overlap")

    assert result.exit_code == 2
    assert "give --benchmarks FOLDER" in result.stderr
    fails_with(run("overlap", "--benchmarks", str(tmp_path / "none")), "--benchmarks: expected a folder")
