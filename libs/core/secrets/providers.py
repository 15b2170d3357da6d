"""Providers of secrets: files and environment variables. Another store, such as Vault, is another provider."""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from libs.core.secrets.errors import SecretUnavailable
from libs.core.secrets.sealing import ANY_OWNER, MOST_BYTES

ENVIRONMENT_PREFIX = "THE0_SECRET_"
"""The beginning of a secret's environment variable. No setting begins with it, so that none can be named."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
_NAME_BYTES = 255

Allowed = Mapping[str, frozenset[str]]
"""For each shared secret by name the owners that may use it; :data:`ANY_OWNER` for all."""


class SecretProvider(Protocol):
    """A source of secrets. It is called in a thread at each start, so that a changed value is used at the next one."""

    def value(self, owner: str, name: str) -> bytes | None:
        """Return the value of the secret *name* for bots of *owner*; None when there is none, or not for this owner.

        *owner* and *name* come from tenants: a provider must not give one owner what belongs to another one.

        Raises:
            SecretUnavailable: it cannot be read now.
        """


@dataclass(frozen=True)
class FileProvider:
    """Files in *folder*: `OWNER/NAME` for bots of that owner, and `NAME` for the owners that *allowed* lists for it."""

    folder: Path
    allowed: Allowed

    def value(self, owner: str, name: str) -> bytes | None:
        """See :class:`SecretProvider`."""
        if not self.folder.is_dir():
            raise SecretUnavailable(f"SECRETS_DIR {self.folder}", "it is not a folder here")
        if not _NAME.fullmatch(name):
            return None
        if _is_folder_name(owner) and (found := _read(self.folder / owner / name)) is not None:
            return found
        return _read(self.folder / name) if _may_use(self.allowed, owner, name) else None


@dataclass(frozen=True)
class EnvironmentProvider:
    """Environment variables `THE0_SECRET_NAME`, for the owners that *allowed* lists for the name."""

    environment: Mapping[str, str]
    allowed: Allowed

    def value(self, owner: str, name: str) -> bytes | None:
        """See :class:`SecretProvider`."""
        if not _NAME.fullmatch(name) or not _may_use(self.allowed, owner, name):
            return None
        found = self.environment.get(ENVIRONMENT_PREFIX + name)
        return os.fsencode(found) if found is not None else None


def secret_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of *environment* that are secrets of bots."""
    return {name: value for name, value in environment.items() if name.startswith(ENVIRONMENT_PREFIX)}


def _may_use(allowed: Allowed, owner: str, name: str) -> bool:
    owners = allowed.get(name, frozenset())
    # A bot without an owner is no tenant that an operator has named.
    return ANY_OWNER in owners or (owner != "" and owner in owners)


def _is_folder_name(owner: str) -> bool:
    """Whether *owner* is one path component; names with a leading dot are Kubernetes' own."""
    try:
        encoded = owner.encode()
    except UnicodeEncodeError:
        return False
    return 0 < len(encoded) <= _NAME_BYTES and not owner.startswith(".") and not {"/", "\0"} & set(owner)


def _read(path: Path) -> bytes | None:
    try:
        # Not blocking: a named pipe must not hold up a start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SecretUnavailable(f"secret file {path}", error.strerror or str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            # The limit, a final line end, and one byte more to notice a longer one.
            return file.read(MOST_BYTES + 3)
    except OSError as error:
        raise SecretUnavailable(f"secret file {path}", error.strerror or str(error)) from error
    finally:
        os.close(descriptor)
