"""`runtime secrets seal`: seal a value for the bots of one owner."""

import sys

import click

from libs.core.errors import UserError
from libs.core.secrets.sealing import ANY_OWNER, MOST_BYTES, seal
from tools.cli.output import write_json


@click.command("seal")
@click.option("--key", required=True, metavar="KEY", help="The public key, as `runtime secrets keygen` prints it.")
@click.option(
    "--owner",
    required=True,
    help=f"The owner whose bots may use the value, such as the bot's author; {ANY_OWNER} for all owners.",
)
def seal_command(key: str, owner: str) -> None:
    """Read a value from standard input and print the object for the config: {"$sealed": "..."}.

    One newline at the end of the input is not part of the value. At a terminal, the value is not shown while it is
    typed. Bots of another owner cannot use the sealed value.
    """
    if not owner:
        raise UserError("--owner must not be empty")
    write_json({"$sealed": seal(_value(), owner, key)})


def _value() -> str:
    if sys.stdin.isatty():
        value = str(click.prompt("Value", hide_input=True, err=True))
    else:
        read = sys.stdin.buffer.read(MOST_BYTES + 3)
        try:
            value = read.decode()
        except UnicodeDecodeError:
            raise UserError("the value must be UTF-8 text") from None
    value = value.removesuffix("\n").removesuffix("\r")
    if not value or len(value.encode()) > MOST_BYTES:
        raise UserError(f"the value must have 1 to {MOST_BYTES} bytes")
    return value
