"""Fail a test in which the project's code blocked the event loop.

Measured are the processor time of single steps, without garbage collection, and the time in which a round
of the loop slept: on a loaded machine, wall time is meaningless. The limits are a multiple of
the design's limit (100 ms), because a shared processor counts more than the work took.
"""

import asyncio
import gc
import os
import threading
import time
from asyncio import base_events, selector_events
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CPU_SECONDS = 0.4
SLEPT_SECONDS = 2.0

_ROOT = Path(__file__).resolve().parents[3]
_OWN = (f"{_ROOT}/libs/", f"{_ROOT}/services/")


class LoopWatch:
    """Measures the steps of the event loops of this process. *blocked* describes those that were too long."""

    def __init__(self, *, cpu_seconds: float = CPU_SECONDS, slept_seconds: float = SLEPT_SECONDS) -> None:
        self.blocked: list[str] = []
        self._cpu_limit = cpu_seconds
        self._slept_limit = slept_seconds
        self._schedstat_files: dict[int, int] = {}
        self._gc_seconds = 0.0
        self._gc_began = 0.0
        self._began: tuple[float, float] | None = None
        self._longest: tuple[float, Any] = (0.0, None)
        self._undo: list[tuple[type, str, Any]] = []

    def install(self) -> None:
        """Measure from now on."""
        watch, loops = self, selector_events.BaseSelectorEventLoop
        run, process, once = (_method(loops, name) for name in ("_run", "_process_events", "_run_once"))

        def measured_run(handle: Any) -> Any:
            began, wall, collected = time.thread_time(), time.perf_counter(), watch._gc_seconds
            try:
                return run(handle)
            finally:
                cpu = time.thread_time() - began - (watch._gc_seconds - collected)
                watch._step_ended(handle, cpu, time.perf_counter() - wall)

        def measured_process(loop: Any, events: Any) -> Any:
            # Called when the loop has finished waiting.
            watch._began = time.perf_counter(), watch._processor_seconds()
            watch._longest = (0.0, None)
            return process(loop, events)

        def measured_once(loop: Any) -> None:
            once(loop)
            watch._round_ended()

        self._replace(asyncio.Handle, "_run", measured_run)
        self._replace(loops, "_process_events", measured_process)
        self._replace(base_events.BaseEventLoop, "_run_once", measured_once)
        gc.callbacks.append(self._collected)

    def uninstall(self) -> None:
        """Leave asyncio as it was."""
        for owner, name, before in reversed(self._undo):
            setattr(owner, name, before)
        gc.callbacks.remove(self._collected)
        for descriptor in self._schedstat_files.values():
            os.close(descriptor)

    def _replace(self, owner: type, name: str, function: Any) -> None:
        self._undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, function)

    def _step_ended(self, handle: Any, cpu_seconds: float, wall_seconds: float) -> None:
        if wall_seconds > self._longest[0]:
            self._longest = wall_seconds, handle
        if cpu_seconds > self._cpu_limit and (name := _own_name(handle)) is not None:
            self.blocked.append(f"{name} kept the event loop busy for {cpu_seconds:.2f} s")

    def _round_ended(self) -> None:
        seconds, handle = self._longest
        if seconds < self._slept_limit or self._began is None or (name := _own_name(handle)) is None:
            return
        began, processor = self._began
        slept = time.perf_counter() - began - (self._processor_seconds() - processor)
        if slept > self._slept_limit:
            self.blocked.append(f"{name} let the event loop wait for {slept:.2f} s")

    def _collected(self, phase: str, info: object) -> None:
        if phase == "start":
            self._gc_began = time.thread_time()
        else:
            self._gc_seconds += time.thread_time() - self._gc_began

    def _processor_seconds(self) -> float:
        """Return how long this thread ran or waited for a processor; the rest of the wall time, it slept."""
        thread = threading.get_ident()
        try:
            if thread not in self._schedstat_files:
                self._schedstat_files[thread] = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
            ran, waited, _ = os.pread(self._schedstat_files[thread], 200, 0).split()
        except OSError:
            return time.perf_counter()  # without schedstat no sleep is detected
        return (int(ran) + int(waited)) / 1e9


@pytest.fixture(scope="session")
def loop_watch() -> Iterator[LoopWatch]:
    """One watch for all tests."""
    watch = LoopWatch()
    watch.install()
    yield watch
    watch.uninstall()


@pytest.fixture(autouse=True)
def no_blocked_loop(loop_watch: LoopWatch) -> Iterator[None]:
    """Fail each test in which a task or callback of the project blocked the event loop."""
    loop_watch.blocked.clear()
    yield
    blocked = "; ".join(loop_watch.blocked)
    assert not blocked, blocked


def _method(loops: type, name: str) -> Any:
    return getattr(asyncio.Handle if name == "_run" else loops, name)


def _own_name(handle: Any) -> str | None:
    """Return the name of the project's task or callback that *handle* runs; None for tests and libraries."""
    callback = getattr(handle, "_callback", None)
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        code = getattr(task.get_coro(), "cr_code", None)
        name = f"task {task.get_name()!r} ({getattr(code, 'co_qualname', '?')})"
    else:
        code = getattr(callback, "__code__", None)
        name = f"callback {getattr(code, 'co_qualname', '?')}"
    file = getattr(code, "co_filename", "")
    return name if file.startswith(_OWN) and not os.path.basename(file).endswith("_test.py") else None
