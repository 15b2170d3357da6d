"""Keep the state of a worker's containers: restore it before a start, save it while they run and when they have ended.

The init of a container puts archives into a folder on the host (``sandbox/init/state.c``). A loop looks there for new
ones, so the next owner of a segment continues where the last one stopped. The loop needs neither the engine nor its
events. A container that has ended leaves its last archive on the host (:mod:`kept`), so that a restart here does not
wait for the storage.
"""

import asyncio
import os
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, NoReturn

from prometheus_client import Counter, Gauge

from libs.core.aio.backoff import Setbacks
from libs.core.aio.key_locks import KeyLocks
from libs.core.aio.threads import Threads
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import span
from libs.core.process.isolation import isolated, repeat
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.containers.names import container_name_prefix
from libs.docker_runner.containers.run_folders import RunFolders, open_regular
from libs.docker_runner.errors import StateUnsaved
from libs.docker_runner.state.archives import StateContent, StateLimits, StateRefused, compress
from libs.docker_runner.state.beginnings import StateBeginnings
from libs.docker_runner.state.changes import Seen, look
from libs.docker_runner.state.folder import StateFolder, StateOf
from libs.docker_runner.state.kept import KeptStates, Unsaved
from libs.docker_runner.state.versions import StateVersions

log = get_logger(__name__)

LOOK_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 10.0
_PARALLEL = 4
_CLEAN_SECONDS = 60.0
# A restart does not wait longer for the storage.
_KEEP_SECONDS = 5.0

SAVES = Counter(
    "runtime_state_saves_total", "Saves of the state of bots and schedules, by how they ended.", ["outcome"]
)
SAVED_BYTES = Counter("runtime_state_saved_bytes_total", "Bytes of compressed state that were saved.")
UNSAVED_SECONDS = Gauge(
    "runtime_state_unsaved_seconds",
    "Time since the first failed attempt to save the state that has waited longest; 0 when all is saved.",
)
for _outcome in ("saved", "unchanged", "superseded", "refused", "failed"):
    SAVES.labels(_outcome)  # exported as 0, so that the first one shows as an increase


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
        self._kept = kept = KeptStates(Path())
        self.beginnings = StateBeginnings(versions, kept, self._threads, limits)
        self._parallel = asyncio.Semaphore(_PARALLEL)
        self._epochs: dict[int, int] = {}
        self._done: dict[str, Seen] = {}
        self._problems: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._superseded: set[str] = set()
        # The key of the version of which this process has made the copy for readers outside.
        self._copied: dict[str, str] = {}
        # How the save of the archive in `_done` ended.
        self._outcomes: dict[str, str] = {}
        # Unix seconds of the first failure.
        self._failing: dict[str, float] = {}
        self._by_token: tuple[MutableMapping[str, Any], ...] = (
            *(self._done, self._problems, self._refused, self._copied),
            *(self._outcomes, self._failing),
        )
        self._next_clean = 0.0
        self._saving = KeyLocks()
        # A large state takes a second to compress, also while the storage is away.
        self._setbacks = Setbacks(LOOK_SECONDS, _LONGEST_RETRY_SECONDS, clock=clock)

    def open(self, folders: RunFolders) -> None:
        """Use these *folders*. Call it first."""
        self._folders = folders
        self._kept = kept = folders.kept_states(self._scope)
        self.beginnings = StateBeginnings(self._versions, kept, self._threads, self._limits)

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

    async def claim_again(self, container: ManagedContainer) -> None:
        """Allow the run of *container* to save again, after another start of the same bot has claimed the state."""
        epoch = max(container.epoch, self._epochs.get(container.segment, 0))
        await self.beginnings.claimed(container.id, container.segment, epoch, container.run_id)

    # --- while it runs

    async def run(self) -> NoReturn:
        """Save what changes in the containers of owned segments, until cancelled."""
        await repeat("save state", self.save_changed, LOOK_SECONDS)

    async def save_changed(self) -> None:
        """Save what changed since the last look. A failure of one does not affect the others."""
        changed, unsaved = await self._threads.run(self._changed)
        await asyncio.gather(
            *(self._save_one(folder, of) for folder, of in changed if self._owns(of.segment)),
            # Of any segment: only what no later run has claimed is saved.
            *(self._save_kept(one) for one in unsaved),
        )
        since = [*self._failing.values(), *(one.since for one in unsaved)]
        UNSAVED_SECONDS.set(max(0.0, time.time() - min(since)) if since else 0.0)

    def _changed(self) -> tuple[list[tuple[StateFolder, StateOf]], list[Unsaved]]:
        """Return what changed of this service and is unsaved, also of other workers of the host. Blocks."""
        assert self._folders is not None
        found = self._folders.states(self._scope)
        unsaved = self._kept.all_unsaved(container_name_prefix(self._service))
        live = {folder.token for folder in found} | {_kept_key(one) for one in unsaved}
        for known in self._by_token:
            for token in known.keys() - live:
                known.pop(token, None)
        self._setbacks.forget_all_but(live)
        changed = []
        for folder in found:
            if not self._setbacks.left_seconds(folder.token) and look(folder) != (
                self._done.get(folder.token),
                self._problems.get(folder.token, ""),
            ):
                with isolated("save state"):
                    of = folder.about()
                    if of is not None and of.service == self._service:
                        changed.append((folder, of))
        if time.monotonic() >= self._next_clean:
            self._next_clean = time.monotonic() + _CLEAN_SECONDS
            with isolated("remove kept states"):
                self._kept.clean()
        return changed, unsaved

    async def _save_one(self, folder: StateFolder, of: StateOf) -> None:
        with isolated("save state"):
            epoch = self._epochs.get(of.segment)
            if epoch is None:
                return
            try:
                await self._save(folder, of.entity_id, of.run_id, epoch)
            except StateUnsaved as error:
                self._failing.setdefault(folder.token, time.time())
                self._not_saved(folder.token, of.entity_id, error)

    def _not_saved(self, key: str, entity_id: str, error: StateUnsaved) -> None:
        wait = self._setbacks.failed(key)
        log.warning(
            "state not saved; it is tried again",
            id=entity_id,
            reason=str(error),
            retry_in_seconds=round(wait, 2),
        )

    # --- afterwards

    async def save(self, container: ManagedContainer) -> None:
        """Save the last state of *container*, which has ended. Quick when it is saved already. May be repeated.

        Raises:
            StateUnsaved: not now.
        """
        if not await self._save_last(container):
            unsaved = await self._threads.run(self._kept.unsaved, container.name)
            if unsaved is not None:
                await self._flush(unsaved)

    async def keep(self, container: ManagedContainer) -> None:
        """Save the last state of *container*, which has ended, or keep it on this host, for its next start here.

        May be repeated.

        Raises:
            StateUnsaved: neither is possible now; keep the container.
        """
        assert self._folders is not None
        folder = self._folders.state(container)
        unsaved = None
        try:
            outcome = await self._save_in_time(container)
        except StateUnsaved as error:
            unsaved, outcome = await self._as_unsaved(container, error), "failed"
            log.warning("last state not saved; it is kept on this host", id=container.id, reason=str(error))
        try:
            await self._threads.run(self._keep, container.name, folder, outcome, unsaved)
        except OSError as error:
            if unsaved is not None:
                raise StateUnsaved(container.id, str(error)) from error
            log.info("a state is not kept on this host", id=container.id, reason=str(error))

    def _keep(self, name: str, folder: StateFolder, outcome: str, unsaved: Unsaved | None) -> None:
        if unsaved is not None:
            self._kept.keep_unsaved(unsaved, folder.saved)
        elif outcome in ("saved", "unchanged"):
            self._kept.keep_saved(name, folder.saved)
            if (earlier := self._kept.unsaved(name)) is not None:
                self._kept.drop(earlier)
        elif outcome == "" and folder.restored.exists() and self._kept.unsaved(name) is None:
            # It ran with what it began with.
            self._kept.keep_saved(name, folder.restored)

    async def _save_in_time(self, container: ManagedContainer) -> str:
        try:
            async with asyncio.timeout(_KEEP_SECONDS):
                return await self._save_last(container)
        except TimeoutError as error:
            raise StateUnsaved(container.id, f"the storage has not answered within {_KEEP_SECONDS:g} s") from error

    async def _as_unsaved(self, container: ManagedContainer, error: StateUnsaved) -> Unsaved | None:
        """Return the description of a state that could not be saved; None if it may not be saved at all."""
        try:
            state = await self._versions.pointers.read(container.id)
        except RuntimeFault:
            raise error from None
        epoch = max(container.epoch, self._epochs.get(container.segment, 0))
        if state is None or not state.may_save(container.run_id, epoch):
            return None
        since = self._failing.get(container.token, time.time())
        runs = (container.run_id,)
        return Unsaved(
            container.name, container.token, container.id, container.segment, epoch, runs, state.number, since
        )

    async def _save_last(self, container: ManagedContainer) -> str:
        assert self._folders is not None
        folder = self._folders.state(container)
        epoch = max(container.epoch, self._epochs.get(container.segment, 0))
        return await self._save(folder, container.id, container.run_id, epoch)

    # --- what could not be saved when its container ended

    async def _save_kept(self, unsaved: Unsaved) -> None:
        key = _kept_key(unsaved)
        if self._setbacks.left_seconds(key):
            return
        with isolated("save state"):
            try:
                await self._flush(unsaved)
                self._setbacks.worked(key)
            except StateUnsaved as error:
                self._not_saved(key, unsaved.entity_id, error)

    async def _flush(self, unsaved: Unsaved) -> None:
        """Save *unsaved* unless there is a later state, and drop it then. May be repeated.

        Raises:
            StateUnsaved: not now.
        """
        epoch = max(unsaved.epoch, self._epochs.get(unsaved.segment, 0))
        packed = self._kept.archive(unsaved).with_suffix(f".{os.urandom(4).hex()}.gz")
        try:
            content = await self._threads.run(self._compressed, self._kept.archive(unsaved), packed)
            saved = await self._versions.save(
                unsaved.entity_id,
                packed,
                content,
                run_id=unsaved.run_ids[-1],
                epoch=epoch,
                origin="run",
                may_save=lambda state: unsaved.is_latest(state) and state.epoch <= epoch,
            )
            if saved is not None:
                SAVES.labels("saved" if saved.is_new else "unchanged").inc()
                await self._versions.renew_copy(unsaved.entity_id, saved.version, packed)
                await self._threads.run(self._kept.keep_saved, unsaved.name, self._kept.archive(unsaved))
            elif await self._is_still_latest(unsaved):
                return
        except FileNotFoundError:
            # Another worker of this host has dropped it.
            return
        except StateRefused as error:
            log.warning("a state on this host is refused", id=unsaved.entity_id, reason=error.reason)
            SAVES.labels("refused").inc()
        except (RuntimeFault, OSError) as error:
            SAVES.labels("failed").inc()
            raise StateUnsaved(unsaved.entity_id, str(error)) from error
        finally:
            for left in packed.parent.glob(f"{packed.name}*"):
                left.unlink(missing_ok=True)
        await self._threads.run(self._kept.drop, unsaved)

    async def _is_still_latest(self, unsaved: Unsaved) -> bool:
        """Whether a run that began with it meanwhile is the one that has claimed the state."""
        current = await self._threads.run(self._kept.unsaved, unsaved.name)
        state = await self._versions.pointers.read(unsaved.entity_id)
        return current is not None and state is not None and current.is_latest(state)

    def forget(self, container: ManagedContainer) -> None:
        """Drop what is known of a removed container."""
        for known in self._by_token:
            known.pop(container.token, None)
        self._setbacks.worked(container.token)

    async def _save(self, folder: StateFolder, entity_id: str, run_id: str, epoch: int) -> str:
        """Return how the save of the latest archive ended, in a word; "" without an archive."""
        async with self._saving.of(folder.token):
            seen, problem = await self._threads.run(look, folder)
            self._note_problem(folder, entity_id, problem)
            # The end of a bot without a new state waits for no storage.
            if seen is None:
                return ""
            if self._done.get(folder.token) == seen:
                return self._outcomes.get(folder.token, "")
            async with self._parallel:
                with span("save state"):
                    outcome = await self._saved(folder, entity_id, run_id, epoch)
            SAVES.labels(outcome).inc()
            self._done[folder.token], self._outcomes[folder.token] = seen, outcome
            self._failing.pop(folder.token, None)
            self._setbacks.worked(folder.token)
            return outcome

    async def _saved(self, folder: StateFolder, entity_id: str, run_id: str, epoch: int) -> str:
        """Return how the save ended, in a word."""
        packed = folder.path.parent / f"save-{os.urandom(4).hex()}.tar.gz"
        try:
            content = await self._threads.run(self._compressed, folder.saved, packed)
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

    def _compressed(self, archive: Path, target: Path) -> StateContent:
        with open_regular(archive) as source:
            return compress(source, target, self._limits)

    def _note_problem(self, folder: StateFolder, entity_id: str, problem: str) -> None:
        """Log why the init packs nothing, and keep it for the status."""
        if problem == self._problems.get(folder.token, ""):
            return
        if problem:
            log.warning("state not saved, or not all of it; the last version is kept", id=entity_id, reason=problem)
        self._problems[folder.token] = problem


def _kept_key(unsaved: Unsaved) -> str:
    """Return a key for its retries, which no start has."""
    return f"kept {unsaved.token}"
