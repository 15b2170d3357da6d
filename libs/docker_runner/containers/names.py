"""Names derived from ids of users: only digests of ids reach the engine and the file system."""

import hashlib
import secrets
from pathlib import Path

WORD_BYTES = 6


def container_name(service: str, scope: str, entity_id: str) -> str:
    """Return the only name of a container of this entity, so that an engine never has two of them."""
    return container_name_prefix(service) + _digest(scope, entity_id)[:20]


def standby_name(name: str) -> str:
    """Return the name of the standby for the container *name*, until it takes that name."""
    return f"{name}-standby"


def container_name_prefix(service: str) -> str:
    """Return the prefix of the names of all containers of *service*."""
    return f"the0-{service}-"


def scope_folder(directory: Path, scope: str) -> Path:
    """Return the folder below *directory* of *scope*."""
    return directory / _digest(scope)[:16]


def run_folder(directory: Path, scope: str, name: str, token: str) -> Path:
    """Return the folder of one start of the container *name*."""
    return scope_folder(directory, scope) / name / token


def new_token() -> str:
    """Return a token that no other start has."""
    return secrets.token_hex(WORD_BYTES)


def _digest(*parts: str) -> str:
    # Each part with its length, since "a", "bc" and "ab", "c" are two entities; lone surrogates are legal in an id.
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(b"".join(b"%d:" % len(part) + part for part in encoded)).hexdigest()
