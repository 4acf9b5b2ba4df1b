"""Old names of commands: each says the new one."""

import typer

from faithfulness_plugin.cli.terminal import fail

ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def renamed(group: typer.Typer, old: str, new: str) -> None:
    """Let a command's old name fail with 2 and its new name, whatever its arguments are.

    Args:
        group: the commands among which the old name stands.
        new: the new command's words behind `faithfulness`.
    """

    def command() -> None:
        fail(f"this command is now `faithfulness {new}`", 2)

    group.command(old, hidden=True, context_settings=ANYTHING)(command)
