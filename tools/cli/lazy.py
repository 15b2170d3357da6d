"""Command groups whose commands are imported when they are called.

A worker must not load what the other commands need, and `bot ls` must not wait for the imports of `bot logs`.
"""

import difflib
import importlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import click
from click.shell_completion import CompletionItem


class LazyCommand(NamedTuple):
    """The module of a command, and its one-line help."""

    module: str
    name: str
    help: str


class LazyGroup(click.Group):
    """A group of such commands, in the given order."""

    def __init__(
        self, name: str, text: str, lazy: Mapping[str, LazyCommand], params: Sequence[click.Parameter] = ()
    ) -> None:
        settings = {"help_option_names": ["-h", "--help"]}
        super().__init__(name, help=text, context_settings=settings, params=list(params))
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, without importing a module."""
        return list(self._lazy)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin with *incomplete*, without importing a module."""
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of *args*; the error of an unknown one names the commands that it may mean."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], known)
            hint = f"did you mean {', or '.join(map(repr, near))}?" if near else f"commands are: {', '.join(known)}"
            ctx.fail(f"No such command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list in `--help`, without importing a module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self._lazy.items()])
