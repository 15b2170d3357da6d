"""Which logs are no longer kept, of a listing in the order of keys. Pure."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from libs.core.storage.object_store import ObjectInfo
from libs.docker_runner.logs.keys import folder_and_day


@dataclass(frozen=True)
class LogRules:
    """How long logs are kept.

    Attributes:
        written_before: logs that were last written before that go; None for none.
        most_days: of each id the newest days with output stay, that many; 0 for all.
        quiet_since: logs that were written since then stay whatever their day is: output may still come.
    """

    written_before: datetime | None
    most_days: int
    quiet_since: datetime


@dataclass
class LogDays:
    """Goes through the logs of all ids, in the order of keys, with no more in memory than the days that stay."""

    rules: LogRules
    _open: list["_Folder"] = field(default_factory=list)

    def expired(self, info: ObjectInfo) -> Iterator[ObjectInfo]:
        """What no longer is kept now that *info* is known: this log itself, or older ones of the same id."""
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
        """Note a log; return those of a day that no longer is among the newest."""
        if self.days and self.days[-1][0] == day:
            self.days[-1][1].append(info)
            return []
        self.days.append((day, [info]))
        return self.days.popleft()[1] if len(self.days) > most else []
