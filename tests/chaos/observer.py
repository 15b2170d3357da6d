"""The observer: a process of its own that records the ticks of all containers of private engines.

    python -m tests.chaos.observer OUTPUT NAME=FOLDER...

It trusts nothing of the system under test, and needs neither the engine's nor a worker's answer: containerd's folder
names the first process of each container, and the ticks are in a file in that process's file system, which stays
readable through the open file after the container's end. Each line of OUTPUT is a JSON object: `container`, new
`ticks` with their `counts`, if the bot has any, and once for each container `entity`, `engine`, `number` and perhaps
`count`. Others have `slowness` and `at`: how many times
longer than planned a small piece of the observer's own work took, since the processors were busy with others.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.bots import TICKS

_TASKS = "run/io.containerd.runtime.v2.task/moby"
_POLL_SECONDS = 0.025
_READ_SECONDS = 0.2
_PROBE_EVERY_SECONDS = 0.5
_PROBE_SECONDS = 0.01
_MOST_SLOWNESS = 15.0
_MOST_BYTES = 1 << 20


@dataclass
class _Watched:
    """A container whose ticks are read."""

    container_id: str
    engine: str
    process: int
    file: int
    rest: bytes = b""
    is_named: bool = False

    def read(self) -> tuple[dict[str, Any] | None, list[list[bytes]]]:
        """Return the header, if it is new, and the words of the new ticks."""
        *lines, self.rest = (self.rest + os.read(self.file, _MOST_BYTES)).split(b"\n")
        head = None
        if lines and not self.is_named:
            head, self.is_named = json.loads(lines.pop(0)), True
        return head, [line.split() for line in lines]

    @property
    def is_alive(self) -> bool:
        """Whether the container's first process exists."""
        return Path(f"/proc/{self.process}/root").is_symlink()


class Observer:
    """Finds containers in the folders of *engines*, and appends the ticks in their file *ticks* to *output*."""

    def __init__(self, output: Path, engines: dict[str, Path], ticks: str = TICKS) -> None:
        self._output = output.open("a", buffering=1)
        self._engines = engines
        self._ticks = ticks
        self._watched: dict[str, _Watched] = {}
        self._ended: set[str] = set()
        self._read_at = 0.0
        self._probe_at = time.monotonic()

    def look(self) -> None:
        """Open the ticks of new containers, and read those of the others."""
        for engine, folder in self._engines.items():
            for container_id in _listed(folder / _TASKS):
                if container_id not in self._watched and container_id not in self._ended:
                    self._open(container_id, engine, folder / _TASKS / container_id / "init.pid")
        if time.monotonic() >= self._read_at:
            self._read_at = time.monotonic() + _READ_SECONDS
            self.read()
        if time.monotonic() >= self._probe_at + _PROBE_EVERY_SECONDS:
            self._probe_at = time.monotonic()
            self._output.write(json.dumps({"at": self._probe_at, "slowness": round(_slowness(), 2)}) + "\n")

    def read(self) -> None:
        """Write the new ticks of all containers."""
        for container_id, watched in list(self._watched.items()):
            # Read after this was found out: no tick follows the end.
            is_alive = watched.is_alive
            head, ticks = watched.read()
            line: dict[str, Any] = {"container": container_id, "ticks": [float(words[0]) for words in ticks]}
            if counts := [int(words[1]) for words in ticks if len(words) > 1]:
                line["counts"] = counts
            if head is not None:
                line |= {**head, "entity": head["id"], "engine": watched.engine}
            if ticks or head is not None:
                self._output.write(json.dumps(line) + "\n")
            if not is_alive:
                os.close(watched.file)
                self._ended.add(container_id)
                del self._watched[container_id]

    def close(self) -> None:
        """Record what is left, and close all files."""
        self.read()
        for watched in self._watched.values():
            os.close(watched.file)
        self._watched.clear()
        self._output.close()

    def _open(self, container_id: str, engine: str, pid_file: Path) -> None:
        try:
            process = int(pid_file.read_text())
            file = os.open(f"/proc/{process}/root{self._ticks}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, ValueError):  # it does not tick yet, or has ended
            return
        self._watched[container_id] = _Watched(container_id, engine, process, file)


def _slowness() -> float:
    """Work for a moment, and return how many times longer it took than it should have."""
    began, used = time.monotonic(), time.thread_time()
    time.sleep(_POLL_SECONDS)
    while time.thread_time() - used < _PROBE_SECONDS:
        pass
    return min(_MOST_SLOWNESS, max(1.0, (time.monotonic() - began - _POLL_SECONDS) / _PROBE_SECONDS))


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # before the engine's first container
        return []


def main(arguments: list[str]) -> None:
    """Observe until SIGTERM."""
    output, *engines = arguments
    observer = Observer(
        Path(output), {name: Path(folder) for name, _, folder in (one.partition("=") for one in engines)}
    )
    asked_to_end: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_end.append(number))
    while not asked_to_end:
        observer.look()
        time.sleep(_POLL_SECONDS)
    observer.close()


if __name__ == "__main__":
    main(sys.argv[1:])
