"""Data sets of a run in the foreground: files and folders of this machine, mounted as in production."""

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from libs.core.errors import UserError
from libs.core.storage.data_sets import NAME_RULE, is_data_name


class LocalDataInvalid(UserError):
    """A data set of the run cannot be mounted; the message has the remedy."""


def local_data(texts: Sequence[str]) -> dict[str, Path]:
    """Return the paths of `NAME=PATH` texts.

    Raises:
        LocalDataInvalid: one is malformed, or its path cannot be mounted.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, written = text.partition("=")
        if not equals or not written or not is_data_name(name):
            raise LocalDataInvalid(f"--data {text!r} is not NAME=PATH; a name has {NAME_RULE}")
        if name in found:
            raise LocalDataInvalid(f"--data names {name!r} twice; give it once")
        found[name] = _mountable(name, Path(written))
    return found


@dataclass(frozen=True)
class LocalData:
    """A source of data sets that are *paths* of this machine."""

    paths: Mapping[str, Path]

    async def fetch(self, names: Sequence[str], holder: str | None = None) -> Mapping[str, Path]:
        """Return the paths of these data sets.

        Raises:
            LocalDataInvalid: one has no path.
        """
        for name in names:
            if name not in self.paths:
                raise LocalDataInvalid(f"missing data set {name!r}: give its file or folder with --data {name}=PATH")
        return {name: self.paths[name] for name in names}

    async def release(self, holder: str) -> None:
        """Keep all of them."""

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Keep all of them."""
        return 0


def _mountable(name: str, path: Path) -> Path:
    try:
        real = path.resolve(strict=True)
        mode = os.stat(real).st_mode
    except OSError as error:
        raise LocalDataInvalid(f"--data {name}={path} cannot be read: {error.strerror or error}") from error
    is_folder = stat.S_ISDIR(mode)
    if not is_folder and not stat.S_ISREG(mode):
        raise LocalDataInvalid(f"--data {name}={path} is neither a file nor a folder")
    needed = 0o005 if is_folder else 0o004
    if mode & needed != needed:
        raise LocalDataInvalid(
            f"--data {name}={path} is closed to the user of the bot; open it with `chmod o+r{'x' if is_folder else ''}`"
        )
    return real
