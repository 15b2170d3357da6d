"""Look whether the init has put a new archive into the folder of a start, and why it packs nothing. Blocks briefly."""

from dataclasses import dataclass

from libs.docker_runner.containers.run_folders import open_regular
from libs.docker_runner.state.folder import StateFolder

_PROBLEM_BYTES = 64
_PROBLEMS = {
    "too-large": "it fills STATE_LIMIT_MB",
    "too-many-files": "it has too many files and folders",
    "too-deep": "it has too long a path, or folders that are nested too deeply",
    "unreadable": "the bot has closed a file or folder of it to itself",
    "disk": "the disk of the bot's host has no room for it, or its file is larger than its limit",
    "no-file": "links, sockets, pipes and devices in it are left out",
}


@dataclass(frozen=True)
class Seen:
    """What a look found of an archive: a new one has another."""

    inode: int
    modified_ns: int
    size: int


def look(folder: StateFolder) -> tuple[Seen | None, str]:
    """Return the archive that is there now, and a sentence about why the init packs nothing; "" when it does."""
    return _seen(folder), _noted(folder)


def _noted(folder: StateFolder) -> str:
    try:
        with open_regular(folder.problem) as file:
            word = file.read(_PROBLEM_BYTES).decode("ascii", "replace")
    except OSError:
        return ""
    return _PROBLEMS.get(word, "")


def _seen(folder: StateFolder) -> Seen | None:
    try:
        found = folder.saved.lstat()
    except OSError:
        return None
    return Seen(found.st_ino, found.st_mtime_ns, found.st_size)
