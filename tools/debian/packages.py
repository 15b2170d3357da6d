"""Debian's packages: installed on the machine, or only unpacked into a separate folder."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.debian.command import CommandFailedError, run_command
from tools.debian.locks import file_lock

Report = Callable[[str], None]

UNPACKED = Path("/var/cache/the0-runtime/debian")
"""The folder of unpacked packages, for every user of the machine."""

_LOCK = Path("/run/lock/the0-apt.lock")
_SECONDS = 900


class PackageMissingError(RuntimeError):
    """A program is missing and this user may not install it; the message has the remedy."""


def to_stderr(text: str) -> None:
    """Report a step as a line on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


async def ensure_program(program: str, package: str, report: Report = to_stderr) -> Path:
    """Return the path of *program*, after installing Debian's *package* if it is missing.

    Raises:
        PackageMissingError: it is missing, and this is not root on a Debian machine.
        CommandFailedError: apt-get failed; the message has the end of its output.
    """
    if (found := shutil.which(program)) is None:
        _must_be_able_to_install(program, package)
        await apt_install([package], report)
        if (found := shutil.which(program)) is None:
            raise CommandFailedError(f"the package {package} is installed, but there is no `{program}`")
    return Path(found)


async def ensure_unpacked(program: str, package: str, report: Report = to_stderr) -> Path:
    """Return the path of *program*: the machine's own, else from Debian's *package*, unpacked without installing it.

    For packages that would start a server when they are installed, and that need no other package.

    Raises:
        PackageMissingError: it is missing, and this is not root on a Debian machine.
        CommandFailedError: apt-get or dpkg-deb failed; the message has the end of its output.
    """
    if (found := shutil.which(program)) is not None:
        return Path(found)
    folder = UNPACKED / package
    unpacked = folder / "usr" / "bin" / program
    if not unpacked.exists():
        _must_be_able_to_install(program, package)
        async with file_lock(_LOCK):
            if not unpacked.exists():  # not unpacked by another process during the wait
                await _unpack(package, folder, report)
    if not unpacked.exists():
        raise CommandFailedError(f"Debian's package {package} contains no /usr/bin/{program}")
    return unpacked


async def apt_install(packages: Sequence[str], report: Report) -> None:
    """Install Debian packages without the recommended ones, one caller at a time.

    Raises:
        CommandFailedError: apt-get failed; the message has the end of its output.
    """
    async with file_lock(_LOCK):
        report(f"installing {', '.join(packages)} with apt-get (once)")
        await _apt_get("update", "-q")
        await _apt_get("install", "-q", "-y", "--no-install-recommends", *packages)


async def _unpack(package: str, folder: Path, report: Report) -> None:
    report(f"fetching Debian's {package} (once)")
    await _apt_get("update", "-q")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside its destination, so that it appears there whole or not at all.
    with tempfile.TemporaryDirectory(prefix=f".{package}-", dir=folder.parent) as temporary:
        # apt-get writes to its working directory and has no option to change that.
        script = 'cd "$1" && apt-get download -q "$2" && dpkg-deb -x ./*.deb root'
        await run_command(["sh", "-c", script, "sh", temporary, package], within_seconds=_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)
        (Path(temporary) / "root").rename(folder)


async def _apt_get(*arguments: str) -> None:
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    await run_command(["apt-get", *arguments], within_seconds=_SECONDS, environment=environment)


def _must_be_able_to_install(program: str, package: str) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PackageMissingError(
            f"`{program}` is not on this machine: install it (Debian and Ubuntu: `sudo apt-get install {package}`)"
        )
