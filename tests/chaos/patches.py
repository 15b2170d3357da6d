"""Defects that the observer must see: each changes a copy of the source, which the processes of the world then run.

One protection alone is hardly ever missed: a worker that starts a bot without a lease meets an init that refuses, an
init without a deadline meets the host agent, and a worker that trusts MongoDB's clock meets an assignment that does
not. So most patches also turn off what stands behind the protection that they remove.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.schedule import CLOCK

_ROOT = Path(__file__).parents[2]
_COPIED = ("libs", "services")
_INIT = "libs/docker_runner/sandbox/init"
_PROGRAMS = "the0_init_programs.py"


@dataclass(frozen=True)
class Edit:
    """A text in a file, which is there once, and what replaces it."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Patch:
    """A defect.

    Attributes:
        only: faults under which it shows.
        settings: of all processes; they turn off what else would hide it.
        is_masked: another protection always hides it: no second copy runs.
    """

    what: str
    edits: tuple[Edit, ...]
    only: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    is_masked: bool = False


_STOPPING = """            await self._stop_and_release(grace_seconds)
"""
# With the lease kept, the next renewal would find it lost and end the bots.
_RELEASING = """            await self._end_keeping()
            await release(self._leases, self._owned, self._timing)
            await self._rest(grace_seconds)
"""
_CEDING = " and not await self._cede(grace_seconds) and"
_UNSTEADY = """        if early_seconds > 0:
            raise TakeoverTooEarly(_name(segment_id), early_seconds)
"""
_NO_AGENT = {"HOST_AGENT": "false"}
# Host agents of other engines kill by mounts: also containers of this engine, if they share a kernel.
_UNSEEN = Edit("libs/docker_runner/sandbox/container_spec.py", 'BASE = "/run/the0"', 'BASE = "/run/the0-unseen"')
_FROZEN = "an engine's workers frozen"
_RESTARTED = "an engine's workers restarted"

PATCHES: Mapping[str, Patch] = {
    "expiry-ignored": Patch(
        "a lease is acquired although another worker's has not expired",
        (
            Edit(
                "libs/core/store/lease_updates.py",
                "        takeable = [_FREE, ",
                # True for segments: two leaders would take the leadership from each other.
                '        takeable = [{"$literal": same_host_takes_over}, _FREE, ',
            ),
        ),
        # Masters assign no segment under a live lease: the jump makes it look expired.
        (f"an engine's workers to everything else: cut + {CLOCK}",) * 2,
    ),
    "start-unproven": Patch(
        "containers are started without a proven lease",
        (Edit("services/bot_runner/bot_actions.py", "        if not self._owned.proven():\n", "        if False:\n"),),
        (_FROZEN,) * 4,
        # The init does not start a bot under an expired keepalive.
        is_masked=True,
    ),
    "init-without-deadline": Patch(
        "the init does not end a bot whose keepalive has expired",
        (
            Edit(
                f"{_INIT}/lease.c",
                "        if (first || proven > lease->deadline) lease->deadline = proven;\n",
                "        lease->deadline = proven + 3600 * SECOND;\n",
            ),
            _UNSEEN,
        ),
        (_FROZEN,),
        _NO_AGENT,
    ),
    "keepalive-kept": Patch(
        "the keepalive of a lost lease is not expired, and MongoDB's clock is trusted after a jump",
        (
            Edit(
                "libs/core/worker/segment_owner.py",
                "        if lapse.found_lost:\n            await self._expire_at_once(owned)\n",
                "",
            ),
            Edit("libs/core/store/leases.py", _UNSTEADY, ""),
            _UNSEEN,
        ),
        (f"engine frozen + {CLOCK}",) * 2,
        _NO_AGENT,
    ),
    "release-before-stop": Patch(
        "a segment is released before its containers have ended, and without last deadlines",
        (
            Edit("libs/core/worker/segment_release.py", _CEDING, " and"),
            Edit("libs/core/worker/segment_release.py", _STOPPING, _RELEASING),
        ),
        (_RESTARTED,) * 2,
    ),
}


def patched(patch: Patch, folder: Path) -> Sequence[Path]:
    """Write a copy of the source with the *patch* into *folder*; return the folders that go before this checkout's.

    Raises:
        ValueError: a text is not there exactly once; the patch does not fit this source any more.
    """
    for name in _COPIED:
        shutil.copytree(_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*_test.py"))
    for edit in patch.edits:
        path = folder / edit.path
        path.write_text(edited(edit, path.read_text()))
    if any(edit.path.startswith(_INIT) for edit in patch.edits):
        build = [sys.executable, str(folder / _INIT / "build.py"), str(folder / _INIT)]
        subprocess.run([*build, str(folder / _PROGRAMS)], check=True, env=dict(os.environ))
    return [folder]


def edited(edit: Edit, source: str) -> str:
    """Return *source* with the edit. Raises ValueError."""
    if source.count(edit.old) != 1:
        raise ValueError(f"{edit.path} has {source.count(edit.old)} times the text {edit.old!r}, and must have it once")
    return source.replace(edit.old, edit.new)
