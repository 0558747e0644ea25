"""Commands of this floor: thin, and importing nothing heavy until one runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sandbox_server.visible import visible

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from generator.models import Dataset
    from generator.pipeline import Report
    from generator.recipe import Recipe
    from generator.store import Database

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_RECIPE = "recipes/demo.toml"
_MOST_REASONS = 12
_GO_ON = "what is finished is stored; the same command goes on from there"
_FORMAT_OF_ENDING = {".jsonl": "jsonl", ".parquet": "parquet"}


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_where = _options(
    click.option(
        "--recipe",
        "recipe_path",
        default=DEFAULT_RECIPE,
        show_default=True,
        metavar="FILE",
        help="TOML file of the run.",
    ),
    click.option("--db", "url", default="", metavar="URL", help="Database, instead of the recipe's."),
)
_model = _options(
    click.option(
        "--engine", type=click.Choice(["openai", "vllm", "transformers", "recorded"]), help="How the model is reached."
    ),
    click.option("--base-url", metavar="URL", help="OpenAI-compatible server, up to and with /v1."),
    click.option(
        "--model", "model_name", metavar="NAME", help="Model, or folder of one for --engine transformers and vllm."
    ),
    click.option("--mode", type=click.Choice(["completion", "chat"]), help="Base model, or one that takes chat turns."),
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command()
@_where
@_json
def seeds(recipe_path: str, url: str, as_json: bool) -> None:
    """Read the recipe's source again and store the functions that it holds now."""
    with _user_errors():
        from generator.pipeline import Pipeline, declare, gather_seeds
        from generator.progress import Silent, to_stream
        from generator.status import seed_summary

        pipeline = Pipeline(_recipe(recipe_path))
        with _database(url or pipeline.recipe.database.url, create=True) as database:
            declare(database, pipeline)
            with contextlib.nullcontext(Silent()) if as_json else to_stream(sys.stderr) as progress:
                gather_seeds(database, pipeline, progress)
            summary = seed_summary(database, pipeline.name)
    if as_json:
        _print_json(summary)
        return
    click.echo(f"{summary['found']} functions found, {summary['chosen']} chosen")
    _print_table(("licence", "origin", "found", "chosen"), summary["origins"])
    _print_table(("filter", "rejected", "example"), summary["rejections"])


@click.command()
@_where
@_model
@_json
def plan(recipe_path: str, url: str, as_json: bool, **model: str | None) -> None:
    """Tell what a build would do, before anything runs."""
    with _user_errors():
        from generator import plan as planning
        from generator.pipeline import Pipeline

        pipeline = Pipeline(_with_model(_recipe(recipe_path), **model))
        with _database(url or pipeline.recipe.database.url, create=True) as database:
            say = functools.partial(click.echo, err=True)
            steps = planning.as_rows(planning.plan(database, pipeline, say))
    if as_json:
        _print_json({"pipeline": pipeline.name, "steps": steps})
        return
    if not any(step["at_most"] or step["gone"] for step in steps):
        click.echo("nothing to do: every row is there")
    elif not any(step["at_most"] for step in steps if step["stage"] != "selection"):
        click.echo("nothing to draw or to run: only pairs are selected anew")
    told = [{key: "unknown" if value is None else value for key, value in step.items()} for step in steps]
    told = [row | {"time": _duration(step["time_s"])} for row, step in zip(told, steps, strict=True)]
    _print_table(("stage", "done", "to_do", "at_most", "prompt_tokens", "completion_tokens", "time"), told)
    click.echo("to_do: can be made now; at_most: if every row before turns out usable; tokens and time: of at_most")
    for step in steps:
        if step["gone"]:
            what = "responses leave the pipeline" if step["stage"] == "selection" else "seeds leave the choice"
            click.echo(f"{step['gone']} {what}: their rows stay, and their pairs are in no new snapshot")
        if step["judged_by"]:
            click.echo(f"{step['stage']}: judged by {step['judged_by']}")


@click.command()
@_where
@_model
@click.option("--retry-failed", is_flag=True, help="Ask again for completions that could not be had before.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the stages run: this process, or the workers of a Ray cluster.",
)
@click.option(
    "--address", default="", metavar="HOST:PORT", help="Ray cluster.  [RAY_ADDRESS, else one on this machine]"
)
@click.option("--workers", type=click.IntRange(min=1), help="Ray workers.  [one for each CPU of the cluster]")
@_json
def build(
    recipe_path: str,
    url: str,
    retry_failed: bool,
    executor: str,
    address: str,
    workers: int | None,
    as_json: bool,
    **model: str | None,
) -> None:
    """Make everything that the recipe asks for and the database does not have.

    Every finished row is stored at once, so that Ctrl-C, a crash or kill -9 lose none.
    """
    if executor != "ray" and (address or workers):
        raise click.UsageError("--address and --workers are for --executor ray")
    import asyncio

    with _user_errors(go_on=True):
        from generator import pipeline as building
        from generator.progress import Silent, to_stream

        recipe = _with_model(_recipe(recipe_path), **model)
        with _database(url or recipe.database.url, create=True) as database:
            if retry_failed:
                building.forget_failed(database, building.Pipeline(recipe))
            with contextlib.nullcontext(Silent()) if as_json else to_stream(sys.stderr) as progress:
                if executor == "ray":
                    from generator.on_ray import ClusterError, build_on_ray

                    try:
                        report = build_on_ray(recipe, database, progress, address=address, workers=workers or 0)
                    except ClusterError as error:
                        raise click.ClickException(f"{error} ({_GO_ON})") from None
                else:
                    report = asyncio.run(building.build(recipe, database, progress))
    if as_json:
        _print_json(_plain_report(report))
        return
    click.echo(_summary(report))


@click.command()
@_where
@_model
@click.option("-n", "count", type=click.IntRange(1, 100), default=3, show_default=True, help="How many seeds.")
@click.option("--prompts", "whole_prompts", is_flag=True, help="Show whole prompts, worked examples included.")
@_json
def preview(recipe_path: str, url: str, count: int, whole_prompts: bool, as_json: bool, **model: str | None) -> None:
    """Take a few seeds through every stage and show prompts, answers, tests, verdicts, checks and pairs.

    The rows are kept: the build does not draw them again. What only the build does is listed at the end.
    """
    import asyncio

    with _user_errors(go_on=True):
        from generator.preview import left_out
        from generator.preview import preview as look
        from generator.progress import Silent, to_stream

        recipe = _with_model(_recipe(recipe_path), **model)
        quiet = contextlib.nullcontext(Silent()) if as_json else to_stream(sys.stderr)
        with _database(url or recipe.database.url, create=True) as database, quiet as progress:
            stories = asyncio.run(look(recipe, database, progress, count))
        not_done = left_out(recipe)
    if as_json:
        _print_json({"seeds": stories, "left_out": not_done})
        return
    from generator.render import render

    render(stories, whole_prompts=whole_prompts)
    click.echo("\nleft out, done by the build:")
    for line in not_done:
        click.echo(f"- {line}")


@click.command()
@click.option(
    "--recipe", "recipe_path", metavar="FILE", help=f"Only this recipe's pipeline.  [database: {DEFAULT_RECIPE}'s]"
)
@click.option("--db", "url", default="", metavar="URL", help="Database, instead of the recipe's.")
@_json
def status(recipe_path: str | None, url: str, as_json: bool) -> None:
    """Tell how far each pipeline is: the funnel, the verdicts, why pairs were rejected, the snapshots."""
    with _user_errors():
        from generator.status import status as look

        recipe = _recipe(recipe_path) if recipe_path else None
        with _database(url or (recipe or _recipe(DEFAULT_RECIPE)).database.url) as database:
            found = look(database, recipe.name if recipe else None)
            name = database.name
    if as_json:
        _print_json({"database": name} | found)
        return
    click.echo(f"database {name}")
    for pipeline, parts in found["pipelines"].items():
        click.echo(f"\n{pipeline}")
        _print_table(("stage", "rows"), parts["funnel"])
        _print_table(("verdict", "responses"), parts["verdicts"])
        most, others = parts["rejections"][:_MOST_REASONS], parts["rejections"][_MOST_REASONS:]
        _print_table(("filter", "reason", "responses"), most)
        if others:
            click.echo(
                f"{len(others)} more reasons, of {sum(row['responses'] for row in others)} responses: see --json"
            )
    if not found["pipelines"]:
        click.echo("nothing built yet; `selfalign build` does it")
    _print_table(("name", "version", "size", "id"), found["datasets"])


@click.command()
@click.argument("id")
@_where
@_json
def show(id: str, recipe_path: str, url: str, as_json: bool) -> None:
    """Tell the whole story of one row: what it was made from and by, what came of it.

    What earlier recipes came to is told, too; each row says in which pipelines it is current, as they were last built.

    ID is any row's, or its first digits: of a seed, concepts, an instruction, a response, an execution, a recipe, a
    data set, a training or an evaluation.
    """
    with _user_errors():
        from generator.lineage import show as tell

        with _database(url or _recipe(recipe_path).database.url) as database, database.reading() as session:
            story = tell(session, id)
    if as_json:
        _print_json(story)
        return
    for table, rows in story.items():
        for row in rows if isinstance(rows, list) else [rows]:
            _print_row(table, row)


@click.command()
@_where
@click.option("--dataset", default="", metavar="NAME[@VERSION]", help="Snapshot; default: the recipe's newest.")
@click.option("--output", default="-", metavar="PATH", help="Where to write; default: standard output.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "parquet", "folder"]),
    help="JSON lines, one Parquet file, or a folder for datasets.load_dataset, with a card; else as --output ends.",
)
@click.option(
    "--columns",
    type=click.Choice(["pairs", "original", "trl", "preference"]),
    default="pairs",
    show_default=True,
    help="id, instruction, response; those of the original's data set; prompt, completion; prompt, chosen, rejected.",
)
@click.option("--force", is_flag=True, help="Replace what is at --output.")
@click.option("--json", "as_json", is_flag=True, help="Report in JSON; needs --output.")
def export(
    recipe_path: str, url: str, dataset: str, output: str, form: str | None, columns: str, force: bool, as_json: bool
) -> None:
    """Write a snapshot of accepted pairs into a file or a folder."""
    if output == "-" and (as_json or form not in (None, "jsonl")):
        raise click.UsageError("--json and --format need --output PATH: standard output takes JSON lines")
    form = form or _FORMAT_OF_ENDING.get(Path(output).suffix if output != "-" else ".jsonl")
    if form is None:
        raise click.UsageError(f"--output {output}: end it in .jsonl or .parquet, or give --format")
    with _user_errors():
        from generator.export import LAYOUTS, ExportError, export_jsonl
        from generator.export import export as write

        if not (dataset and url):
            recipe = _recipe(recipe_path)
            url, dataset = url or recipe.database.url, dataset or recipe.dataset.name or recipe.name
        layout = LAYOUTS[columns]
        with _database(url) as database, database.reading() as session:
            snapshot = _snapshot(session, dataset)
            if output == "-":
                export_jsonl(session, snapshot, sys.stdout, layout)
                return
            try:
                count = write(session, snapshot, Path(output), form, layout, replace=force)
            except ExportError as error:
                raise click.ClickException(str(error)) from None
            except OSError as error:
                raise click.ClickException(f"{output}: cannot be written: {error.strerror or error}") from None
    if as_json:
        _print_json({"dataset": snapshot.name, "version": snapshot.version, "rows": count, "output": output})
        return
    click.echo(f"{count} {layout.what} of {snapshot.name} v{snapshot.version} in {output}")


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@_where
@_json
def diff(old: str, new: str, recipe_path: str, url: str, as_json: bool) -> None:
    """Tell which pairs were added, removed and changed from snapshot OLD to NEW, each NAME or NAME@VERSION.

    The reason is why the selection of the snapshot without the pair rejected it; there is none for what it never saw.
    """
    with _user_errors():
        from generator.diff import diff as compare

        with _database(url or _recipe(recipe_path).database.url) as database, database.reading() as session:
            snapshots = [_snapshot(session, old), _snapshot(session, new)]
            changes = [dataclasses.asdict(change) for change in compare(session, *snapshots)]
            names = [f"{snapshot.name} v{snapshot.version}" for snapshot in snapshots]
    if as_json:
        _print_json({"old": names[0], "new": names[1], "changes": changes})
        return
    counts = {kind: sum(change["kind"] == kind for change in changes) for kind in ("added", "removed", "changed")}
    click.echo(f"{names[0]} -> {names[1]}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    _print_table(("kind", "response_id", "reason", "instruction"), changes)


@click.command()
@_where
@click.option("--dataset", default="", metavar="NAME[@VERSION]", help="Snapshot; default: the recipe's newest.")
@click.option(
    "--benchmarks",
    default="",
    metavar="FOLDER",
    help="Benchmark files, or package:NAME; default: the recipe's [selection] benchmarks.",
)
@_json
def overlap(recipe_path: str, url: str, dataset: str, benchmarks: str, as_json: bool) -> None:
    """Tell which pairs of a snapshot hold too much of a benchmark's problem.

    Exits with 3 where there is one, so that a script can refuse to train on it.
    """
    with _user_errors():
        from generator.benchmarks import BenchmarkIndex
        from generator.overlap import overlaps

        recipe = _recipe(recipe_path)
        folder = benchmarks or recipe.selection.benchmarks or recipe.seeds.benchmarks
        if not folder:
            raise click.UsageError(f"{recipe_path} names no benchmarks: give --benchmarks FOLDER")
        index = BenchmarkIndex(Path(folder), "--benchmarks" if benchmarks else f"{recipe_path} benchmarks")
        with _database(url or recipe.database.url) as database, database.reading() as session:
            snapshot = _snapshot(session, dataset or recipe.dataset.name or recipe.name)
            findings = [dataclasses.asdict(finding) for finding in overlaps(session, snapshot, index)]
            told = {"dataset": snapshot.name, "version": snapshot.version, "pairs": snapshot.size}
    if as_json:
        _print_json(told | {"problems": index.problems, "overlaps": findings})
    else:
        held = len({finding["position"] for finding in findings})
        click.echo(
            f"{held} of {told['pairs']} pairs of {told['dataset']} v{told['version']} overlap "
            f"one of {index.problems} problems"
        )
        _print_table(("position", "response_id", "place", "problem", "kind", "share"), findings)
    if findings:
        sys.exit(3)


@click.group()
def db() -> None:
    """Look after the database, and ask it."""


@db.command()
@_where
@_json
def upgrade(recipe_path: str, url: str, as_json: bool) -> None:
    """Bring the tables to this version's schema; make them where there are none."""
    with _user_errors():
        from generator.schema import upgrade_url

        name, before, after = upgrade_url(url or _recipe(recipe_path).database.url)
    if as_json:
        _print_json({"database": name, "before": before, "after": after})
    elif before == after:
        click.echo(f"{name}: schema {after}, nothing to do")
    else:
        click.echo(f"{name}: schema {after}, {'made' if before is None else f'upgraded from {before}'}")


@db.command()
@click.argument("sql")
@_where
@_json
def query(sql: str, recipe_path: str, url: str, as_json: bool) -> None:
    """Run one SQL query, which can only read."""
    with _user_errors():
        from generator.store import run_query

        with _database(url or _recipe(recipe_path).database.url) as database:
            columns, rows = run_query(database, sql)
    found = [dict(zip(_distinct(columns), row, strict=True)) for row in rows]
    if as_json:
        _print_json(found)
        return
    if not rows:
        click.echo("no rows", err=True)
    _print_table(_distinct(columns), found)


COMMANDS: tuple[click.Command, ...] = (seeds, plan, preview, build, status, show, diff, overlap, export, db)


def _recipe(path: str) -> Recipe:
    from generator.recipe import load_recipe

    if path == DEFAULT_RECIPE and not Path(path).exists():
        raise click.UsageError(f"no {DEFAULT_RECIPE} here: give --recipe FILE")
    return load_recipe(Path(path))


def _with_model(recipe: Recipe, **given: str | None) -> Recipe:
    from generator.recipe import with_model

    return with_model(recipe, **given)


def _snapshot(session: Session, text: str) -> Dataset:
    from generator.store import find_dataset

    name, at, version = text.partition("@")
    number = version.removeprefix("v")
    if not name or (at and not number.isdecimal()):
        raise click.UsageError(f"{text}: expected a data set's NAME or NAME@VERSION, such as demo@2")
    return find_dataset(session, name, int(number) if number else None)


@contextlib.contextmanager
def _database(url: str, *, create: bool = False) -> Iterator[Database]:
    from generator.store import open_database, open_to_read

    database = open_database(url, create=True) if create else open_to_read(url)
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def _user_errors(*, go_on: bool = False) -> Iterator[None]:
    """Let what a user can mend leave as one line; with `go_on`, say that finished work is kept."""
    from generator.engines import EngineError
    from generator.lineage import UnknownRow
    from generator.store import DatabaseError, UnknownDataset
    from sandbox_server.errors import SandboxError
    from sandbox_server.settings import SettingsError

    try:
        yield
    except (SettingsError, UnknownDataset, UnknownRow) as error:
        raise click.ClickException(str(error)) from None
    except (DatabaseError, EngineError, SandboxError) as error:
        raise click.ClickException(f"{error}{f' ({_GO_ON})' if go_on else ''}") from None
    except KeyboardInterrupt:
        if not go_on:
            raise
        click.echo(f"\nstopped; {_GO_ON}", err=True)
        sys.exit(130)


def _summary(report: Report) -> str:
    if report.did_nothing:
        held = _snapshot_words(report)
        return f"nothing to do: 0 completions drawn, 0 programs run; {held}"
    parts = [f"{report.completions_drawn} completions drawn", f"{report.programs_run} programs run"]
    if report.failed:
        parts.append(f"{report.failed} requests failed (--retry-failed asks again)")
    if report.workers_lost:
        parts.append(f"{report.workers_lost} workers lost and replaced")
    return ", ".join(parts) + f"; {_snapshot_words(report)}"


def _snapshot_words(report: Report) -> str:
    snapshot = report.snapshot
    if snapshot is None or snapshot.version is None:
        return "no pair accepted yet"
    return f"data set {snapshot.dataset} v{snapshot.version} holds {snapshot.size} pairs"


def _plain_report(report: Report) -> dict[str, Any]:
    return dataclasses.asdict(report) | {
        "completions_drawn": report.completions_drawn,
        "did_nothing": report.did_nothing,
    }


def _duration(time_s: float | None) -> str:
    if time_s is None:
        return "unknown"
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _distinct(names: Sequence[str]) -> list[str]:
    """Tell columns of the same name apart, as joins have them: id, id_2, id_3."""
    told: list[str] = []
    for name in names:
        other, number = name, 1
        while other in told:
            number += 1
            other = f"{name}_{number}"
        told.append(other)
    return told


def _print_json(value: Any) -> None:
    click.echo(json.dumps(_speakable(value), ensure_ascii=False, allow_nan=False))


def _speakable(value: Any) -> Any:
    """What JSON has no word for as text: bytes, times, and numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _speakable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_speakable(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _print_row(table: str, row: dict[str, Any]) -> None:
    current_in = row.get("current_in")
    if current_in is None:
        when = ""
    else:
        when = f"  (current in {', '.join(current_in)})" if current_in else "  (current in no pipeline)"
    click.secho(f"{table} {row.get('id', '')}".rstrip() + when, bold=True)
    for key, value in row.items():
        if key in ("id", "table", "current_in") or value in (None, "", []):
            continue
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
        lines = visible(text).removesuffix("\n").split("\n")
        if len(lines) == 1:
            click.echo(f"  {key}: {lines[0]}")
        else:
            click.echo(f"  {key}:")
            click.echo("\n".join(f"    {line}" for line in lines))


def _print_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Print aligned columns, numbers to the right; nothing where there are no rows."""
    if not rows:
        return
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in [list(columns), *cells]) for index in range(len(columns))]
    numeric = [all(isinstance(row[column], int | float) for row in rows) for column in columns]
    click.echo()
    for number, line in enumerate([list(columns), *cells]):
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        click.secho("  ".join(padded).rstrip(), bold=number == 0)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = visible(" ".join(text.split()))
    return text if len(text) <= 100 else f"{text[:97]}..."
