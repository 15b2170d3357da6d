"""Read the operator's cordons on the leading master, and write back the result."""

from collections.abc import Callable, Collection, Mapping

from libs.core.process.isolation import repeat
from libs.core.store.cordons import Cordon, CordonStore

_POLL_SECONDS = 2.0
"""Without NATS, polling is the only way to detect a change."""
_SEEN_EVERY_POLLS = 150


class Cordons:
    """Cordons of workers, read with each decision and polled in between. Raises StoreUnavailable.

    Args:
        changed: called when a cordon was added, removed or changed since the last decision.
        connected: returns the known workers.
    """

    def __init__(
        self, store: CordonStore, *, changed: Callable[[], None], connected: Callable[[], Collection[str]]
    ) -> None:
        self._store = store
        self._changed = changed
        self._connected = connected
        self._current: Mapping[str, Cordon] = {}
        self._polls = 0

    async def read(self) -> Mapping[str, Cordon]:
        """Return the cordons, by worker, for a decision."""
        self._current = await self._store.current()
        return self._current

    async def answer(self, stays: Mapping[str, Mapping[int, str]]) -> None:
        """Record that the cordons were decided with, and which segments stay with which drained worker."""
        for cordon in self._current.values():
            staying = dict(stays.get(cordon.worker_id, {}))
            if not cordon.heeded or staying != cordon.stays:
                await self._store.heed(cordon, staying)

    async def watch_for_ever(self) -> None:
        """Poll for changed cordons until cancelled."""
        await self._store.ensure_indexes()
        await repeat("look for cordons", self._poll, _POLL_SECONDS)

    async def _poll(self) -> None:
        if self._polls % _SEEN_EVERY_POLLS == 0 and self._current:
            await self._store.seen(self._connected())
        self._polls += 1
        if _wishes(await self._store.current()) != _wishes(self._current):
            self._changed()


def _wishes(cordons: Mapping[str, Cordon]) -> dict[str, str]:
    return {worker_id: cordon.revision for worker_id, cordon in cordons.items()}
