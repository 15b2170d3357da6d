"""Times as producers write them: RFC 3339, with any number of fraction digits and any offset."""

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

NANOSECONDS = 1_000_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?\s?(?:([Zz])|([+-])(\d\d):?(\d\d))?", re.ASCII
)
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class WrittenTime:
    """An instant in nanoseconds since 1970, with the precision of its text."""

    nanoseconds: int
    precision_nanoseconds: int


def nanoseconds_of(moment: datetime) -> int:
    """Return the nanoseconds since 1970 of an aware *moment*."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def parse_rfc3339(text: str) -> WrittenTime:
    """Parse *text*. A time without an offset is UTC; digits beyond nanoseconds are cut off.

    Raises:
        ValueError: it is not such a time.
    """
    match = _RFC3339.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time such as 2025-01-31T12:00:00Z")
    year, month, day, hour, minute, second = (int(part) for part in match.group(1, 2, 3, 4, 5, 6))
    fraction = match.group(7) or ""
    offset_seconds = _offset_seconds(*match.group(9, 10, 11))
    if not _exists(year, month, day) or hour > 23 or minute > 59 or second > 60:
        raise ValueError(f"{text!r} names a moment that does not exist")
    # A leap second (:60) counts as the first second of the next minute, as timegm does.
    seconds = calendar.timegm((year, month, day, hour, minute, second)) - offset_seconds
    nanoseconds = seconds * NANOSECONDS + int(fraction[:9].ljust(9, "0"))
    return WrittenTime(nanoseconds, 10 ** max(0, 9 - len(fraction)))


def _offset_seconds(sign: str | None, hours: str | None, minutes: str | None) -> int:
    if sign is None or hours is None or minutes is None:
        return 0
    seconds = int(hours) * 3600 + int(minutes) * 60
    return -seconds if sign == "-" else seconds


def _exists(year: int, month: int, day: int) -> bool:
    if year < 1 or not 1 <= month <= 12 or not 1 <= day <= _MONTH_DAYS[month - 1]:
        return False
    return not (month == 2 and day == 29 and not calendar.isleap(year))
