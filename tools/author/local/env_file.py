"""Read a file of environment variables: lines of `NAME=VALUE`, with comments, quotes, and an optional `export`.

A quoted value may have several lines.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from libs.core.secrets.providers import ENVIRONMENT_PREFIX
from tools.bots.errors import BotFolderInvalid

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_QUOTED = re.compile(r"""(?P<quote>["'])(?P<text>.*)(?P=quote)\s*(?:#.*)?""", re.DOTALL)
# The first quote in a line that no backslash escapes.
_ENDS = {'"': re.compile(r'(?<!\\)(?:\\\\)*"'), "'": re.compile("'")}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables in the file at *path*; of two with one name, the last.

    Raises:
        BotFolderInvalid: it cannot be read, or a line is no assignment; the message names the line, not its content.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BotFolderInvalid(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BotFolderInvalid(f"{path} is not UTF-8; save the file as UTF-8") from error
    found = {}
    lines = list(enumerate(text.splitlines(), 1))
    while lines:
        number, line = lines.pop(0)
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        more = _lines_of_value(stripped, [further for _, further in lines])
        stripped = "\n".join((stripped, *(further for _, further in lines[:more]))).strip()
        del lines[:more]
        matched = _LINE.fullmatch(stripped)
        if matched is None or "\0" in stripped:
            raise BotFolderInvalid(f"{path}:{number}: is not NAME=VALUE; correct the line")
        found[matched[1]] = _value(matched[2])
    return found


def divided(variables: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables for the bot, and the secrets (`THE0_SECRET_NAME`), which it gets by reference only."""
    secrets = {name: value for name, value in variables.items() if name.startswith(ENVIRONMENT_PREFIX)}
    return {name: value for name, value in variables.items() if name not in secrets}, secrets


def _lines_of_value(line: str, further: Sequence[str]) -> int:
    """Return how many of the *further* lines belong to the quoted value that begins in *line*, as that of a PEM key.

    0 when the value is not quoted, or the quote ends in *line* or nowhere.
    """
    matched = _LINE.fullmatch(line)
    if matched is None or matched[2][:1] not in _ENDS or _QUOTED.fullmatch(matched[2]):
        return 0
    end = _ENDS[matched[2][0]]
    for count, next_line in enumerate(further, 1):
        found = end.search(next_line)
        if found is not None:
            # Behind the quote only a comment may follow: else the quote belongs to another value.
            return count if not next_line[found.end() :].split("#", 1)[0].strip() else 0
    return 0


def _value(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        # A comment begins with a space before it, since keys contain the character.
        return re.split(r"\s#", text, maxsplit=1)[0].strip()
    if quoted["quote"] == "'":
        return quoted["text"]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), quoted["text"])
