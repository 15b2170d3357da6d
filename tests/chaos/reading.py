"""Read what the observer writes, as it grows: the copies with their ticks, and how slow the machine was."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.timeline import Copy, Slowness


class Observations:
    """What the observer has written into the file *path* so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._heads: dict[str, Mapping[str, Any]] = {}
        self._ticks: dict[str, list[float]] = defaultdict(list)
        self._counts: dict[str, list[int]] = defaultdict(list)
        self._slowness: list[Slowness] = []
        self._latest: dict[str, float] = {}
        self._numbers: dict[str, int] = {}

    def read(self) -> None:
        """Read the new lines; the last one may be unfinished."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        self.add(complete.decode().splitlines())

    def add(self, lines: Iterable[str]) -> None:
        """Add complete lines."""
        for line in lines:
            record = json.loads(line)
            if "slowness" in record:
                self._slowness.append(Slowness(record["at"], record["slowness"]))
                continue
            container, ticks = record["container"], record.get("ticks", ())
            if "entity" in record:
                self._heads[container] = record
            self._ticks[container] += ticks
            self._counts[container] += record.get("counts", ())
            if ticks and container in self._heads:
                entity_id, number = self._heads[container]["entity"], self._heads[container]["number"]
                self._latest[entity_id] = max(self._latest.get(entity_id, 0.0), *ticks)
                self._numbers[entity_id] = max(self._numbers.get(entity_id, 0), number)

    @property
    def latest_ticks(self) -> Mapping[str, float]:
        """The latest tick of each entity."""
        return self._latest

    @property
    def latest_numbers(self) -> Mapping[str, int]:
        """The latest version of each entity that has ticked."""
        return self._numbers

    @property
    def copies(self) -> tuple[Copy, ...]:
        """All copies that ticked at least once."""
        return tuple(self._copy(container) for container in self._heads if self._ticks[container])

    @property
    def slowness(self) -> tuple[Slowness, ...]:
        """How slow the machine was, in order of time."""
        return tuple(self._slowness)

    def _copy(self, container: str) -> Copy:
        head = self._heads[container]
        return Copy(
            head["entity"],
            container,
            head["engine"],
            tuple(self._ticks[container]),
            head["number"],
            head.get("count"),
            tuple(self._counts[container]),
        )
