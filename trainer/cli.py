"""Commands of this floor: thin, and importing nothing heavy until one runs."""

from __future__ import annotations

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
    help="TOML file.",
)
@click.option("--db", "url", default="", help="Database URL; the recipe's if not given.")
@click.option("--dataset", default="", metavar="NAME[@VERSION]", help="Snapshot; the recipe's newest if not given.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder of the checkpoint; one under runs/ if not given."
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
    from trainer.folder import FolderTaken
    from trainer.loop import Diverged
    from trainer.model import ModelUnfit
    from trainer.train import OutOfMemory, train

    expected = (
        DatabaseError,
        UnknownDataset,
        DataUnfit,
        FolderTaken,
        ModelUnfit,
        TokenizerUnfit,
        OutOfMemory,
        Diverged,
    )
    try:
        result = train(recipe, settings, url=url or recipe.database.url, dataset=dataset, output=output, say=click.echo)
    except expected as error:
        raise click.ClickException(str(error)) from None
    metrics = result.metrics
    click.echo(
        f"{metrics['steps']:,} steps, loss {metrics['first_loss']:.4f} -> {metrics['last_loss']:.4f}, "
        f"{metrics['tokens_per_second'] or 0:,.0f} tokens/s; model in {result.output}"
    )


def _need_torch(what: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "accelerate") if find_spec(name) is None]
    if missing:
        raise click.ClickException(f"{what} needs {', '.join(missing)}: pip install 'selfalign[train]'")


COMMANDS: tuple[click.Command, ...] = (train_command, eval_command)
