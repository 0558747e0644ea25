"""Commands of this floor: thin, and importing nothing heavy until one runs."""

from __future__ import annotations

import click

COMMANDS: tuple[click.Command, ...] = ()
