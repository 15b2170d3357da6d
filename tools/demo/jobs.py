"""The parts of the demonstration with an end: a backtest, and the runs of a schedule."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from libs.core.process.service import BOT_SCHEDULER
from libs.core.run_record import RunRecord
from libs.core.store.runs import RunFilter, RunStore
from tools.backtests.findings import Findings, findings
from tools.backtests.results import known_of
from tools.cli.connections import Connections
from tools.demo.errors import DemoFailed

T = TypeVar("T")

_SECONDS = 120.0
_POLL_SECONDS = 0.2


class Jobs:
    """Waits for an announced backtest and schedule. *logs*: the folder named in errors."""

    def __init__(self, servers: Connections, logs: Path) -> None:
        self._servers = servers
        self._logs = logs

    async def backtest(self, backtest_id: str) -> Findings:
        """Return the result of the completed backtest. Raises DemoFailed when it failed or timed out."""

        async def done() -> Findings | None:
            known = await known_of(self._servers, backtest_id)
            if known is None or known.analysis is None:
                return None
            if known.state == "failed":
                raise DemoFailed(f"the backtest {backtest_id} failed: {known.failure}")
            return findings(known.analysis)

        return await self._eventually(f"the backtest {backtest_id}", done)

    async def schedule(self, schedule_id: str, runs: int) -> Sequence[RunRecord]:
        """Return the successful runs of the schedule, oldest first, once there are *runs* of them.

        Raises:
            DemoFailed: it timed out.
        """
        store = RunStore(await self._servers.database(BOT_SCHEDULER))

        async def enough() -> list[RunRecord] | None:
            found = await store.list(RunFilter(entity_id=schedule_id, reasons=("finished",)))
            return found[::-1] if len(found) >= runs else None

        return await self._eventually(f"{runs} runs of {schedule_id}", enough)

    async def _eventually(self, what: str, look: Callable[[], Awaitable[T | None]]) -> T:
        try:
            async with asyncio.timeout(_SECONDS):
                while (found := await look()) is None:  # noqa: ASYNC110 - the database sets no event
                    await asyncio.sleep(_POLL_SECONDS)
                return found
        except TimeoutError:
            raise DemoFailed(
                f"waited {_SECONDS:g} s for {what}; the logs of the processes are in {self._logs}"
            ) from None
