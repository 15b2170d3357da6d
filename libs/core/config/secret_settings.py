"""Settings of secrets: where their values come from, and whose they are."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from libs.core.config.settings_loader import Group, Named

_ALLOWED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*=[^=]+")


def _absolute_if_set(path: Path | None) -> Path | None:
    if path is not None and not path.is_absolute():
        raise ValueError("it is relative")
    return path


def _allowed(value: object) -> object:
    """Return the owners by name of *value*: ``NAME=OWNER, NAME=OTHER, FEED=*``."""
    if not isinstance(value, str):
        return value
    allowed: dict[str, frozenset[str]] = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        if not _ALLOWED.fullmatch(part):
            raise ValueError(f"{part!r} is not NAME=OWNER")
        name, _, owner = part.partition("=")
        allowed[name] = allowed.get(name, frozenset()) | {owner}
    return allowed


class SecretSettings(Group):
    """The secrets to which bots' configs may refer."""

    folder: Annotated[
        Path | None,
        Named("SECRETS_DIR", allowed="an absolute path"),
        Field(
            description="folder of secret files, read again at each start: OWNER/NAME for bots of that owner, NAME for "
            "the owners in SECRETS_ALLOW"
        ),
        AfterValidator(_absolute_if_set),
    ] = None
    allowed: Annotated[
        dict[str, frozenset[str]],
        Named(
            "SECRETS_ALLOW",
            allowed="NAME=OWNER with commas between, * for all owners (feed=*, desk=ann, desk=bob)",
            default_text="none",
        ),
        Field(
            description="owners that may use the shared secrets: files SECRETS_DIR/NAME and variables THE0_SECRET_NAME",
        ),
        BeforeValidator(_allowed),
    ] = {}  # noqa: RUF012 - a group is frozen, and pydantic copies it
    key_file: Annotated[
        Path | None,
        Named("SECRETS_KEY_FILE", allowed="an absolute path"),
        Field(
            description="file of private keys, of `runtime secrets keygen`, for sealed values in configs; one key in a "
            "line, all are tried, read again at each start"
        ),
        AfterValidator(_absolute_if_set),
    ] = None
    owner_field: Annotated[
        str,
        Named("OWNER_FIELD", allowed="a path of fields below custom or config, or a top-level field"),
        Field(
            pattern=r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*){0,7}$",
            description="field of a document that names its owner; the platform must set it, not users",
        ),
    ] = "custom.config.author"
