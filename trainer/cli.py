"""Commands of this floor: thin, and importing nothing heavy until one runs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from trainer.evaluation.cli import eval_command


@click.command("train")
@click.option(
    "--recipe",
    "recipe_path",
    type=click.Path(path_type=Path),
    default="recipes/demo.toml",
    show_default=True,
    metavar="FILE",
    help="TOML file of the run.",
)
@click.option("--db", "url", default="", metavar="URL", help="Database, instead of the recipe's.")
@click.option("--dataset", default="", metavar="NAME[@VERSION]", help="Snapshot; default: the recipe's newest.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the checkpoint goes; default: a folder under runs/.",
)
def train_command(recipe_path: Path, url: str, dataset: str, output: Path | None) -> None:
    """Fine-tune on a snapshot of accepted pairs.

    Stopped at any moment, the same command goes on from the last checkpoint; finished, it does nothing.
    """
    from generator.recipe import load_recipe
    from generator.store import DatabaseError, UnknownDataset
    from sandbox_server.settings import SettingsError
    from trainer.config import train_settings

    try:
        recipe = load_recipe(recipe_path)
        if not recipe.train:
            raise SettingsError(f"{recipe_path}: has no table [train]; it needs at least model")
        settings = train_settings(recipe.train, f"{recipe_path} [train]", recipe.seed)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None
    _need_torch("training")
    from trainer.chat import TokenizerUnfit
    from trainer.dataset import DataUnfit
    from trainer.folder import FolderTaken, FolderUnwritable
    from trainer.loop import Diverged
    from trainer.model import ModelUnfit
    from trainer.train import OutOfMemory, train

    expected = (
        DatabaseError,
        UnknownDataset,
        DataUnfit,
        FolderTaken,
        FolderUnwritable,
        ModelUnfit,
        TokenizerUnfit,
        OutOfMemory,
        Diverged,
        SettingsError,
    )
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        train(recipe, settings, url=url or recipe.database.url, dataset=dataset, output=output, say=click.echo)
    except expected as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt as stop:
        click.echo("\nstopped; the same command goes on from the last checkpoint", err=True)
        sys.exit(128 + (stop.args[0] if stop.args else signal.SIGINT))
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: object) -> None:
    """Stop as Ctrl-C does, so that the run's row says so: schedulers and service managers end a run by SIGTERM."""
    raise KeyboardInterrupt(number)


@click.command("respond")
@click.argument("model")
@click.argument("instruction")
@click.option("--response-prefix", default="", help=r"How the answer begins, e.g. $'```python\n'.")
@click.option(
    "--one-shot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="JSON with an example's instruction and response.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Of the answer.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--json", "as_json", is_flag=True, help="Print text, finish reason and token counts as JSON.")
def respond_command(
    model: str,
    instruction: str,
    response_prefix: str,
    one_shot: Path | None,
    max_tokens: int,
    temperature: float,
    as_json: bool,
) -> None:
    """Ask MODEL, a checkpoint's folder or a hub name, to answer INSTRUCTION (`-` reads it from stdin)."""
    import dataclasses
    import json

    _need_torch("responding")
    from trainer.chat import TokenizerUnfit
    from trainer.loop import quiet_libraries
    from trainer.model import ModelUnfit
    from trainer.respond import ExampleUnfit, PromptUnfit, Responder, read_example

    if instruction == "-":
        instruction = sys.stdin.read()
    if not instruction.strip():
        raise click.ClickException("the instruction is empty; say what the model shall do")
    try:
        example = read_example(one_shot) if one_shot else None
        with quiet_libraries():
            answer = Responder(model).answer(
                instruction,
                response_prefix=response_prefix,
                example=example,
                max_tokens=max_tokens,
                temperature=temperature,
            )
    except (ExampleUnfit, ModelUnfit, PromptUnfit, TokenizerUnfit) as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(dataclasses.asdict(answer)) if as_json else answer.text)


def _need_torch(what: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "accelerate") if find_spec(name) is None]
    if missing:
        raise click.ClickException(f"{what} needs {', '.join(missing)}: pip install 'selfalign[train]'")


COMMANDS: tuple[click.Command, ...] = (train_command, eval_command, respond_command)
