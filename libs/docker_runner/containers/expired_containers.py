"""Kill the containers of this engine that outlive their keepalive, also those of other workers' segments.

The supervisor in a container ends it when its keepalive expires. A paused container, or one whose supervisor hangs,
does not end, while its segment may already run on another host. Any worker of the engine can read the keepalive files.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import Counter

from libs.core.errors import Retryable
from libs.core.leases.boot_clock import boot_seconds, this_boot
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated
from libs.docker_runner.containers.container import ContainerState, EndReason, ManagedContainer
from libs.docker_runner.containers.keepalive import FILE_NAME
from libs.docker_runner.runner import DockerRunner

log = get_logger(__name__)

KILLED = Counter("runtime_expired_containers_killed_total", "Containers killed because they outlived their keepalive.")

_CHECK_SECONDS = 1.0
_LIST_SECONDS = 10.0
# Normally the supervisor ends the container by itself within this time.
_SUPERVISOR_SECONDS = 1.0
_UNREADABLE_EXTRA_SECONDS = 5.0


class KeepaliveAges:
    """Determines which keepalives have expired, from their files over time. Pure; times are boot_seconds().

    Args:
        life_seconds: duration of a lease, which no keepalive exceeds.
        boot_id: of this host; times in a file of another kernel are not comparable.
    """

    def __init__(self, life_seconds: float, boot_id: str) -> None:
        self._unreadable_seconds = life_seconds + _UNREADABLE_EXTRA_SECONDS
        self._boot_id = boot_id
        self._seen: dict[str, tuple[str | None, float]] = {}

    def expired(self, texts: Mapping[str, str | None], now: float) -> dict[str, str | None]:
        """Return those of *texts* (folder to content, None if missing) that have expired, as of all calls so far."""
        known = {folder: self._seen.get(folder) for folder in texts}
        self._seen = {
            folder: seen if (seen := known[folder]) is not None and seen[0] == text else (text, now)
            for folder, text in texts.items()
        }
        return {folder: text for folder, text in texts.items() if self._is_expired(text, self._seen[folder][1], now)}

    def _is_expired(self, text: str | None, since: float, now: float) -> bool:
        deadline = self._deadline(text)
        if deadline is None:
            # It may be unreadable, or be rewritten by another kernel: only the lack of changes counts.
            return now - since > self._unreadable_seconds
        return now > max(deadline, since) + _SUPERVISOR_SECONDS

    def _deadline(self, text: str | None) -> float | None:
        try:
            boot_id, deadline, *_ = (text or "").split()
            return float(deadline) if boot_id == self._boot_id else None
        except ValueError:
            return None


class ExpiredContainers:
    """Kills expired containers of one service and deployment on one engine; several workers may do so at once.

    Args:
        keepalives: the folder of this service and deployment, with one folder for each segment. Containers that watch
            another one are left to their supervisors: this host may see other files there.
    """

    def __init__(
        self,
        runner: DockerRunner,
        *,
        service: str,
        scope: str,
        keepalives: Path,
        life_seconds: float,
        clock: Callable[[], float] = boot_seconds,
    ) -> None:
        self._runner = runner
        self._service = service
        self._scope = scope
        self._keepalives = keepalives
        self._clock = clock
        self._ages = KeepaliveAges(life_seconds, this_boot())
        self._watched: frozenset[str] = frozenset()
        self._finished: dict[str, str | None] = {}
        self._listed_at = float("-inf")

    async def kill_once(self) -> float:
        """Kill the containers whose keepalive has expired; return when to check again, in seconds.

        Raises:
            Retryable: the engine is unavailable.
        """
        now = self._clock()
        expired = self._ages.expired(await asyncio.to_thread(self._read), now)
        if expired.items() - self._finished.items() or now - self._listed_at >= _LIST_SECONDS:
            running = [c for c in await self._runner.list(self._service, self._scope) if self._is_watching(c)]
            self._listed_at = now
            self._watched = frozenset(c.keepalive for c in running)
            self._finished = {folder: text for folder, text in expired.items() if folder not in self._watched}
            await asyncio.gather(*(self._kill(c) for c in running if c.keepalive in expired))
        return _CHECK_SECONDS

    def _is_watching(self, container: ManagedContainer) -> bool:
        is_here = bool(container.keepalive) and Path(container.keepalive).parent == self._keepalives
        return is_here and container.state is ContainerState.RUNNING

    def _read(self) -> dict[str, str | None]:
        """Return the keepalives in the folder, and those of containers without one, by folder. Blocks."""
        folders = {str(folder) for folder in self._keepalives.iterdir()} if self._keepalives.is_dir() else set()
        return {folder: _content(folder) for folder in folders | self._watched}

    async def _kill(self, container: ManagedContainer) -> None:
        # A new owner may have adopted it meanwhile.
        if container.keepalive not in self._ages.expired(await asyncio.to_thread(self._read), self._clock()):
            return
        with isolated("kill expired container", passing=()):
            try:
                await self._runner.stop(container, 0.0, EndReason.LEASE_LOST)
            except Retryable as error:
                log.warning("expired container not killed; retrying", container=container.name, reason=str(error))
            else:
                KILLED.inc()
                log.warning("killed a container that outlived its keepalive", container=container.name, id=container.id)


def _content(folder: str) -> str | None:
    try:
        return (Path(folder) / FILE_NAME).read_text()
    except (OSError, UnicodeDecodeError):
        return None
