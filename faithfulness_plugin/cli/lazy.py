"""Groups of commands whose modules are imported when one of them is called."""

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import typer
import typer.core
from typing_extensions import override

from faithfulness_plugin.nearest import nearest

PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


class Entry(NamedTuple):
    """A command in a group's table."""

    place: str
    """"module:attribute" of its function, or of an app with more commands."""
    about: str
    """What it does, for the list of commands."""
    example: str = ""
    old_options: Mapping[str, str] = MappingProxyType({})
    """Names that options had, and have still without being shown, with the names of now."""


class LazyGroup(typer.core.TyperGroup):
    """Commands by name. Their help lists them without importing any."""

    table: ClassVar[Mapping[str, Entry]]
    renamed: ClassVar[Mapping[str, str]]
    what: ClassVar[str] = "command"

    @override
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names."""
        return list(self.table)

    @override
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names with what each command does."""
        with formatter.section(f"{self.what.capitalize()}s"):
            formatter.write_dl([(name, entry.about) for name, entry in self.table.items()])

    @override
    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; an unknown name fails with the nearest one, an old name with the new one."""
        if cmd_name in self.renamed:
            ctx.fail(f"{ctx.command_path} {cmd_name} is now `faithfulness {self.renamed[cmd_name]}`")
        if cmd_name not in self.table:
            ctx.fail(f"there is no {self.what} {cmd_name}: {nearest(cmd_name, list(self.table))}")
        return self.made(cmd_name)

    def made(self, name: str) -> Any:
        """Import a command, or a group of them.

        Args:
            name: one of the table's.

        Returns:
            The command.
        """
        found = attribute_at(self.table[name].place)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        return as_command(found, name, self.table[name].example, self.table[name].old_options)


def attribute_at(place: str) -> Any:
    """Import an object.

    Args:
        place: "module:attribute".

    Returns:
        The object.
    """
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def as_command(function: Any, name: str, example: str, old_options: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Turn a function into a command, with its docstring as help and an example below.

    Args:
        function: its parameters are the options.
        name: the command's.
        example: a command line.
        old_options: names of options that are no longer shown, with the names of now.

    Returns:
        The command.
    """
    app = typer.Typer(**PLAIN)
    settings = {"token_normalize_func": lambda option: old_options.get(option, option)}
    app.command(name, epilog=f"Example: {example}", context_settings=settings)(function)
    command = typer.main.get_command(app)
    command.name = name
    return command


def group(
    base: type[LazyGroup],
    table: Mapping[str, Entry],
    about: str,
    renamed: Mapping[str, str] = MappingProxyType({}),
    options: Callable[..., None] = lambda: None,
    **typer_options: Any,
) -> typer.Typer:
    """Build a group of commands as an app that can stand in another group.

    Args:
        base: the group's class.
        table: the commands by name.
        about: the group's help.
        renamed: the words of the new command, behind `faithfulness`, by the old name.
        options: a function whose signature is the group's own options.
        typer_options: of `typer.Typer`.

    Returns:
        The app.
    """
    cls = type(base.__name__, (base,), {"table": table, "renamed": renamed})
    app = typer.Typer(cls=cls, help=about, no_args_is_help=True, **{**PLAIN, **typer_options})
    app.callback()(options)
    return app
