"""Keep the state of a worker's containers: restore it before a start, save it while they run and when they have ended.

The init of a container puts archives into a folder on the host (``sandbox/init/state.c``). A loop looks there for new
ones, so the next owner of a segment continues where the last one stopped. The loop needs neither the engine nor its
events.
"""

import asyncio
import os
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from prometheus_client import Counter

from libs.core.aio.backoff import Setbacks
from libs.core.aio.key_locks import KeyLocks
from libs.core.aio.threads import Threads
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import span
from libs.core.process.isolation import isolated, repeat
from libs.core.saved_state import SavedState, StateVersion
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.containers.run_folders import RunFolders, open_regular
from libs.docker_runner.errors import StateFenced, StateUnavailable, StateUnsaved
from libs.docker_runner.executable import Executable
from libs.docker_runner.state.archives import StateContent, StateLimits, StateRefused, compress, expand
from libs.docker_runner.state.folder import StateFolder, StateOf
from libs.docker_runner.state.versions import StateVersions

log = get_logger(__name__)

LOOK_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 10.0
_PARALLEL = 4
_PROBLEM_BYTES = 64

SAVES = Counter(
    "runtime_state_saves_total", "Saves of the state of bots and schedules, by how they ended.", ["outcome"]
)
SAVED_BYTES = Counter("runtime_state_saved_bytes_total", "Bytes of compressed state that were saved.")
for _outcome in ("saved", "unchanged", "superseded", "refused", "failed"):
    SAVES.labels(_outcome)  # exported as 0, so that the first one shows as an increase

_PROBLEMS = {
    "too-large": "it fills STATE_LIMIT_MB",
    "too-many-files": "it has too many files and folders",
    "too-deep": "it has too long a path, or folders that are nested too deeply",
    "unreadable": "the bot has closed a file or folder of it to itself",
    "disk": "the disk of the bot's host has no room for it, or its file is larger than its limit",
    "no-file": "links, sockets, pipes and devices in it are left out",
}


@dataclass(frozen=True)
class _Seen:
    """What a look found of an archive: a new one has another."""

    inode: int
    modified_ns: int
    size: int


class StateKeeper:
    """The state of the containers that one worker of one service has on its host.

    Args:
        limits: the largest state that is saved and restored.
        owns: whether this worker owns a segment now, by a lease that it can prove.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        versions: StateVersions,
        *,
        service: str,
        scope: str,
        limits: StateLimits,
        owns: Callable[[int], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._versions = versions
        self._service = service
        self._scope = scope
        self._limits = limits
        self._owns = owns
        # Of its own, since a large state takes a second to compress.
        self._threads = Threads("state", 2)
        self._folders: RunFolders | None = None
        self._parallel = asyncio.Semaphore(_PARALLEL)
        self._epochs: dict[int, int] = {}
        self._done: dict[str, _Seen] = {}
        self._problems: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._superseded: set[str] = set()
        # The key of the version of which this process has made the copy for readers outside.
        self._copied: dict[str, str] = {}
        self._by_token: tuple[MutableMapping[str, Any], ...] = (self._done, self._problems, self._refused, self._copied)
        self._saving = KeyLocks()
        # A large state takes a second to compress, also while the storage is away.
        self._setbacks = Setbacks(LOOK_SECONDS, _LONGEST_RETRY_SECONDS, clock=clock)

    def open(self, folders: RunFolders) -> None:
        """Use these *folders*. Call it first."""
        self._folders = folders

    async def close(self) -> None:
        """Accept no more work. May be repeated."""
        self._threads.close()

    def begin(self, segment: int, epoch: int) -> None:
        """Save the state of the containers of *segment* as its owner of *epoch*."""
        self._epochs[segment] = epoch
        # Its epoch is later, so it may save what was refused before.
        for token in self._superseded:
            self._done.pop(token, None)
        self._superseded.clear()

    def problem(self, container: ManagedContainer) -> str:
        """Return a sentence about why its latest state is not saved, or not all of it; "" when it is."""
        problem = self._problems.get(container.token) or self._refused.get(container.token)
        return f"its state is not saved, or not all of it: {problem}" if problem else ""

    # --- before a start

    async def claim(self, executable: Executable) -> SavedState | None:
        """Allow only the run of *executable* to save from now on; return its state at the start, None without one.

        The state for a query is only read: the bot continues to save.

        Raises:
            StateFenced: a later owner of its segment has claimed it.
            Retryable: the state is unknown; the bot must not start.
        """
        if not executable.has_state:
            return None
        if not executable.keeps_state:
            return await self._versions.pointers.read(executable.id)
        return await self._claimed(executable.id, executable.segment, executable.epoch, executable.run_id)

    async def claim_again(self, container: ManagedContainer) -> None:
        """Allow the run of *container* to save again, after another start of the same bot has claimed the state."""
        epoch = max(container.epoch, self._epochs.get(container.segment, 0))
        await self._claimed(container.id, container.segment, epoch, container.run_id)

    async def _claimed(self, entity_id: str, segment: int, epoch: int, run_id: str) -> SavedState | None:
        pointers = self._versions.pointers
        claimed = await pointers.claim(entity_id, segment=segment, epoch=epoch, run_id=run_id)
        if claimed is None and await pointers.read(entity_id) is not None:
            raise StateFenced(entity_id)
        # Without a document there is no state.
        return claimed

    async def restore(self, entity_id: str, version: StateVersion | None, folder: StateFolder) -> None:
        """Write *version*, the state at the start of a container, into *folder*.

        Raises:
            StateUnavailable: it is not there; the bot must not start.
        """
        if version is None:
            return
        packed = folder.path.parent / "restore.tar.gz"
        with span("restore state", attributes={"runtime.state_bytes": version.archive_bytes}):
            try:
                packed.unlink(missing_ok=True)
                folder.restored.unlink(missing_ok=True)
                await self._versions.fetch(version, packed)
                content = await self._threads.run(self._expanded, packed, folder.restored)
                if content.sha256 != version.sha256:
                    raise StateRefused("differs from what was saved")
            except (RuntimeFault, StateRefused, OSError) as error:
                await self._threads.run(folder.restored.unlink, missing_ok=True)
                raise StateUnavailable(entity_id, version.number, str(error)) from error
            finally:
                await self._threads.run(packed.unlink, missing_ok=True)

    def _expanded(self, packed: Path, target: Path) -> StateContent:
        with packed.open("rb") as source:
            content = expand(source, target, self._limits)
        target.chmod(0o644)
        return content

    # --- while it runs

    async def run(self) -> NoReturn:
        """Save what changes in the containers of owned segments, until cancelled."""
        await repeat("save state", self.save_changed, LOOK_SECONDS)

    async def save_changed(self) -> None:
        """Save what changed since the last look. A failure of one does not affect the others."""
        changed = await self._threads.run(self._changed)
        await asyncio.gather(*(self._save_one(folder, of) for folder, of in changed if self._owns(of.segment)))

    def _changed(self) -> list[tuple[StateFolder, StateOf]]:
        """Return what changed of this service, also of other workers of the host. Blocks."""
        assert self._folders is not None
        found = self._folders.states(self._scope)
        live = {folder.token for folder in found}
        for known in self._by_token:
            for token in known.keys() - live:
                known.pop(token, None)
        self._setbacks.forget_all_but(live)
        changed = []
        for folder in found:
            if not self._setbacks.left_seconds(folder.token) and _look(folder) != (
                self._done.get(folder.token),
                self._problems.get(folder.token, ""),
            ):
                with isolated("save state"):
                    of = folder.about()
                    if of is not None and of.service == self._service:
                        changed.append((folder, of))
        return changed

    async def _save_one(self, folder: StateFolder, of: StateOf) -> None:
        with isolated("save state"):
            epoch = self._epochs.get(of.segment)
            if epoch is None:
                return
            try:
                await self._save(folder, of.entity_id, of.run_id, epoch)
            except StateUnsaved as error:
                wait = self._setbacks.failed(folder.token)
                log.warning(
                    "state not saved; it is tried again",
                    id=of.entity_id,
                    reason=str(error),
                    retry_in_seconds=round(wait, 2),
                )

    # --- afterwards

    async def save(self, container: ManagedContainer) -> None:
        """Save the last state of *container*, which has ended. Quick when it is saved already. May be repeated.

        Raises:
            StateUnsaved: not now; keep the container.
        """
        assert self._folders is not None
        folder = self._folders.state(container)
        epoch = max(container.epoch, self._epochs.get(container.segment, 0))
        await self._save(folder, container.id, container.run_id, epoch)

    def forget(self, container: ManagedContainer) -> None:
        """Drop what is known of a removed container."""
        for known in self._by_token:
            known.pop(container.token, None)
        self._setbacks.worked(container.token)

    async def _save(self, folder: StateFolder, entity_id: str, run_id: str, epoch: int) -> None:
        async with self._saving.of(folder.token):
            seen, problem = await self._threads.run(_look, folder)
            self._note_problem(folder, entity_id, problem)
            if seen is None or self._done.get(folder.token) == seen:
                # The end of a bot without a new state waits for no storage.
                return
            async with self._parallel:
                with span("save state"):
                    outcome = await self._saved(folder, entity_id, run_id, epoch)
            SAVES.labels(outcome).inc()
            self._done[folder.token] = seen
            self._setbacks.worked(folder.token)

    async def _saved(self, folder: StateFolder, entity_id: str, run_id: str, epoch: int) -> str:
        """Return how the save ended, in a word."""
        packed = folder.path.parent / f"save-{os.urandom(4).hex()}.tar.gz"
        try:
            content = await self._threads.run(self._compressed, folder, packed)
            saved = await self._versions.save(
                entity_id,
                packed,
                content,
                run_id=run_id,
                epoch=epoch,
                origin="run",
                may_save=lambda state: state.may_save(run_id, epoch),
            )
            if saved is None:
                log.info("state not saved: another run continues it, or it was removed", id=entity_id, run=run_id)
                self._superseded.add(folder.token)
                return "superseded"
            # Also of an earlier version: the save that made it may have failed, or its process died, before the copy.
            if self._copied.get(folder.token) != saved.version.key:
                await self._versions.renew_copy(entity_id, saved.version, packed)
                self._copied[folder.token] = saved.version.key
            if saved.is_new:
                SAVED_BYTES.inc(saved.version.archive_bytes)
        except StateRefused as error:
            log.warning("state of a container is refused; the last version is kept", id=entity_id, reason=error.reason)
            self._refused[folder.token] = f"its archive {error.reason}"
            return "refused"
        except (RuntimeFault, OSError) as error:
            SAVES.labels("failed").inc()
            raise StateUnsaved(entity_id, str(error)) from error
        else:
            self._refused.pop(folder.token, None)
            return "saved" if saved.is_new else "unchanged"
        finally:
            for left in folder.path.parent.glob(f"{packed.name}*"):
                left.unlink(missing_ok=True)

    def _compressed(self, folder: StateFolder, target: Path) -> StateContent:
        with open_regular(folder.saved) as source:
            return compress(source, target, self._limits)

    def _note_problem(self, folder: StateFolder, entity_id: str, problem: str) -> None:
        """Log why the init packs nothing, and keep it for the status."""
        if problem == self._problems.get(folder.token, ""):
            return
        if problem:
            log.warning("state not saved, or not all of it; the last version is kept", id=entity_id, reason=problem)
        self._problems[folder.token] = problem


def _look(folder: StateFolder) -> tuple[_Seen | None, str]:
    """Return the archive that is there now, and why the init packs nothing. Blocks briefly."""
    return _seen(folder), _noted(folder)


def _noted(folder: StateFolder) -> str:
    try:
        with open_regular(folder.problem) as file:
            word = file.read(_PROBLEM_BYTES).decode("ascii", "replace")
    except OSError:
        return ""
    return _PROBLEMS.get(word, "")


def _seen(folder: StateFolder) -> _Seen | None:
    try:
        found = folder.saved.lstat()
    except OSError:
        return None
    return _Seen(found.st_ino, found.st_mtime_ns, found.st_size)
