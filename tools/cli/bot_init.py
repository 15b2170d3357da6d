"""`runtime bot init`: write a folder to start from."""

from pathlib import Path
from typing import Any

import click

from tools.author.starter import Language, StarterKind, write_starter
from tools.cli.output import output_option, show


@click.command()
@click.argument("directory", metavar="NAME", type=click.Path(path_type=Path))
@click.option(
    "--lang",
    type=click.Choice([str(language) for language in Language]),
    default=str(Language.PYTHON),
    show_default=True,
    help="The language.",
)
@click.option(
    "--kind",
    type=click.Choice([str(kind) for kind in StarterKind]),
    default=str(StarterKind.BOT),
    show_default=True,
    help="Runs until it is stopped, once, or on a cron expression.",
)
@output_option
def init(directory: Path, lang: str, kind: str, output: str) -> None:
    """Write a small bot into the new folder NAME.

    The folder has the code, a bot.json that describes it, with a JSON Schema of the config, and a README.
    """
    files = write_starter(directory, Language(lang), StarterKind(kind))
    data: dict[str, Any] = {"directory": str(directory), "files": files}
    show(output, data, lambda: click.echo(f"{directory} has {', '.join(files)}; its README.md says how to run it"))
