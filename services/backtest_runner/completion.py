"""Complete a backtest: decide its outcome once, in its document, then publish it in order.

The decision is one conditional write, so a backtest has one outcome, despite crashes and concurrent workers. Content
that is too large for a document is staged in the storage before that, under the attempt's own name. Every later step
only publishes the document's outcome, and may be repeated by the next owner: result, output, event, and removal.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from libs.core.aio.retrying import retry_forever
from libs.core.errors import Retryable
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated
from libs.core.process.service import BACKTEST_RUNNER
from libs.core.storage.errors import BucketMissing, ObjectMissing, StorageRejected
from libs.core.storage.object_store import ObjectInfo, ObjectStore, Piece
from libs.core.store.entities import Entity, EntityStore
from libs.notifications.event import Event, Notice, NoticeQueue
from services.backtest_runner import objects
from services.backtest_runner.result_spool import ANALYSIS, LOGS
from services.backtest_runner.state import CLAIMED_RUN, OUTCOME, STATUS, BacktestState, Outcome

log = get_logger(__name__)

_STORAGE_FAULTS = (Retryable, StorageRejected, BucketMissing)
_TYPES = {ANALYSIS: "application/json", LOGS: "text/plain; charset=utf-8"}


class Publisher(Protocol):
    """Ensures that an event is published eventually."""

    async def publish(self, entity_id: str, subject: str, data: bytes, *, event_id: str) -> None:
        """Return when that is ensured. Repeated with the same *event_id*, it is the same event."""


class PartitionChanges(Protocol):
    """Notified of changes."""

    async def partitions_changed(self) -> None:
        """Note that a partition became empty."""


class Completion:
    """Decides and publishes the outcomes of all backtests of one worker.

    Args:
        publisher: None without NATS: then no event is published.
    """

    def __init__(
        self,
        *,
        entities: EntityStore,
        store: ObjectStore,
        bucket: str,
        publisher: Publisher | None,
        changes: PartitionChanges,
        notifier: NoticeQueue,
    ) -> None:
        self._entities = entities
        self._store = store
        self._bucket = bucket
        self._publisher = publisher
        self._changes = changes
        self._notifier = notifier

    async def decide(self, state: BacktestState, outcome: Outcome, folder: Path) -> Outcome | None:
        """Write *outcome* into the document, or return the existing one. Waits without a limit.

        None when the backtest no longer belongs to this run.

        Args:
            folder: has the files of content that is not part of *outcome*.
        """
        run_id = outcome.run_id
        for name, inline in ((ANALYSIS, outcome.analysis), (LOGS, outcome.logs)):
            if inline is None:
                await self._stage(state.id, run_id, folder / name)
        changes = {
            OUTCOME: outcome.to_document(),
            STATUS: {"state": "completing", "since": outcome.ended_at, "detail": outcome.error},
        }
        expected = {CLAIMED_RUN: run_id, OUTCOME: None}
        if await retry_forever(lambda: self._entities.compare_and_set(state.id, expected, changes)):
            return outcome
        found = await retry_forever(lambda: self._entities.get(state.id))
        known = BacktestState.of(found).outcome if found is not None else None
        if known is None or known.run_id != run_id:
            await self._unstage(state.id, run_id)
        return known

    async def hand_over(self, entity: Entity, outcome: Outcome, attempts: int) -> None:
        """Publish result, output, event and notifications, and then remove the document. May be repeated.

        Waits without a limit.

        Args:
            attempts: their number, as each may have staged objects.
        """
        backtest_id = entity.id
        await self._publish(backtest_id, outcome, ANALYSIS, objects.analysis_key(backtest_id), outcome.analysis)
        await self._publish(backtest_id, outcome, LOGS, objects.logs_key(backtest_id), outcome.logs)
        await retry_forever(lambda: self._publish_outcome(backtest_id, outcome))
        await retry_forever(lambda: self._notify_owner(entity, outcome))
        if outcome.analysis is None or outcome.logs is None or attempts > 1:
            await self._unstage(backtest_id)
        applied = await retry_forever(lambda: self._entities.remove(entity, outcome.ended_at))
        if applied.occupancy_changed:
            await self._changes.partitions_changed()

    # --- steps

    async def _stage(self, backtest_id: str, run_id: str, path: Path) -> None:
        key = objects.staged_key(backtest_id, run_id, path.name)
        await self._stored(lambda: self._store.put_file(self._bucket, key, path, _TYPES[path.name]))

    async def _publish(self, backtest_id: str, outcome: Outcome, name: str, key: str, inline: bytes | None) -> None:
        if inline is not None:
            await self._stored(lambda: self._store.put(self._bucket, key, inline, _TYPES[name]))
            return
        staged = objects.staged_key(backtest_id, outcome.run_id, name)
        try:
            await self._stored(lambda: self._store.compose(self._bucket, key, [Piece(staged)], _TYPES[name]))
        except ObjectMissing:
            # An earlier owner was past this step; staged objects are removed only when all of it is in its place.
            try:
                await self._stored(lambda: self._store.stat(self._bucket, key))
            except ObjectMissing:
                # The bucket was emptied. The content is lost, but the event must still be published.
                log.exception("staged result is missing in the storage", key=key, run=outcome.run_id)

    async def _publish_outcome(self, backtest_id: str, outcome: Outcome) -> None:
        subject = BACKTEST_RUNNER.completed_subject
        if self._publisher is None or subject is None:
            return
        content: dict[str, object] = {
            "backtest_id": backtest_id,
            "success": outcome.success,
            "timestamp": outcome.ended_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        if not outcome.success:
            content["error"] = outcome.error
        digest = hashlib.sha256(backtest_id.encode("utf-8", "surrogatepass")).hexdigest()
        event_id = f"completed-{digest[:32]}-{outcome.run_id}"
        data = json.dumps(content).encode()
        await self._publisher.publish(backtest_id, subject, data, event_id=event_id)

    async def _notify_owner(self, entity: Entity, outcome: Outcome) -> None:
        facts = {"success": outcome.success, "reason": outcome.reason, "detail": outcome.error}
        with isolated("notify of backtest"):
            await self._notifier.put(Notice(Event.DONE, entity, outcome.run_id, outcome.ended_at, facts))

    async def _unstage(self, backtest_id: str, run_id: str = "") -> None:
        """Remove staged objects of attempts; with *run_id* only of that one."""
        prefix = f"{objects.attempts_prefix(backtest_id)}{run_id}"

        async def once() -> None:
            found: list[ObjectInfo] = [info async for info in self._store.list(self._bucket, prefix)]
            for info in found:
                await self._store.remove(self._bucket, info.key)

        await retry_forever(once, faults=_STORAGE_FAULTS)

    async def _stored(self, call: Callable[[], Awaitable[object]]) -> None:
        """Retry until the storage has it: it may be down, reject the request for now, or have lost its bucket."""

        async def once() -> None:
            try:
                await call()
            except BucketMissing:
                await self._store.ensure_bucket(self._bucket)
                raise

        await retry_forever(once, faults=_STORAGE_FAULTS)
