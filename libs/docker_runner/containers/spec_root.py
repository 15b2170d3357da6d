"""Choose the folder of specs with secrets: in memory, closed to other users, and seen by the Docker engine.

A secret on a disk may outlive its file, in free blocks, snapshots and back-ups.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from libs.core.errors import UserError
from libs.core.observability.log import get_logger
from libs.docker_runner.containers.keepalive_root import Sight, is_in_memory, is_seen, make_own

log = get_logger(__name__)


class SpecDirUnusable(UserError):
    """SPEC_DIR names a folder that cannot hold specs."""

    def __init__(self, folder: Path, error: OSError) -> None:
        super().__init__(
            f"SPEC_DIR {folder}: it cannot be used ({error.strerror or error}); make it for user {os.geteuid()}"
        )
        self.folder = folder


def usual_spec_roots() -> Sequence[Path]:
    """The folders in memory that are tried without SPEC_DIR, the best first."""
    name = f"the0-runtime-specs-{os.geteuid()}"
    return [Path("/dev/shm") / name, Path("/run") / name]  # noqa: S108 - made with care, see make_own


async def spec_root(wanted: Path | None, temp_dir: Path, engine: Sight) -> Path:
    """Return the folder for specs with secrets: *wanted*, else the first usable one in memory, else below *temp_dir*.

    Raises:
        SpecDirUnusable: *wanted* cannot be made or closed to others.
    """
    if wanted is not None:
        try:
            await asyncio.to_thread(_close, wanted)
        except OSError as error:
            raise SpecDirUnusable(wanted, error) from error
        if not is_in_memory(wanted):
            log.warning("SPEC_DIR is on a disk, on which traces of secrets may stay", folder=str(wanted))
        return wanted
    for root in usual_spec_roots():
        if await asyncio.to_thread(make_own, root) and await is_seen(root, engine, unknown=False):
            return root
    root = temp_dir / "specs"
    log.info("specs with secrets are on TEMP_DIR's disk; SPEC_DIR names a folder in memory for them", folder=str(root))
    return root


def _close(root: Path) -> None:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
