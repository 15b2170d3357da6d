"""`runtime secrets keygen`: make a private key for workers."""

import os
from pathlib import Path

import click

from libs.core.errors import UserError
from libs.core.secrets.sealing import new_private_key, public_key_of
from tools.cli.output import output_option, show


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--append", is_flag=True, help="Add the key to an existing file, for rotation.")
@output_option
def keygen(file: Path, append: bool, output: str) -> None:
    """Write a new private key to FILE, readable only by this user, and print its public key.

    Give FILE to the workers as SECRETS_KEY_FILE, and the public key to `runtime secrets seal`.
    """
    private = new_private_key()
    public = public_key_of(private)
    flags = os.O_WRONLY | os.O_APPEND | (0 if append else os.O_CREAT | os.O_EXCL)
    try:
        descriptor = os.open(file, flags, 0o600)
    except FileExistsError:
        raise UserError(f"{file} exists; --append adds a key to it") from None
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}") from error
    with os.fdopen(descriptor, "w") as written:
        written.write(f"# public key: {public}\n{private}\n")
    show(output, {"file": str(file), "public_key": public}, lambda: click.echo(public))
