"""Options of the commands that run a folder."""

import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from libs.core.schema_parameters import described_parameters, schema_of, unknown_parameters
from tools.cli.tables import cell

directory_argument = click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
config_option = click.option(
    "--config",
    help="A JSON object, a file with one, or - for standard input. Its keys replace stored ones and bot.json's config.",
)
reset_option = click.option(
    "--reset-config", is_flag=True, help="Discard the values of earlier deploys; use only bot.json and these flags."
)
runtime_option = click.option("--runtime", help="python3.11 or nodejs20.  [from bot.json, else guessed from the files]")
entrypoint_option = click.option(
    "--entrypoint", help="The file to run.  [from bot.json, else main.py, main.js or index.js]"
)
env_file_option = click.option(
    "--env-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of NAME=VALUE for the bot's environment; THE0_SECRET_NAME is a secret for references in the config.",
)
data_option = click.option(
    "--data",
    "data",
    multiple=True,
    metavar="NAME=PATH",
    help="The file or folder that is the data set NAME, mounted at /data/NAME. Repeatable.",
)
state_option = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder that is /state at the start and has its content afterwards.  [/state is empty, and is dropped]",
)


def config_of(text: str | None) -> dict[str, Any]:
    """Return the config of `--config`: a JSON object, or a file or standard input with one. Raises click.UsageError."""
    if text is None:
        return {}
    if text == "-":
        text = sys.stdin.read()
    elif not text.lstrip().startswith("{"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise click.UsageError(
                f"--config {text}: {error.strerror or error}; name a file, or JSON in {{}}"
            ) from error
        except UnicodeDecodeError as error:
            raise click.UsageError(f"--config {text} is not UTF-8; save the file as UTF-8") from error
    try:
        config = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--config is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise click.UsageError("--config must be a JSON object")
    return config


def warn_of_unknown(description: Mapping[str, Any], config: Mapping[str, Any], entrypoint: str) -> None:
    """Print on standard error which keys of *config* the description's schema lacks."""
    schema = schema_of(description, entrypoint)
    known = described_parameters(schema)
    for key in unknown_parameters(config, schema):
        nearest = difflib.get_close_matches(key, known, 1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        click.echo(f"warning: the config's {cell(key)} is not in the description's schema{hint}", err=True)
