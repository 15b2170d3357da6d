"""The fields of a cron expression, each parsed into a set of numbers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from services.bot_scheduler.cron_errors import CronInvalid

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
LAST_DAY = "l"

_NUMBER = re.compile(r"\d{1,4}", re.ASCII)
_REMEDY = "write *, a number, a range 1-5, a list 1,15 or a step */10"


@dataclass(frozen=True)
class Kind:
    """The kind of a field: its name and valid values.

    Attributes:
        highest: the highest valid number; for a weekday also 7, which is Sunday.
        names: lower-case names of numbers.
    """

    name: str
    lowest: int
    highest: int
    names: Mapping[str, int]


SECOND = Kind("second", 0, 59, {})
MINUTE = Kind("minute", 0, 59, {})
HOUR = Kind("hour", 0, 23, {})
DAY_OF_MONTH = Kind("day of month", 1, 31, {})
MONTH = Kind("month", 1, 12, {name: number for number, name in enumerate(MONTHS, start=1)})
DAY_OF_WEEK = Kind("day of week", 0, 7, {name: number for number, name in enumerate(WEEKDAYS)})
KINDS = (SECOND, MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)


@dataclass(frozen=True)
class Field:
    """One parsed field.

    Attributes:
        values: the numbers, ascending; Sunday is 0.
        unrestricted: written as ``*``, ``?`` or ``*/1``.
        starred: it begins with ``*``, which means "every" instead of particular times.
        last_day: the last day of the month is among the days (``L``).
    """

    kind: Kind
    values: tuple[int, ...]
    unrestricted: bool
    starred: bool
    last_day: bool = False

    @property
    def complete(self) -> bool:
        """Whether it contains every possible value, however it was written."""
        size = 7 if self.kind is DAY_OF_WEEK else self.kind.highest - self.kind.lowest + 1
        return len(self.values) == size

    def to_text(self) -> str:
        """The field in plain numbers, as every cron library accepts it."""
        if self.unrestricted or self.complete:
            return "*"
        return ",".join([*map(str, self.values), *([LAST_DAY] if self.last_day else [])])


def read_field(kind: Kind, text: str, expression: str) -> Field:
    """Parse one field; *expression* is quoted in errors.

    Raises:
        CronInvalid: a value out of range, an unknown word, or no field at all.
    """
    values: set[int] = set()
    last_day = unrestricted = False
    for part in text.lower().split(","):
        if part == LAST_DAY and kind is DAY_OF_MONTH:
            last_day = True
            continue
        first, last, step = _range(kind, part, expression)
        values.update(range(first, last + 1, step))
        unrestricted |= step == 1 and part[0] in "*?"
    if kind is DAY_OF_WEEK:
        values = {value % 7 for value in values}
    starred = text[0] in "*?"
    return Field(kind, tuple(sorted(values)), unrestricted, starred, last_day)


def _range(kind: Kind, part: str, expression: str) -> tuple[int, int, int]:
    """Return first, last and step of one part between commas."""
    span, slash, step_text = part.partition("/")
    step = _step(kind, step_text, part, expression) if slash else 1
    # "Every" ends with Saturday: 7 would be Sunday again, and break the step.
    highest = 6 if kind is DAY_OF_WEEK else kind.highest
    if span in ("*", "?"):
        return kind.lowest, highest, step
    first_text, dash, last_text = span.partition("-")
    first = _value(kind, first_text, part, expression)
    if dash:
        last = _value(kind, last_text, part, expression)
        # "fri-sun" and "6-0" end on the following Sunday.
        last = 7 if kind is DAY_OF_WEEK and last == 0 < first else last
    else:
        last = max(first, highest) if slash else first
    if first > last:
        wrapped = f"{first_text}-{highest},{kind.lowest}-{last_text}"
        raise CronInvalid(expression, kind.name, f"range {part!r} goes backwards", f"write {wrapped}")
    return first, last, step


def _step(kind: Kind, text: str, part: str, expression: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) == 0:
        raise CronInvalid(
            expression, kind.name, f"step in {part!r} must be a number above 0", "write a step such as */10"
        )
    return int(text)


def _value(kind: Kind, text: str, part: str, expression: str) -> int:
    if text in kind.names:
        return kind.names[text]
    if not _NUMBER.fullmatch(text):
        words = f", or {'/'.join(list(kind.names)[:3])}/…" if kind.names else ""
        raise CronInvalid(expression, kind.name, f"{part or 'an empty part'!r} is invalid", _REMEDY + words)
    if not kind.lowest <= int(text) <= kind.highest:
        allowed = f"{kind.lowest} to {kind.highest}"
        raise CronInvalid(expression, kind.name, f"{text} is out of range", f"the range is {allowed}")
    return int(text)
