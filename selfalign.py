"""The one command. Sub-commands live on the floors and load what they need when they run."""

from __future__ import annotations

import click


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        """Run the sub-command; who gives its recipe without the option is told so."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if error.message.startswith("Got unexpected extra argument") and ".toml" in error.message:
                raise click.UsageError(f"{error.message}: did you mean --recipe FILE?", error.ctx) from None
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="selfalign")
def main() -> None:
    """Let a code model align itself: generate, execute, select, train, evaluate."""


def _add_commands() -> None:
    # Each module imports click and the standard library only; a test holds `selfalign --help` to that.
    from generator import cli as generator_cli
    from generator.view import cli as view_cli
    from sandbox_server import cli as sandbox_cli
    from trainer import cli as trainer_cli

    for module in (sandbox_cli, generator_cli, view_cli, trainer_cli):
        for command in module.COMMANDS:
            main.add_command(command)


_add_commands()

if __name__ == "__main__":
    main()
