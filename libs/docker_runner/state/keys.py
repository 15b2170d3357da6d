"""Keys of state in the state bucket, which the services share.

``{id}/state.tar.gz`` is a copy of the current version, for readers outside. The versions are in
``{id}/{service}/{epoch}-{number}-{unique}.tar.gz``; no two saves have the same key, so no save replaces another. The
id is written by the rule of the logs bucket.
"""

import re
import secrets

from libs.docker_runner.logs.keys import LOGS_PREFIX, log_folder

_VERSION = re.compile(r"(.+/)([a-z][a-z-]*)/\d{8,}-\d{8,}-[0-9a-f]{12}\.tar\.gz")
_COPY = "state.tar.gz"


def state_folder(entity_id: str) -> str:
    """Return the prefix of all state of this id, with the slash at its end."""
    return log_folder(entity_id).removeprefix(LOGS_PREFIX)


def copy_key(entity_id: str) -> str:
    """Return the key of the copy of the current version."""
    return f"{state_folder(entity_id)}{_COPY}"


def new_version_key(service: str, entity_id: str, epoch: int, number: int) -> str:
    """Return a key for a version that no other one has."""
    return f"{state_folder(entity_id)}{service}/{epoch:08}-{number:08}-{secrets.token_hex(6)}.tar.gz"


def folder_and_service(key: str) -> tuple[str, str] | None:
    """Return the folder of the id of the version at *key*, and its service; None for other objects."""
    found = _VERSION.fullmatch(key)
    return (found[1], found[2]) if found is not None else None


def folder_of_copy(key: str) -> str | None:
    """Return the folder of the id whose copy is at *key*; None for other objects."""
    return key.removesuffix(_COPY) if key.endswith(f"/{_COPY}") else None
