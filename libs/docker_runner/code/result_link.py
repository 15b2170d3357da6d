"""The ``result.json`` beside the read-only code of a bot, which SDKs write: a link to a file out of the folder."""

import os
import uuid
from pathlib import Path

from libs.docker_runner.sandbox.container_spec import WRITTEN

NAME = "result.json"
TARGET = f"{WRITTEN}/{NAME}"


def link_result(code: Path) -> None:
    """Make ``result.json`` in the folder *code* a link to the writable file of the container. May be repeated.

    A regular file of that name in the archive is replaced: it would be taken for the result of a run. A folder stays.

    Raises:
        OSError: the disk fails.
    """
    link = code / NAME
    if link.is_dir() or (link.is_symlink() and os.readlink(link) == TARGET):
        return
    # Not in place: another start may use the same folder.
    made = code / f".{NAME}.{uuid.uuid4().hex}"
    os.symlink(TARGET, made)
    try:
        made.replace(link)
    except OSError:
        made.unlink()
        raise
