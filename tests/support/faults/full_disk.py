"""Disks in memory that a test fills, without writing: their size becomes what is in use."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SIZE = "size=50%"


class DiskBusy(Exception):
    """The disk cannot be filled now: it grows all the time."""


@contextmanager
def disk(folder: Path, size: str = _SIZE) -> Iterator[Path]:
    """Mount a disk on the new *folder*; engines that are started later see it. Needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_disk(folder: Path, *, inside: Sequence[str] = (), seen_at: Path | None = None) -> None:
    """Leave no free byte on the disk *folder*. May be repeated.

    Args:
        inside: a command that enters the mount namespace of the disk.
        seen_at: its path outside of that namespace.

    Raises:
        DiskBusy: try again.
    """
    for _ in range(5):
        found = os.statvfs(seen_at or folder)
        # A size of zero would be no limit.
        used = max(1, found.f_blocks - found.f_bfree) * found.f_frsize
        # Refused if something was written meanwhile.
        command = [*inside, "mount", "-o", f"remount,size={used}", str(folder)]
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return
    raise DiskBusy(folder)


def free_disk(folder: Path, *, inside: Sequence[str] = ()) -> None:
    """Undo fill_disk(). May be repeated."""
    subprocess.run([*inside, "mount", "-o", f"remount,{_SIZE}", str(folder)], check=True)
