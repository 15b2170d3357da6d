"""Read a file of environment variables: lines of `NAME=VALUE`, with comments, quotes, and an optional `export`."""

import re
from pathlib import Path

from libs.core.secrets.providers import ENVIRONMENT_PREFIX
from tools.bots.errors import BotFolderInvalid

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_QUOTED = re.compile(r"""(?P<quote>["'])(?P<text>.*)(?P=quote)\s*(?:#.*)?""", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables in the file at *path*; of two with one name, the last.

    Raises:
        BotFolderInvalid: it cannot be read, or a line is no assignment; the message names the line, not its content.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BotFolderInvalid(f"{path} cannot be read: {error}") from error
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        matched = _LINE.fullmatch(stripped)
        if matched is None or "\0" in stripped:
            raise BotFolderInvalid(f"{path}:{number}: is not NAME=VALUE; correct the line")
        found[matched[1]] = _value(matched[2])
    return found


def divided(variables: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables for the bot, and the secrets (`THE0_SECRET_NAME`), which it gets by reference only."""
    secrets = {name: value for name, value in variables.items() if name.startswith(ENVIRONMENT_PREFIX)}
    return {name: value for name, value in variables.items() if name not in secrets}, secrets


def _value(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        # A comment begins with a space before it, since keys contain the character.
        return re.split(r"\s#", text, maxsplit=1)[0].strip()
    if quoted["quote"] == "'":
        return quoted["text"]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), quoted["text"])
