"""Schedule the uploads of bots' logs: when each is due, under which key, and the rest when a segment is released."""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from prometheus_client import Counter, Gauge

from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.process.isolation import isolated, repeat, unexpected
from libs.docker_runner.logs.bot_log import BotLog
from libs.docker_runner.logs.folders import LogOwner
from libs.docker_runner.logs.handover import HandOver
from libs.docker_runner.logs.keys import log_key
from libs.docker_runner.logs.open_logs import OpenLogs
from libs.docker_runner.logs.position import Position
from libs.docker_runner.logs.spans import Span
from libs.docker_runner.logs.spool import Place

log = get_logger(__name__)

PENDING_BYTES = Gauge("runtime_logs_pending_bytes", "Output of bots on this host's disk that is not uploaded yet.")
DROPPED_BYTES = Counter("runtime_logs_dropped_bytes", "Output of bots that was dropped because its spool was full.")

# Each takes up to 16 MiB of memory.
_PARALLEL = 4
_EARLY_UPLOAD_BYTES = 4 * 1024 * 1024
_SWEEP_SECONDS = 24 * 3600.0
_REST_SHARE = 4
_TURN_POLL_SECONDS = 0.5
_REST_RETRY_SECONDS = 0.5


class StoredOutput(Protocol):
    """What is notified of stored output."""

    def containers_of(self, entity_id: str) -> Sequence[str]:
        """Return the engine's ids of the entity's containers."""

    def stored(self, container: str, stamp_ns: int) -> None:
        """Note that the storage has a container's output up to this time, in nanoseconds since 1970."""


class LogUploads:
    """Uploads the open logs, and opens those that other processes of this host have left.

    Args:
        interval_seconds: maximum wait of output for its upload, while the storage works; longer
            only when uploads of this bot would otherwise take more than a fifth of the time.
        hand_over_seconds: after so long without output, the rest of a bot with another owner goes beside its object.
        stored_output: notified of what the storage has; None where nobody needs to know.
    """

    def __init__(
        self,
        logs: OpenLogs,
        turns: HandOver,
        *,
        interval_seconds: float,
        hand_over_seconds: float,
        stored_output: StoredOutput | None = None,
    ) -> None:
        self._logs = logs
        self._stored_output = stored_output
        self._turns = turns
        self._wake = logs.opened
        self._interval_seconds = interval_seconds
        self._hand_over_seconds = hand_over_seconds
        self._uploads = asyncio.Semaphore(_PARALLEL)
        self._uploaded = asyncio.Event()
        self._scanned_at = -math.inf
        self._swept_at = 0.0

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Upload due logs in tasks of *group*, forever."""
        await repeat("upload logs", partial(self._one_round, group), self._interval_seconds, wake=self._wake)

    def written(self, bot: BotLog, place: Place, payload: bytes, spans: Sequence[Span]) -> None:
        """Schedule an upload of this log, which has new output: after the interval, or soon if it is large."""
        bot.written(place, payload, spans, self._interval_seconds)
        if bot.spool.pending_bytes >= _EARLY_UPLOAD_BYTES and not bot.uploading:
            self._due_by(bot, bot.rests_until)

    def due_now(self, bot: BotLog) -> None:
        """Upload this log as soon as possible."""
        self._due_by(bot, 0.0)

    def bot(self, entity_id: str) -> BotLog | None:
        """Return the log of this bot, if it is followed or uploaded here now."""
        return self._logs.of(entity_id)

    def owns(self, entity_id: str) -> bool:
        """Whether the log of this bot is here because this worker owns it, and not only a rest of it."""
        bot = self._logs.of(entity_id)
        return bot is not None and self._turns.owns(bot.owner.segment)

    async def turn(self, bot: BotLog) -> None:
        """Return when an earlier owner has uploaded its promised output, or its time is over."""
        segment = bot.owner.segment
        with suppress(TimeoutError, RuntimeFault):
            async with asyncio.timeout(self._turns.rest_seconds):
                await self._turns.prepare(segment)
                while self._turns.waits(segment):
                    await asyncio.sleep(_TURN_POLL_SECONDS)
                    await self._turns.prepare(segment)

    async def upload(self, bot: BotLog) -> None:
        """Upload this bot's output now, if this worker may.

        Raises:
            RuntimeFault: it failed.
        """

        def key_of(day: str) -> str | None:
            # Checked for each piece: uploading a large rest takes longer than a lease lasts.
            now = self._key_of(bot)
            return now(day) if now is not None else None

        await self._turns.prepare(bot.owner.segment)
        if self._key_of(bot) is None:
            return
        stored = await bot.uploader.upload(key_of, lambda: self._positions(bot))
        if self._stored_output is not None:
            for container_id, position in (stored or {}).items():
                self._stored_output.stored(container_id, position.newest_ns)

    async def upload_once(self, bots: Collection[BotLog], limit_seconds: float) -> bool:
        """Try once to upload these logs now; return whether all attempts ended within the limit."""
        wanted = {bot: bot.attempts + 1 + bot.uploading for bot in bots}
        for bot in bots:
            self.due_now(bot)
        try:
            async with asyncio.timeout(limit_seconds):
                while any(bot.spool.pending_bytes and bot.attempts < attempts for bot, attempts in wanted.items()):
                    await self._next_upload()
        except TimeoutError:
            return False
        return True

    async def empty(self, entity_id: str, limit_seconds: float) -> bool:
        """Upload the output of this bot now; return whether nothing of it is left on this host's disk."""
        bot = self._logs.of(entity_id)
        if bot is None:
            return not await self._logs.has_output(entity_id)
        await self.upload_once([bot] if bot.spool.pending_bytes else [], limit_seconds)
        return not bot.spool.pending_bytes

    async def upload_rest(self, segment: int) -> None:
        """Upload the output of the segment's bots, while this is allowed after its release."""

        def rest() -> list[BotLog]:
            return [bot for bot in self._logs if bot.owner.segment == segment and bot.spool.pending_bytes]

        ends_at = time.monotonic() + self._turns.rest_seconds
        while (bots := rest()) and self._turns.is_open(segment) and time.monotonic() < ends_at:
            if not await self.upload_once(bots, max(0.0, ends_at - time.monotonic())):
                break
            if rest():
                await asyncio.sleep(_REST_RETRY_SECONDS)
        with suppress(TimeoutError):
            # A running addition belongs to this turn.
            async with asyncio.timeout(self._turns.rest_seconds):
                while any(bot.uploading for bot in rest()):
                    await self._next_upload()

    def _due_by(self, bot: BotLog, at: float) -> None:
        """Schedule the upload of this log at that time of the monotonic clock."""
        bot.due_at = at
        self._wake.set()

    async def _one_round(self, group: asyncio.TaskGroup) -> float:
        """Start the uploads that are due; return the time until the next one."""
        now = time.monotonic()
        if now - self._scanned_at >= self._interval_seconds:
            self._scanned_at = now
            with isolated("scan log spools"):
                await self._scan()
        for bot in self._logs:
            if not bot.in_use:
                DROPPED_BYTES.inc(bot.spool.take_dropped())
                self._logs.close(bot)
            elif bot.due_at is not None and bot.due_at <= now and not bot.uploading:
                bot.uploading = True
                bot.due_at = None
                group.create_task(self._upload(bot), name=f"upload log {bot.folder.path.name}")
        due = [bot.due_at for bot in self._logs if bot.due_at is not None and not bot.uploading]
        return max(0.0, min([*due, self._scanned_at + self._interval_seconds]) - time.monotonic())

    async def _upload(self, bot: BotLog) -> None:
        try:
            async with self._uploads:
                begun = time.monotonic()
                uploaded = await self._try_to_upload(bot)
                # The server copies the whole object: one of gigabytes is added to less often.
                bot.rests_until = time.monotonic() + _REST_SHARE * (time.monotonic() - begun)
        finally:
            bot.uploading = False
            bot.attempts += 1
            self._uploaded.set()
        if bot.due_at is None and bot.spool.pending_bytes:
            if self._turns.waits(bot.owner.segment):
                bot.due_at = time.monotonic() + _TURN_POLL_SECONDS
            elif bot.followers or (uploaded and self._has_place(bot)):
                bot.due_at = max(time.monotonic() + self._interval_seconds, bot.rests_until)
        # A log that cannot be uploaded now and that no container writes is closed, and reopened by a later scan:
        # another process of this host may be waiting to follow the bot's next container.
        self._wake.set()

    async def _try_to_upload(self, bot: BotLog) -> bool:
        try:
            await self.upload(bot)
            if not bot.followers:
                await bot.uploader.forget()
        except (RuntimeFault, OSError) as error:
            log.warning("output cannot be uploaded", entity=bot.owner.entity_id, reason=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - of this bot alone
            unexpected("upload output", error, entity=bot.owner.entity_id)
            return False
        return True

    def _positions(self, bot: BotLog) -> dict[str, Position]:
        containers = self._stored_output.containers_of(bot.owner.entity_id) if self._stored_output is not None else ()
        found = {container_id: bot.spool.position(container_id) for container_id in containers}
        return {container_id: position for container_id, position in found.items() if position is not None}

    async def _next_upload(self) -> None:
        self._uploaded.clear()
        await self._uploaded.wait()

    def _has_place(self, bot: BotLog) -> bool:
        """Whether this process may upload the bot's output, now or as soon as an earlier owner has."""
        return self._turns.is_open(bot.owner.segment) or self._key_of(bot) is not None

    def _key_of(self, bot: BotLog) -> Callable[[str], str] | None:
        if self._turns.may_add(bot.owner.segment):
            return partial(log_key, bot.owner.entity_id)
        if self._turns.is_open(bot.owner.segment):
            return None
        if not bot.followers and time.monotonic() - bot.changed_at >= self._hand_over_seconds:
            return partial(log_key, bot.owner.entity_id, writer=self._turns.writer)
        return None

    async def _scan(self) -> None:
        """Open what other processes of this host have left; measure; sweep the bucket once a day."""
        await self._logs.adopt(self._may_adopt)
        for bot in self._logs:
            with isolated("trim log spool"):
                await self._logs.run(bot.spool.trim)
        PENDING_BYTES.set(sum(bot.spool.pending_bytes for bot in self._logs))
        for bot in self._logs:
            DROPPED_BYTES.inc(bot.spool.take_dropped())
        if time.monotonic() - self._swept_at > _SWEEP_SECONDS or not self._swept_at:
            self._swept_at = time.monotonic()
            try:
                await self._logs.objects.sweep()
            except RuntimeFault as error:
                log.warning("stale parts in the logs bucket were not removed", reason=str(error))

    def _may_adopt(self, owner: LogOwner, quiet_seconds: float) -> bool:
        return self._turns.owns(owner.segment) or quiet_seconds >= self._hand_over_seconds
