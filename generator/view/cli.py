"""The viewer's commands: thin, and importing nothing heavy until one runs."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from generator import cli as generator_cli

if TYPE_CHECKING:
    from generator.store import Database

_NEEDED = frozenset({"jinja2", "markupsafe", "pygments", "starlette", "uvicorn"})


@click.command()
@generator_cli._where
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes a free one.")
def view(recipe_path: str, url: str, port: int) -> None:
    """Look at a database in a browser: funnel, verdicts, search, every pair's lineage, snapshots, trainings, scores.

    The pages only read, and only this machine can reach them. From another one: ssh -L PORT:127.0.0.1:PORT HOST.
    """
    with _opened(recipe_path, url) as database:
        from generator.view.app import serve

        try:
            serve(database, port, lambda address: click.echo(f"{database.name} at {address} (Ctrl-C ends it)"))
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO)
            message = f"port {port}: {reason}; give another with --port, or 0 for a free one"
            raise click.ClickException(message) from None
        except KeyboardInterrupt:
            click.echo()  # after the terminal's ^C


@click.command()
@generator_cli._where
@click.option("--output", required=True, metavar="FILE", help="HTML file to write.")
@click.option(
    "--pairs", type=click.IntRange(0, 1000), default=20, show_default=True, help="Pairs shown whole, of each kind."
)
@generator_cli._json
def report(recipe_path: str, url: str, output: str, pairs: int, as_json: bool) -> None:
    """Write what `view` shows into one HTML file that needs nothing else, to send around."""
    with _opened(recipe_path, url) as database:
        from generator.view.report import write_report

        try:
            size = write_report(database, Path(output), pairs)
        except OSError as error:
            raise click.ClickException(f"{output}: cannot be written: {error.strerror}") from None
    if as_json:
        generator_cli._print_json({"output": output, "bytes": size})
        return
    click.echo(f"{output}: {size / 1000:,.0f} kB")


COMMANDS: tuple[click.Command, ...] = (view, report)


@contextlib.contextmanager
def _opened(recipe_path: str, url: str) -> Iterator[Database]:
    with generator_cli._user_errors():
        from generator.store import open_read_only

        try:
            import generator.view.app  # noqa: F401  # told before anything is opened
        except ModuleNotFoundError as error:
            if error.name not in _NEEDED:
                raise
            raise click.ClickException(f"needs {error.name}: pip install 'selfalign[view]'") from None
        database = open_read_only(url or generator_cli._recipe(recipe_path).database.url)
        try:
            yield database
        finally:
            database.close()
