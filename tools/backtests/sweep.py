"""Run the backtests of a sweep, a limited number at once, with the same code."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from libs.core.errors import Retryable, UserError
from libs.core.process.service import BACKTEST_RUNNER
from libs.core.store.entities import EntityStore
from services.backtest_runner.state import BacktestState
from services.backtest_runner.verdict import CANCELLED
from tools.backtests.cancellation import request_cancellation
from tools.backtests.findings import findings
from tools.backtests.grid import Point
from tools.backtests.results import Known, known_of, state_of
from tools.bots.code_upload import CodeUpload
from tools.bots.config_edit import masked
from tools.bots.deploying import Upload, announce, code_upload
from tools.bots.folder import BotFolder
from tools.bots.package import Package
from tools.cli.bot_waiting import WAIT_SECONDS
from tools.cli.connections import Connections
from tools.cli.interrupts import uninterrupted

WAITING, FINISHED, FAILED = "not started", "finished", "failed"

_POLL_SECONDS = 0.25
_CANCEL_SECONDS = 10.0
_UNSURE_SECONDS = 1.0
_AGAIN_SECONDS = 15.0
_MOST_METRICS = 100
_MOST_CHARACTERS = 200


class EventUnread(Retryable):
    """No worker has read the event of a backtest in time."""

    def __init__(self, backtest_id: str) -> None:
        super().__init__(
            f"no worker of {BACKTEST_RUNNER.name} has read the event of {backtest_id!r} within {WAIT_SECONDS:g} s; "
            f"check `runtime status`"
        )


class SweepChanged(UserError):
    """The sweep to continue is another one."""


@dataclass
class Row:
    """One backtest of the sweep, and what is known of it.

    Attributes:
        state: `not started`, `finished`, `failed`, or while it is open the state that `backtest ls` shows.
        detail: the reason of a failure.
        began, announced_at, ended_at: the monotonic times of the first attempt to announce it, of its last
            announcement and of its end.
        seconds: the duration of its last run.
        seen: whether its document was found.
        cancelled: whether its cancellation was requested.
    """

    point: Point
    state: str = WAITING
    detail: str = ""
    metrics: Mapping[str, object] = field(default_factory=dict)
    began: float | None = None
    seconds: float | None = None
    announced_at: float | None = None
    ended_at: float | None = None
    seen: bool = False
    cancelled: bool = False

    @property
    def id(self) -> str:
        """The id of the backtest."""
        return self.point.backtest_id

    @property
    def announced(self) -> bool:
        """Whether its announcement succeeded."""
        return self.announced_at is not None

    @property
    def is_done(self) -> bool:
        """Whether it has a result, or has failed."""
        return self.state in (FINISHED, FAILED)

    @property
    def is_open(self) -> bool:
        """Whether it is announced and not done."""
        return self.began is not None and not self.is_done

    def facts(self) -> dict[str, Any]:
        """Return the data for programs."""
        return {
            "id": self.id,
            "parameters": dict(self.point.parameters),
            "state": self.state,
            "seconds": self.seconds,
            "metrics": dict(self.metrics),
            "error": self.detail or None,
        }


class Sweep:
    """The backtests of *points*, with the code of *package*.

    Args:
        jobs: the limit on open backtests.
        changed: called after each look.
    """

    def __init__(
        self,
        servers: Connections,
        folder: BotFolder,
        package: Package,
        points: Sequence[Point],
        *,
        jobs: int,
        changed: Callable[[Sequence[Row]], None],
    ) -> None:
        self.rows = [Row(point) for point in points]
        self._servers = servers
        self._folder = folder
        self._package = package
        self._jobs = jobs
        self._changed = changed

    async def run(self) -> None:
        """Run all of them. When it is interrupted or fails, cancel those that are open.

        Raises:
            EventUnread: no worker reads the events.
            Retryable: a server was unreachable at the start, or has been for a minute.
        """
        entities = await self._servers.entities(BACKTEST_RUNNER)
        uploads = await code_upload(self._servers, BACKTEST_RUNNER)
        reached_at = time.monotonic()
        try:
            while any(not row.is_done for row in self.rows):
                try:
                    await self._round(entities, uploads)
                    reached_at = time.monotonic()
                except EventUnread:
                    raise
                except Retryable:
                    # A sweep of hours outlasts the restart of a server.
                    if not any(row.announced for row in self.rows) or time.monotonic() - reached_at > WAIT_SECONDS:
                        raise
                self._changed(self.rows)
                await asyncio.sleep(_POLL_SECONDS if any(row.is_open for row in self.rows) else 0)
        except BaseException:
            with suppress(Retryable, TimeoutError):
                async with asyncio.timeout(_CANCEL_SECONDS):
                    await self._cancel_open(entities)
            self._changed(self.rows)
            raise

    async def existing(self) -> list[str]:
        """Return the ids of those that were run before."""
        return [row.id for row in self.rows if await known_of(self._servers, row.id) is not None]

    async def continue_earlier(self) -> None:
        """Take over what an earlier, interrupted sweep of the same points has begun.

        Completed backtests keep their results, and those that are open are waited for. A cancelled one, which cannot
        run again, is run under its id with a number.

        Raises:
            SweepChanged: a backtest was run with another config.
        """
        for row in self.rows:
            base = row.point.backtest_id
            for number in itertools.count(2):
                known = await known_of(self._servers, row.id)
                if known is None:
                    break
                if not _was_cancelled(known):
                    _check_config(row.point, known)
                    _take_over(row, known)
                    break
                row.point = replace(row.point, backtest_id=f"{base}-{number}")
        self._changed(self.rows)

    async def _round(self, entities: EntityStore, uploads: CodeUpload) -> None:
        """Read the states, and announce as many as may be open. May be repeated after any failure."""
        await self._look(entities)
        self._check_read()
        for row in self._next():
            await self._start(entities, uploads, row)

    def _next(self) -> Iterable[Row]:
        """Return those to announce: also again, after a failure, or if the stream was re-created before a reader."""
        announced_before = time.monotonic() - _AGAIN_SECONDS
        yield from [
            row
            for row in self.rows
            if row.is_open and not row.seen and (row.announced_at is None or row.announced_at < announced_before)
        ]
        free = self._jobs - sum(row.is_open for row in self.rows)
        yield from [row for row in self.rows if row.began is None][: max(0, free)]

    async def _start(self, entities: EntityStore, uploads: CodeUpload, row: Row) -> None:
        # Each time, since unreferenced code is collected after a while; identical code is uploaded once.
        key = await uploads.key_of(self._package)
        bucket = self._servers.storage_settings().code_bucket
        uploaded = Upload(row.id, self._folder, self._package, bucket, key)
        row.began = row.began or time.monotonic()
        row.state = "announced"
        # Interrupted in between, it would be unknown whether there is something to cancel.
        await uninterrupted(announce(self._servers, BACKTEST_RUNNER, entities, uploaded, row.point.config))
        row.announced_at = time.monotonic()

    async def _look(self, entities: EntityStore) -> None:
        """Read the states of the open ones."""
        waited_for = [row for row in self.rows if row.is_open]
        found = await entities.by_ids(row.id for row in waited_for)
        owners = await (await self._servers.owners(BACKTEST_RUNNER)).of(one.segment_id for one in found.values())
        for row in waited_for:
            if (entity := found.get(row.id)) is not None:
                row.seen = True
                row.state = state_of(entity, owners.get(entity.segment_id)).text
                continue
            known = await known_of(self._servers, row.id)
            if known is not None and known.entity is None:
                _ended(row, known)
            elif known is None and row.seen:
                row.state, row.detail = FAILED, "it was removed, and has no record"

    def _check_read(self) -> None:
        """Raise EventUnread if an event was not read in time."""
        announced_before = time.monotonic() - WAIT_SECONDS
        for row in self.rows:
            if row.is_open and not row.seen and (row.began or 0.0) < announced_before:
                raise EventUnread(row.id)

    async def _cancel_open(self, entities: EntityStore) -> None:
        """Request the cancellation of the open ones, also of those whose event is read only now."""
        began = time.monotonic()
        while left := [row for row in self.rows if row.is_open and not row.cancelled]:
            # One whose announcement failed may have been announced nevertheless.
            if not any(row.announced for row in left) and time.monotonic() - began > _UNSURE_SECONDS:
                return
            for row in left:
                row.cancelled = await request_cancellation(self._servers, row.id)
            await self._look(entities)
            await asyncio.sleep(_POLL_SECONDS if any(row.is_open and not row.cancelled for row in left) else 0)


def _was_cancelled(known: Known) -> bool:
    if known.entity is not None:
        return BacktestState.of(known.entity).cancelled_by is not None
    return bool(known.runs) and known.runs[0].reason == CANCELLED


def _check_config(point: Point, known: Known) -> None:
    if known.parameters is not None and dict(known.parameters.config) != masked(point.config):
        raise SweepChanged(
            f"backtest {known.id!r} was run with another config; give the options of the interrupted sweep, or another "
            f"--id without --resume"
        )


def _take_over(row: Row, known: Known) -> None:
    row.began = row.announced_at = time.monotonic()
    row.seen = True
    if known.entity is None:
        _ended(row, known)
        row.seconds = known.runs[0].duration_seconds if known.runs else None


def _ended(row: Row, known: Known) -> None:
    row.ended_at = time.monotonic()
    row.state = FAILED if known.state == "failed" else FINISHED
    row.detail = known.failure or (f"the result {known.refused}" if known.refused is not None else "")
    duration = known.runs[0].duration_seconds if known.runs else None
    row.seconds = duration if duration is not None else time.monotonic() - (row.began or 0.0)
    if known.analysis is not None and row.state == FINISHED:
        row.metrics = metrics_of(known.analysis)


def metrics_of(analysis: Mapping[str, Any]) -> dict[str, object]:
    """Return the metrics of a result that fit a cell of a table, of hundreds of them at most."""
    plain = ((name, value) for name, value in findings(analysis).metrics.items() if not isinstance(value, list))
    return {
        name[:_MOST_CHARACTERS]: value[:_MOST_CHARACTERS] if isinstance(value, str) else value
        for name, value in itertools.islice(plain, _MOST_METRICS)
    }
