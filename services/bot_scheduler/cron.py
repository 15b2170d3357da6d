"""Cron expressions: their syntax, and the times at which a schedule fires.

Five fields, six with seconds first, a descriptor (``@daily``, ``@every 1h30m``), each with an optional
``CRON_TZ=Europe/Berlin`` or ``TZ=…`` before it. ``@every`` of less than a second means one second.

Where day of month and day of week are both restricted, either matches; only ``*``, ``?`` and ``*/1`` leave a field
unrestricted.

Daylight saving is as in crontab(5): a firing whose time is skipped comes right after the gap, one whose time occurs
twice comes the first time. A schedule whose hour is ``*`` or ``*/n`` means elapsed time instead of particular times, so
it continues evenly through a change: nothing is made up for, and the repeated hour counts like any other.
"""

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from math import floor
from zoneinfo import ZoneInfo

from croniter import croniter

from services.bot_scheduler.cron_errors import CronInvalid
from services.bot_scheduler.cron_fields import KINDS, Field, read_field
from services.bot_scheduler.wall_clock import EPOCH, first_change, fixed_instant, instants_of, offset_at, wall_at

__all__ = ["Cron", "CronInvalid", "Every", "Schedule", "parse", "upcoming"]

_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY = "@every"
_UNITS = {
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
    "us": Fraction(1, 1_000_000),
    "µs": Fraction(1, 1_000_000),
    "ns": Fraction(1, 1_000_000_000),
}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|us|µs|ns|[hms])", re.ASCII)
_LONGEST_SECONDS = 10 * 366 * 86_400
_MAX_CHARACTERS = 1000
_FIELDS = "write five fields (minute hour day-of-month month day-of-week), or six with the second first"


@dataclass(frozen=True)
class Every:
    """Fires every *seconds*, counted from the previous firing."""

    expression: str
    zone: ZoneInfo
    seconds: int

    @property
    def meaning(self) -> tuple[object, ...]:
        """Equal for equivalent expressions."""
        return (_EVERY, self.seconds)

    def next_after(self, after: float, previous: int | None = None) -> int:
        """Return the first firing after *after*, in Unix seconds, in the rhythm of the firing at *previous*.

        Without *previous* the rhythm starts at *after*.
        """
        beat = floor(after) if previous is None else previous
        return beat + (floor((after - beat) / self.seconds) + 1) * self.seconds


@dataclass(frozen=True)
class Cron:
    """Fires when the wall clock of *zone* matches the fields."""

    expression: str
    zone: ZoneInfo
    fields: tuple[Field, ...]
    _wall_times: "croniter[datetime]" = field(repr=False, compare=False)

    @property
    def meaning(self) -> tuple[object, ...]:
        """Equal for equivalent expressions."""
        return (_plain_text(self.fields), self._elapsed, self.zone.key)

    def next_after(self, after: float, previous: int | None = None) -> int:
        """Return the first firing after *after*, in Unix seconds; *previous* is not used."""
        return self._next_elapsed(floor(after)) if self._elapsed else self._next_fixed(floor(after))

    @property
    def _elapsed(self) -> bool:
        hour = self.fields[2]
        return hour.starred or hour.complete

    def _next_fixed(self, after: int) -> int:
        wall = wall_at(self.zone, after)
        first = instants_of(self.zone, wall)[0]
        if first < after:
            # The clock was set back and shows this hour again. All its firings came the first time.
            change = first_change(self.zone, first, after)
            until = after if change is None else change
            wall = EPOCH + timedelta(seconds=until + offset_at(self.zone, first) - 1)
        instant = after
        while instant <= after:
            wall = self._next_wall(wall)
            instant = fixed_instant(self.zone, wall)
        return instant

    def _next_elapsed(self, after: int) -> int:
        """Yield each time the wall clock matches: the search restarts where the clock changes."""
        instant, wall = after, wall_at(self.zone, after)
        while True:
            candidate = _seconds(self._next_wall(wall)) - offset_at(self.zone, instant)
            change = first_change(self.zone, instant, candidate)
            if change is None:
                return candidate
            instant, wall = change, wall_at(self.zone, change) - timedelta(seconds=1)

    def _next_wall(self, wall: datetime) -> datetime:
        return self._wall_times.get_next(start_time=wall)


Schedule = Cron | Every


def upcoming(schedule: Schedule, after: float) -> Iterator[int]:
    """Yield the firings after *after*, in order, without end."""
    instant = schedule.next_after(after)
    while True:
        yield instant
        instant = schedule.next_after(instant, instant)


def parse(expression: object, timezone: object = None) -> Schedule:
    """Parse `config.schedule`; *timezone* is `config.timezone`, which a prefix in the expression overrides.

    Raises:
        CronInvalid: it is malformed, or can never fire.
    """
    if not isinstance(expression, str) or not expression.strip():
        raise CronInvalid(
            "" if expression is None else repr(expression),
            "config.schedule",
            "is missing" if expression is None else "must be a non-empty string",
            'write a cron expression such as "0 9 * * MON-FRI"',
        )
    if len(expression) > _MAX_CHARACTERS:
        raise CronInvalid(expression, "config.schedule", "is too long", f"at most {_MAX_CHARACTERS} characters")
    if timezone is not None and not isinstance(timezone, str):
        raise _unknown_zone(expression, timezone)
    return _parsed(expression, timezone or "UTC")


@lru_cache(maxsize=4096)
def _parsed(expression: str, timezone: str) -> Schedule:
    words = expression.split()
    zone = _zone(expression, timezone)
    if (prefix := re.fullmatch(r"(?:CRON_)?TZ=(.*)", words[0])) is not None:
        zone = _zone(expression, prefix.group(1))
        words = words[1:]
    if words and words[0].lower() == _EVERY:
        return Every(expression, zone, _every(expression, "".join(words[1:])))
    if len(words) == 1 and words[0].startswith("@"):
        words = _described(expression, words[0].lower()).split()
    return _cron(expression, zone, words)


def _cron(expression: str, zone: ZoneInfo, words: list[str]) -> Cron:
    given = len(words)
    if given == 5:
        words = ["0", *words]
    if len(words) != 6:
        raise CronInvalid(expression, "number of fields", f"is {given}", _FIELDS)
    try:
        fields = tuple(read_field(kind, word, expression) for kind, word in zip(KINDS, words, strict=True))
    except CronInvalid as error:
        if given == 5:
            raise
        # Other programs have the seconds at the end.
        remedy = f"{error.remedy}; the first of six fields is the second"
        raise CronInvalid(expression, error.field, error.reason, remedy) from None
    _check_it_fires(expression, fields)
    wall_times = croniter(_plain_text(fields), EPOCH, ret_type=datetime, second_at_beginning=True)
    return Cron(expression, zone, fields, wall_times)


def _plain_text(fields: tuple[Field, ...]) -> str:
    day, weekday = fields[3], fields[5]
    texts = [part.to_text() for part in fields]
    # Either matches: if one of them contains every day, the other one restricts nothing.
    if not day.unrestricted and not weekday.unrestricted and (day.complete or weekday.complete):
        texts[3] = texts[5] = "*"
    return " ".join(texts)


def _check_it_fires(expression: str, fields: tuple[Field, ...]) -> None:
    day, month, weekday = fields[3:]
    if not weekday.unrestricted or day.last_day:
        return
    longest = max(calendar.monthrange(2024, number)[1] for number in month.values)
    if min(day.values) > longest:
        reason = f"{min(day.values)} does not exist in the given months"
        raise CronInvalid(expression, day.kind.name, reason, "write L for the last day of the month")


def _described(expression: str, descriptor: str) -> str:
    if descriptor not in _DESCRIPTORS:
        known = ", ".join([*_DESCRIPTORS, f"{_EVERY} 1h30m"])
        raise CronInvalid(expression, "descriptor", f"{descriptor!r} is unknown", f"known are {known}")
    return _DESCRIPTORS[descriptor]


def _every(expression: str, duration: str) -> int:
    remedy = "write hours, minutes and seconds such as 90s, 5m or 1h30m"
    parts = _DURATION.findall(duration)
    if not duration or "".join(number + unit for number, unit in parts) != duration:
        raise CronInvalid(expression, "duration", f"{duration!r} is invalid", remedy)
    seconds = sum(Fraction(number) * _UNITS[unit] for number, unit in parts)
    if seconds < 1:
        return 1
    if seconds != int(seconds):
        raise CronInvalid(expression, "duration", "must be whole seconds", remedy)
    if seconds > _LONGEST_SECONDS:
        raise CronInvalid(expression, "duration", "is more than ten years", remedy)
    return int(seconds)


def _zone(expression: str, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        # Unknown, malformed, or the name of a folder of zones: the same error for the user.
        raise _unknown_zone(expression, name) from None


def _unknown_zone(expression: str, name: object) -> CronInvalid:
    return CronInvalid(expression, "time zone", f"{name!r} is unknown", "write an IANA name such as Europe/Berlin")


def _seconds(wall: datetime) -> int:
    return (wall - EPOCH) // timedelta(seconds=1)
