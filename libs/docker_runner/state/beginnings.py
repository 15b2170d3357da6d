"""What a run begins with: claim the state of its entity, and restore it before the start.

A state that an ended container has left on this host is used without the storage: if the storage has the same, or has
only an older one because the state could not be saved. A bot that cannot get its latest state does not start.
"""

from dataclasses import dataclass
from pathlib import Path

from libs.core.aio.threads import Threads
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import span
from libs.core.saved_state import SavedState, StateVersion
from libs.docker_runner.containers.run_folders import open_regular
from libs.docker_runner.errors import StateFenced, StateUnavailable
from libs.docker_runner.executable import Executable
from libs.docker_runner.state.archives import StateContent, StateLimits, StateRefused, copy, expand
from libs.docker_runner.state.folder import StateFolder
from libs.docker_runner.state.kept import KeptStates, Unsaved
from libs.docker_runner.state.versions import StateVersions

log = get_logger(__name__)


@dataclass(frozen=True)
class Beginning:
    """What a run begins with.

    Attributes:
        version: the current one in the storage; None: an empty state.
        unsaved: a later state, which is only on this host.
    """

    version: StateVersion | None
    unsaved: Unsaved | None = None


class StateBeginnings:
    """The states with which the runs of one worker begin.

    Args:
        limits: the largest state that is restored.
    """

    def __init__(self, versions: StateVersions, kept: KeptStates, threads: Threads, limits: StateLimits) -> None:
        self._versions = versions
        self._kept = kept
        self._threads = threads
        self._limits = limits

    async def claim(self, executable: Executable) -> Beginning | None:
        """Allow only the run of *executable* to save from now on; return what it begins with, None without a state.

        The state for a query is only read: the bot continues to save.

        Raises:
            StateFenced: a later owner of its segment has claimed it.
            Retryable: the state is unknown; the bot must not start.
        """
        if not executable.has_state:
            return None
        pointers = self._versions.pointers
        unsaved = await self._threads.run(self._kept.unsaved, executable.name)
        before = None
        if unsaved is not None or not executable.keeps_state:
            before = await pointers.read(executable.id)
        if unsaved is not None and (before is None or not unsaved.is_latest(before)):
            unsaved = None
        if not executable.keeps_state:
            return Beginning(before.latest, unsaved) if before is not None else None
        if unsaved is not None:
            await self._threads.run(self._kept.begin_with, unsaved, executable.run_id)
        claimed = await self.claimed(executable.id, executable.segment, executable.epoch, executable.run_id)
        if claimed is None:
            return None
        if unsaved is not None and unsaved.number != claimed.number:
            unsaved = None
        return Beginning(claimed.latest, unsaved)

    async def claimed(self, entity_id: str, segment: int, epoch: int, run_id: str) -> SavedState | None:
        """Allow only the run *run_id* to save from now on; None without a document, and then without a state.

        Raises:
            StateFenced: a later owner of its segment has claimed it.
            Retryable: it is unknown.
        """
        pointers = self._versions.pointers
        claimed = await pointers.claim(entity_id, segment=segment, epoch=epoch, run_id=run_id)
        if claimed is None and await pointers.read(entity_id) is not None:
            raise StateFenced(entity_id)
        return claimed

    async def restore(self, executable: Executable, begins: Beginning | None, folder: StateFolder) -> None:
        """Write the state with which *executable* begins into *folder*.

        Raises:
            StateUnavailable: it is not there; the bot must not start.
        """
        if begins is None or (begins.version is None and begins.unsaved is None):
            return
        number = begins.version.number if begins.version is not None else 0
        try:
            if await self._threads.run(self._restored_here, executable.name, begins, folder):
                return
            if begins.version is not None:
                await self._fetched(begins.version, folder)
        except (RuntimeFault, StateRefused, OSError) as error:
            await self._threads.run(folder.restored.unlink, missing_ok=True)
            raise StateUnavailable(executable.id, number, str(error)) from error

    def _restored_here(self, name: str, begins: Beginning, folder: StateFolder) -> bool:
        """Restore from this host; return whether it has the state. Blocks."""
        folder.restored.unlink(missing_ok=True)
        try:
            if begins.unsaved is not None:
                self._copied_from(self._kept.archive(begins.unsaved), folder.restored)
                log.warning("a bot begins with a state that is only on this host", id=begins.unsaved.entity_id)
                return True
            assert begins.version is not None
            content = self._copied_from(self._kept.saved(name), folder.restored)
            if content.sha256 == begins.version.sha256:
                return True
        except FileNotFoundError:
            if begins.unsaved is not None:
                # Saved or replaced meanwhile.
                raise
        except StateRefused as error:
            log.warning("a state on this host is refused; the last version follows", name=name, reason=error.reason)
        folder.restored.unlink(missing_ok=True)
        return False

    def _copied_from(self, archive: Path, target: Path) -> StateContent:
        with open_regular(archive) as source:
            content = copy(source, target, self._limits)
        target.chmod(0o644)
        return content

    async def _fetched(self, version: StateVersion, folder: StateFolder) -> None:
        packed = folder.path.parent / "restore.tar.gz"
        with span("restore state", attributes={"runtime.state_bytes": version.archive_bytes}):
            try:
                packed.unlink(missing_ok=True)
                await self._versions.fetch(version, packed)
                content = await self._threads.run(self._expanded, packed, folder.restored)
                if content.sha256 != version.sha256:
                    raise StateRefused("differs from what was saved")
            finally:
                await self._threads.run(packed.unlink, missing_ok=True)

    def _expanded(self, packed: Path, target: Path) -> StateContent:
        with packed.open("rb") as source:
            content = expand(source, target, self._limits)
        target.chmod(0o644)
        return content
