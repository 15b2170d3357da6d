"""Select expired logs from a listing in key order. Pure."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from libs.core.storage.object_store import ObjectInfo
from libs.docker_runner.logs.keys import folder_and_day


@dataclass(frozen=True)
class LogRules:
    """The retention of logs.

    Attributes:
        written_before: logs last written before that expire; None for no limit.
        most_days: number of newest days with output that are kept of each id; 0 for no limit.
        quiet_since: logs written since then are kept regardless of their day: more output may arrive.
    """

    written_before: datetime | None
    most_days: int
    quiet_since: datetime


@dataclass
class LogDays:
    """Processes the logs of all ids in key order; its memory holds only the kept days."""

    rules: LogRules
    _open: list["_Folder"] = field(default_factory=list)

    def expired(self, info: ObjectInfo) -> Iterator[ObjectInfo]:
        """Return the logs that are known to be expired after *info*: this log itself, or older ones of the same id."""
        place = folder_and_day(info.key)
        if place is None:
            return
        if self.rules.written_before is not None and info.modified_at < self.rules.written_before:
            yield info
        elif self.rules.most_days:
            folder, day = place
            yield from (log for log in self._folder(folder).add(day, info, self.rules.most_days) if self._is_quiet(log))

    def _folder(self, name: str) -> "_Folder":
        # Ids may contain slashes: the days of `a` come before, between and after those of `a/b`.
        while self._open and not name.startswith(self._open[-1].name):
            self._open.pop()
        if not self._open or self._open[-1].name != name:
            self._open.append(_Folder(name))
        return self._open[-1]

    def _is_quiet(self, info: ObjectInfo) -> bool:
        return info.modified_at < self.rules.quiet_since


@dataclass
class _Folder:
    name: str
    days: deque[tuple[str, list[ObjectInfo]]] = field(default_factory=deque)

    def add(self, day: str, info: ObjectInfo, most: int) -> list[ObjectInfo]:
        """Add a log; return those of a day that is no longer among the newest."""
        if self.days and self.days[-1][0] == day:
            self.days[-1][1].append(info)
            return []
        self.days.append((day, [info]))
        return self.days.popleft()[1] if len(self.days) > most else []
