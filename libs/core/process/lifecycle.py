"""The lifecycle of a process: its loops, and the ordered list of its shutdown steps."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from libs.core.errors import UserError
from libs.core.observability.log import get_logger

log = get_logger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_HURRIED_SECONDS = 1.0
_CANCEL_SECONDS = 5.0


@dataclass(frozen=True)
class _Step:
    name: str
    run: Callable[[], Awaitable[None]]
    limit_seconds: float


class Lifecycle:
    """Runs named parts in one task group until a signal arrives or a part ends, then shuts down in order.

    The order is: the steps of :meth:`on_stop`, while the parts still run (so that a lease is renewed while
    containers are being stopped); then the parts that no step has ended, the last declared first; then the steps of
    :meth:`on_close`, for resources that the parts used to the end. Every wait has a limit, and a failed step does not
    prevent the next ones.

    Args:
        cancel_seconds: how long a cancelled part may take to end.
        abandon: called with exit code 1 as the last step if a cancelled task did not end: nothing else could then
            end the process.
    """

    def __init__(self, *, cancel_seconds: float = _CANCEL_SECONDS, abandon: Callable[[int], object] = os._exit) -> None:
        self._cancel_seconds = cancel_seconds
        self._abandon = abandon
        self._parts: dict[str, Callable[[], Awaitable[None]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stop_steps: list[_Step] = []
        self._close_steps: list[_Step] = []
        self._group: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._exit_code = 0
        self._stuck = False

    @property
    def stopping(self) -> bool:
        """Whether shutdown has started."""
        return self._stopping.is_set()

    def part(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Declare a loop that should never end; if it ends or raises, the process stops with exit code 1.

        A part that is declared while the process runs starts at once.
        """
        if name in self._parts:
            raise ValueError(f"part {name!r} already exists")
        self._parts[name] = run
        if self._group is not None and not self.stopping:
            self._start(name, self._group)

    def on_stop(self, name: str, stop: Callable[[], Awaitable[None]], limit_seconds: float) -> None:
        """Declare the next shutdown step, run after those declared before it, while the parts run."""
        self._stop_steps.append(_Step(name, stop, limit_seconds))

    def on_close(self, name: str, close: Callable[[], Awaitable[None]], limit_seconds: float) -> None:
        """Declare the next closing step, run after all parts have ended."""
        self._close_steps.append(_Step(name, close, limit_seconds))

    def request_stop(self, reason: str, exit_code: int = 0) -> None:
        """Start the shutdown. During a shutdown, only a worse exit code has an effect."""
        self._exit_code = self._exit_code or exit_code
        if not self.stopping:
            log.info("process is stopping", reason=reason)
            self._stopping.set()

    async def end_part(self, name: str) -> None:
        """Cancel a part and return when it has ended; for a step that stops accepting work. Ended parts are ignored."""
        task = self._tasks.get(name)
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, a part's end or :meth:`request_stop`; return the exit code after the shutdown.

        A second signal reduces the limits to almost nothing; a third kills the process. Cancelling
        this call cancels the parts and skips the steps.
        """
        begun = time.monotonic()
        self._listen()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for name in self._parts:
                    self._start(name, group)
                await self._stopping.wait()
                await self._stop()
        finally:
            self._group = None
            self._unlisten()
        log.info("process has stopped", exit_code=self._exit_code, ran_seconds=round(time.monotonic() - begun, 3))
        return self._exit_code

    # --- running

    def _start(self, name: str, group: asyncio.TaskGroup) -> None:
        self._tasks[name] = group.create_task(self._watched(name), name=name)

    async def _watched(self, name: str) -> None:
        try:
            await self._parts[name]()
        except asyncio.CancelledError:
            if self._was_cancelled_by_us():
                raise
            # A cancellation leaked out of the part; the task group would treat it as its own.
            log.error("a component was cancelled unexpectedly", part=name, exc_info=True)
        except UserError as error:
            log.error("a component failed", part=name, reason=str(error))  # noqa: TRY400 - its message says it all
        except Exception:
            log.exception("a component failed", part=name)
        else:
            if self.stopping:
                return
            log.error("a component ended unexpectedly", part=name)
        self.request_stop(f"part {name} ended", exit_code=1)

    @staticmethod
    def _was_cancelled_by_us() -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    # --- stopping

    async def _stop(self) -> None:
        for step in self._stop_steps:
            await self._take(step)
        for name in reversed(list(self._tasks)):
            await self._end(name)
        for step in self._close_steps:
            await self._take(step)
        if self._stuck:
            self._abandon(1)

    async def _take(self, step: _Step) -> None:
        """Run one step within its limit. A failure is logged and sets exit code 1; the next step runs."""
        task = asyncio.create_task(self._call(step), name=step.name)
        try:
            if not await self._within(task, step.limit_seconds):
                log.error("a shutdown step timed out", step=step.name, limit_seconds=step.limit_seconds)
                self._exit_code = 1
                await self._cancel(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def _call(self, step: _Step) -> None:
        try:
            await step.run()
        except Exception:
            log.exception("a shutdown step failed", step=step.name)
            self._exit_code = 1

    async def _end(self, name: str) -> None:
        task = self._tasks[name]
        if not task.done():
            await self._cancel(task)

    async def _cancel(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        if not await self._within(task, self._cancel_seconds):
            log.error("a cancelled task does not end", task=task.get_name(), limit_seconds=self._cancel_seconds)
            self._exit_code = 1
            self._stuck = True

    async def _within(self, task: asyncio.Task[None], limit_seconds: float) -> bool:
        """Wait until *task* is done, for the limit at most, and briefly after a second signal. Return whether it is."""
        hurried = asyncio.create_task(self._hurried.wait())
        waited: list[asyncio.Task[Any]] = [task, hurried]
        try:
            await asyncio.wait(waited, timeout=limit_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
        if not task.done() and self.hurried:
            await asyncio.wait([task], timeout=min(limit_seconds, _HURRIED_SECONDS))
        return task.done()

    # --- signals

    @property
    def hurried(self) -> bool:
        """Set by a second signal: waits should end."""
        return self._hurried.is_set()

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled, number)

    def _unlisten(self) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        if not self.stopping:
            self.request_stop(signal.Signals(number).name)
            return
        if not self.hurried:
            log.warning("second signal; shutdown is shortened", signal=signal.Signals(number).name)
            self._hurried.set()
            self._unlisten()
