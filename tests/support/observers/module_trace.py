"""Record which modules of the project a process enters, in all of its threads.

    python -m tests.support.observers.module_trace FILE MODULE [ARGUMENTS...]

Runs MODULE and writes FILE when it ends: a line for each call of a function of `libs` or `services`, with the task, the
module, the function, and for a function of `MARKS` the modules on its call stack. A coroutine that continues is a call
too.
"""

import asyncio
import runpy
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

DELIVERIES = ("Ingestion._receive", "Ingestion._receive_copy")
READ = "ContainerWatch._pass_on"
END = "SegmentReconciler.container_changed"
REAP = "BotActions._reap"
START = "Engine.start"
MARKS = frozenset(
    (
        "Lanes.put",
        "EntityWriter._insert",
        "WakeUps._send",
        "WakeUps._listen.<locals>.received",
        "DesiredState.of",
        "plan",
        "SegmentReconciler._begin",
        "BotRecords.container_ended",
        "BotRecords.write_status",
        "Stopper.exit_info",
        END,
        START,
    )
)
"""Where one step of the way hands over to the next one: a queue, a wake-up, a task, a request."""

POLLS = ("neighbours",)
"""Threads that only look at something again and again: they are on the way of no event."""

_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        task: the name of the task that makes it, or of a thread of `POLLS`; empty in another thread or a callback.
        stack: for a function of `MARKS` its module and those of the functions that wait for it in this task.
    """

    task: str
    module: str
    function: str
    stack: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """The modules between a trigger and the engine's start request.

    Attributes:
        entered: those of which any function was called, in the tasks of `MARKS` and in threads.
        crossed: those on the call stacks of `MARKS`: the modules that hand the work on.
    """

    entered: frozenset[str]
    crossed: frozenset[str]


def common(ways: Sequence[Way]) -> Way:
    """Return what all *ways* share: what else the process did meanwhile is not in all of them."""
    return Way(
        frozenset.intersection(*(way.entered for way in ways)), frozenset.intersection(*(way.crossed for way in ways))
    )


def from_deliveries(calls: Sequence[Call]) -> Iterator[Way]:
    """Yield the way of each start that follows the delivery of an event."""
    for step in _until_starts(calls):
        first = next((index for index, call in enumerate(step) if call.function in DELIVERIES), None)
        if first is not None:
            # The message came from the driver through these two.
            while first > 0 and step[first - 1].module.startswith("libs/core/events/"):
                first -= 1
            yield _way(step[first:])


def from_ends(calls: Sequence[Call]) -> Iterator[Way]:
    """Yield the way of each restart after the end of a container."""
    for step in _until_starts(calls):
        functions = [call.function for call in step]
        if REAP in functions and END in functions and not set(DELIVERIES).intersection(functions):
            first = functions.index(END)
            read = max(index for index, function in enumerate(functions[:first]) if function == READ)
            yield _way(step[read:])


def read_calls(path: Path) -> list[Call]:
    """Return the calls that a process recorded."""
    lines = (line.split("\t") for line in path.read_text(encoding="utf-8").split("\n"))
    return [Call(task, module, function, tuple(stack)) for task, module, function, *stack in lines]


def _until_starts(calls: Sequence[Call]) -> Iterator[Sequence[Call]]:
    """Yield the calls up to each request of a start, that included. A request that continues is no other request."""
    begun, requested = 0, False
    for index, call in enumerate(calls):
        if call.function == START and call.stack and not requested:
            yield calls[begun : index + 1]
            begun, requested = index + 1, True
        elif call.function == "plan":
            requested = False


def _way(calls: Sequence[Call]) -> Way:
    tasks = {"", *(call.task for call in calls if call.stack)}
    return Way(
        frozenset(call.module for call in calls if call.task in tasks),
        frozenset(module for call in calls for module in call.stack),
    )


def main() -> None:
    """Trace the module from its first line to the end of the process."""
    path, module, *arguments = sys.argv[1:]
    names: dict[CodeType, tuple[str, str]] = {}
    calls: list[str] = []

    def name_of(code: CodeType) -> tuple[str, str]:
        """Return the module and the function; empty words for code that is not the project's."""
        name = names.get(code)
        if name is None:
            file = Path(code.co_filename)
            ours = file.is_relative_to(_ROOT) and file.relative_to(_ROOT).parts[0] in ("libs", "services")
            where = file.relative_to(_ROOT).with_suffix("").as_posix() if ours else ""
            name = names[code] = (where, code.co_qualname if ours else "")
        return name

    def stack_of(frame: FrameType | None) -> Iterator[str]:
        # Below the event loop is only what started the process.
        while frame is not None and frame.f_globals.get("__name__") != "asyncio.events":
            where, _ = name_of(frame.f_code)
            if where:
                yield where
            frame = frame.f_back

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            where, function = name_of(frame.f_code)
            if where:
                stack = stack_of(frame) if function in MARKS else ()
                calls.append("\t".join((task_name(), where, function, *dict.fromkeys(stack))))

    def task_name() -> str:
        try:
            task = asyncio.current_task()
        except RuntimeError:
            thread = threading.current_thread().name
            return thread if thread.startswith(POLLS) else ""
        return task.get_name() if task is not None else ""

    sys.argv = [module, *arguments]
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.setprofile(None)
        Path(path).write_text("\n".join(calls), encoding="utf-8")


if __name__ == "__main__":
    main()
