"""Command groups whose commands are imported when they are called.

A worker must not carry what the other commands need, and `bot ls` should not wait for what `bot logs` imports.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem


class LazyCommand(NamedTuple):
    """Where a command is, and its one-line help."""

    module: str
    name: str
    help: str


class LazyGroup(click.Group):
    """A group of such commands, listed in the order in which they are given."""

    def __init__(
        self, name: str, text: str, lazy: Mapping[str, LazyCommand], params: Sequence[click.Parameter] = ()
    ) -> None:
        settings = {"help_option_names": ["-h", "--help"]}
        super().__init__(name, help=text, context_settings=settings, params=list(params))
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, without importing anything."""
        return list(self._lazy)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands and options that begin with *incomplete*, without importing anything."""
        named = [(name, command.help) for name, command in self._lazy.items() if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=text) for name, text in named), *options]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None when there is no such command."""
        known = self._lazy.get(cmd_name)
        if known is None:
            return None
        command = getattr(importlib.import_module(known.module), known.name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{known.module}.{known.name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self._lazy.items()])
