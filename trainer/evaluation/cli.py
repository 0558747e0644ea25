"""`selfalign eval`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from trainer.evaluation.config import BENCHMARKS

if TYPE_CHECKING:
    from trainer.evaluation.command import Request
    from trainer.evaluation.compare import Stored
    from trainer.evaluation.run import Report


@click.group("eval", invoke_without_command=True)
@click.option("--recipe", type=click.Path(dir_okay=False), help="Take database, sandbox and [evaluate] from this file.")
@click.option(
    "--benchmark",
    type=click.Choice(BENCHMARKS),
    help="Default: the recipe's, or humaneval.",
)
@click.option(
    "--samples", default="", metavar="FILE", help="JSONL with task_id and solution or completion; or `canonical`."
)
@click.option("--model", default="", help="Checkpoint's folder, or a name on the hub or server, to draw samples from.")
@click.option(
    "--engine",
    type=click.Choice(["transformers", "openai"]),
    default="transformers",
    show_default=True,
    help="Reaches --model.",
)
@click.option("--base-url", default="http://localhost:8000/v1", show_default=True, help="Of --engine openai.")
@click.option("--tokenizer", default="", help="Its chat template writes the prompts; default: the model's own.")
@click.option("--base", is_flag=True, help="Prompt --model with bare code, not through its chat template.")
@click.option("--repair", default="", metavar="EVALUATION", help="For livecodebench-repair: the first attempts.")
@click.option("--data", metavar="PATH", help="File or folder of the benchmark's data.")
@click.option("--data-version", metavar="VERSION", help="Take a data file of another hash for this version.")
@click.option("--limit", type=click.IntRange(min=0), help="Only the first problems; 0 means all.")
@click.option("--n", "n", type=click.IntRange(min=1), help="Samples of each problem that --model draws.")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of each completion.")
@click.option("--judge", type=click.Choice(["same", "separate"]), default="same", help="Where the tests run.")
@click.option("--sandbox", "address", help="host:port or unix:/path; default: the recipe's, or a server of its own.")
@click.option("--db", metavar="URL", help="Database; default: the recipe's, or sqlite:///runs/selfalign.db.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, every sample in it.")
def eval_command(as_json: bool, **options: Any) -> None:
    """Score a model or a file of samples on a benchmark, through the sandbox.

    Every verdict is stored as a row; the same evaluation asked again runs only what has no verdict yet. Without
    --samples and --model, the last checkpoint that was trained on the recipe's dataset is scored.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    import asyncio
    import json

    from generator.engines import EngineError
    from generator.store import DatabaseError
    from sandbox_server.errors import SandboxError
    from sandbox_server.settings import SettingsError
    from trainer.evaluation.command import NothingToScore, RulerBroken, score
    from trainer.evaluation.compare import NoSuchEvaluation
    from trainer.evaluation.data import DataUnfit
    from trainer.evaluation.reference import ReferenceBroken
    from trainer.evaluation.run import GOES_ON, CannotScore
    from trainer.evaluation.samples import SamplesUnfit

    try:
        reports = asyncio.run(score(_request(options), _Progress()))
    except (DataUnfit, SamplesUnfit, NothingToScore, RulerBroken, ReferenceBroken, CannotScore, SettingsError) as error:
        raise click.ClickException(str(error)) from error
    except (DatabaseError, NoSuchEvaluation) as error:
        raise click.ClickException(str(error)) from error
    except (EngineError, SandboxError) as error:
        raise click.ClickException("; ".join([str(error), *getattr(error, "__notes__", ())])) from error
    except KeyboardInterrupt:
        click.echo(f"\nstopped; {GOES_ON}", err=True)
        sys.exit(130)
    if as_json:
        click.echo(json.dumps([_document(report) for report in reports], indent=2))
    else:
        click.echo("\n\n".join(_table(report) for report in reports))


def _request(options: dict[str, Any]) -> Request:
    import dataclasses
    from pathlib import Path

    from generator.recipe import DatabaseSettings, SandboxSettings
    from sandbox_server.jobs import Judge
    from trainer.evaluation.command import Request, Subject, from_recipe
    from trainer.evaluation.config import EvaluateSettings

    if options["samples"] and options["model"]:
        raise click.UsageError("--samples and --model exclude each other: score one subject at a time")
    if not (options["samples"] or options["model"] or options["recipe"]):
        raise click.UsageError("nothing to score: give --samples FILE, --model FOLDER or --recipe FILE")
    settings, database, sandbox, dataset = EvaluateSettings(), DatabaseSettings(), SandboxSettings(), ""
    if options["recipe"]:
        recipe, settings = from_recipe(Path(options["recipe"]))
        database, sandbox, dataset = recipe.database, recipe.sandbox, recipe.dataset.name or recipe.name
    names = {"n": "samples", "benchmark": "benchmark", "data": "data", "data_version": "data_version", "limit": "limit"}
    names |= {"temperature": "temperature", "max_tokens": "max_tokens"}
    given = {setting: options[option] for option, setting in names.items() if options[option] is not None}
    try:
        settings = dataclasses.replace(settings, **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if options["samples"]:
        # A file is scored as it is; the ruler is for what this machine makes itself.
        settings = dataclasses.replace(settings, check_ruler=False)
    if options["address"]:
        sandbox = dataclasses.replace(sandbox, address=options["address"])
    return Request(
        settings=settings,
        subject=Subject(
            options["samples"],
            options["model"],
            options["base"],
            options["repair"],
            options["engine"],
            options["base_url"],
            options["tokenizer"],
        ),
        database_url=options["db"] or database.url,
        sandbox=sandbox,
        judge=Judge.SEPARATE if options["judge"] == "separate" else Judge.SAME_INTERPRETER,
        dataset=dataset,
    )


class _Progress:
    """A counter on the terminal, and nothing where there is none."""

    def __call__(self, subject: str, done: int, total: int) -> None:
        stream = sys.stderr
        if stream.isatty():
            stream.write(f"\r{subject}: {done}/{total}" + ("\n" if done == total else ""))
            stream.flush()


def _table(report: Report) -> str:
    scores = report.scores
    from trainer.evaluation.show import rates_text

    lines = [" ".join(filter(None, (report.benchmark, report.data_version))) + f": {report.subject}"]
    lines += [f"  {verdict:<14}{count:>6}" for verdict, count in scores["verdicts"].items()]
    lines += rates_text(scores)
    if "unjudged" in scores:
        lines.append(
            f"  {scores['unjudged']} could not be judged in a jail of their own and count as not passed; "
            "`selfalign eval show last` says why"
        )
    kept = scores["samples"] - report.ran
    lines.append(
        f"  {scores['passed']}/{scores['samples']} samples of {scores['problems']} problems passed; "
        f"{report.ran} run now, {kept} had their verdict"
    )
    lines.append(f"  evaluation {report.evaluation}")
    return "\n".join(lines)


def _document(report: Report) -> dict[str, Any]:
    return {
        "evaluation": report.evaluation,
        "benchmark": report.benchmark,
        "data_version": report.data_version,
        "subject": report.subject,
        "scores": report.scores,
        "ran": report.ran,
        "samples": [
            {
                "task_id": sample.task_id,
                "sample_index": sample.sample_index,
                "verdict": sample.verdict,
                "details": sample.details,
            }
            for sample in report.samples
        ],
    }


_DATABASE = click.option(
    "--db", default="sqlite:///runs/selfalign.db", metavar="URL", show_default=True, help="Database."
)


@eval_command.command("compare")
@click.argument("first")
@click.argument("second")
@_DATABASE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare_command(first: str, second: str, db: str, as_json: bool) -> None:
    """Tell which problems changed from evaluation FIRST to SECOND, and whether by more than chance.

    An evaluation is named by its id, the beginning of it, `last`, or `last~1` for the one before.
    """
    import dataclasses
    import json

    from trainer.evaluation.compare import Incomparable, compare
    from trainer.evaluation.show import comparison_text

    one, other = _stored(db, first, second)
    try:
        found = compare(one, other)
    except Incomparable as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else comparison_text(one, other, found))


@eval_command.command("show")
@click.argument("name", default="last")
@_DATABASE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, every sample in it.")
@click.option("--samples", "as_samples", is_flag=True, help="Print the samples as evalplus's JSONL.")
@click.option("--model-index", metavar="MODEL", help="Print the scores as the model-index of MODEL's card.")
def show_command(name: str, db: str, as_json: bool, as_samples: bool, model_index: str | None) -> None:
    """Show evaluation NAME problem by problem: right samples, and what went wrong first."""
    import dataclasses
    import json

    from trainer.evaluation import show

    if as_json + as_samples + (model_index is not None) > 1:
        raise click.UsageError("--json, --samples and --model-index exclude each other")
    (stored,) = _stored(db, name)
    if model_index is not None:
        if stored.scores is None:
            raise click.ClickException(f"evaluation {stored.id} is not finished, so it has no scores to put on a card")
        click.echo(show.model_index(model_index, (stored.benchmark, stored.scores or {}, stored.parameters)))
    elif as_samples:
        click.echo(show.samples_text(stored))
    elif as_json:
        click.echo(json.dumps(dataclasses.asdict(stored), indent=2))
    else:
        click.echo(show.problems_text(stored))
        click.echo("\n".join(["", *show.rates_text(stored.scores or {})]))


@eval_command.command("overlap")
@click.argument("dataset")
@click.option("--benchmark", type=click.Choice(BENCHMARKS), required=True, help="What must not be trained on.")
@click.option("--data", help="File or folder of the benchmark's data.")
@_DATABASE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def overlap_command(dataset: str, benchmark: str, data: str | None, db: str, as_json: bool) -> None:
    """Report which pairs of the snapshot DATASET (NAME or NAME@VERSION) share text with a benchmark."""
    import contextlib
    import dataclasses
    import json
    from pathlib import Path

    from generator.store import DatabaseError, UnknownDataset, open_database
    from trainer.evaluation.benchmarks import load_benchmark
    from trainer.evaluation.data import DataUnfit
    from trainer.evaluation.overlap import overlap
    from trainer.evaluation.show import overlap_text

    try:
        problems = load_benchmark(benchmark, Path(data) if data else None).problems
        with contextlib.closing(open_database(db)) as database:
            report = overlap(database, dataset, problems)
    except (DatabaseError, DataUnfit, UnknownDataset) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(dataclasses.asdict(report), indent=2) if as_json else overlap_text(report, benchmark))


def _stored(url: str, *names: str) -> list[Stored]:
    import contextlib

    from generator.store import DatabaseError, open_database
    from trainer.evaluation.compare import NoSuchEvaluation, find_evaluation

    try:
        with contextlib.closing(open_database(url)) as database:
            return [find_evaluation(database, name) for name in names]
    except (DatabaseError, NoSuchEvaluation) as error:
        raise click.ClickException(str(error)) from error
