"""Marks in a log for the start and the end of each run."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from libs.core.run_record import RunRecord
from libs.core.store.runs import RunFilter, RunStore
from libs.docker_runner.logs.lines import Line, rfc3339

_MOST_AT_ONCE = 20
_QUIET_SECONDS = 1.0

Status = Callable[[], Awaitable[Mapping[str, Any]]]


class RunMarks:
    """The marks between the lines of one entity.

    Args:
        status: the status in the entity's document.
        only: mark only this run; empty for all.
    """

    def __init__(self, runs: RunStore, entity_id: str, status: Status, only: str = "") -> None:
        self._runs = runs
        self._id = entity_id
        self._status = status
        self._only = only
        self._run = ""
        self._latest: RunRecord | None = None
        self._ended: set[str] = set()
        self._line_at = 0.0

    async def before(self, line: Line) -> list[str]:
        """Return the marks that belong before *line*."""
        self._line_at = time.monotonic()
        if not line.run or line.run == self._run:
            return []
        self._run, before = line.run, self._run
        record = await self._runs.get(line.run)
        if record is None:
            return [f"--- run {line.run} ---"] if before or _is_first(line) else []
        if self._latest is not None and record.started_at <= self._latest.started_at:
            if record.run_id == self._latest.run_id and not before:
                return []
            return [f"--- run {await self._runs.number(record)} goes on ---"]
        marks = await self._up_to(record)
        self._latest = record
        if before or _is_first(line):
            marks.append(await self._start(record))
        return marks

    async def idle(self, quiet_seconds: float = _QUIET_SECONDS) -> AsyncGenerator[str, None]:
        """Return the marks that are due after *quiet_seconds* without a line. Call it periodically."""
        if self._latest is None or time.monotonic() - self._line_at < quiet_seconds:
            return
        latest = await self._runs.get(self._latest.run_id)
        if latest is not None and latest.ended_at is not None and latest.run_id not in self._ended:
            yield await self._end(latest, following=None)
        if self._only:
            return
        for record in await self._later(self._latest, None):
            if self._latest.run_id not in self._ended:
                yield await self._end(await self._runs.get(self._latest.run_id) or self._latest, following=record)
            self._latest, self._run = record, record.run_id
            yield await self._start(record)

    async def _up_to(self, record: RunRecord) -> list[str]:
        """Return the end of the previous run, and the runs since then without output."""
        if self._latest is None:
            return []
        marks = []
        latest = self._latest
        for following in [*await self._later(latest, record), record]:
            if latest.run_id not in self._ended:
                latest = await self._runs.get(latest.run_id) or latest
                marks.append(await self._end(latest, following=following))
            if following is not record:
                marks.append(await self._start(following))
            latest = following
        return marks

    async def _later(self, than: RunRecord, before: RunRecord | None) -> list[RunRecord]:
        wanted = RunFilter(
            entity_id=self._id,
            started_after=than.started_at,
            started_before=before.started_at if before is not None else None,
        )
        return (await self._runs.list(wanted, limit=_MOST_AT_ONCE))[::-1]

    async def _start(self, record: RunRecord) -> str:
        number = await self._runs.number(record)
        return f"--- run {number} started {rfc3339(record.started_at)} on {_shown(record.worker_id)} ---"

    async def _end(self, record: RunRecord, following: RunRecord | None) -> str:
        self._ended.add(record.run_id)
        number = await self._runs.number(record)
        if record.ended_at is None:
            return f"--- run {number} ended: outcome not recorded yet ---"
        end = f"{record.reason}{f' (exit code {record.exit_code})' if record.reason == 'error' else ''}"
        end += f" after {seconds(record.duration_seconds or 0.0)}"
        if following is not None:
            end += f"; restarted after {seconds((following.started_at - record.ended_at).total_seconds())}"
        else:
            not_before = (await self._status()).get("not_before")
            left = float(not_before) - datetime.now(UTC).timestamp() if isinstance(not_before, int | float) else 0.0
            end += f"; restarts in {seconds(left)}" if left > 0 else ""
        return f"--- run {number} ended: {end} ---"


def seconds(number: float) -> str:
    """Format a duration in seconds, with one decimal below ten."""
    number = max(0.0, number)
    return f"{number:.1f} s" if number < 9.95 and round(number, 1) != round(number) else f"{number:.0f} s"


def _is_first(line: Line) -> bool:
    """Whether it is the first line of its run."""
    return line.end <= len(line.text.encode(errors="replace")) + 2


def _shown(name: str) -> str:
    return name if name.isprintable() else name.encode("unicode_escape").decode()
