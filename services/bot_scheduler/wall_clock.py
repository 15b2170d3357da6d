"""Convert wall-clock times to instants where daylight saving skips or repeats times."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_DAY = 86_400
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a time on a wall clock, which has no zone


def offset_at(zone: ZoneInfo, instant: float) -> int:
    """Return the offset of *zone* from UTC in seconds at *instant* (Unix seconds)."""
    offset = datetime.fromtimestamp(instant, zone).utcoffset()
    return int((offset or timedelta()).total_seconds())


def wall_at(zone: ZoneInfo, instant: float) -> datetime:
    """Return the wall-clock time at *instant*."""
    return datetime.fromtimestamp(instant, zone).replace(tzinfo=None, fold=0)


def instants_of(zone: ZoneInfo, wall: datetime) -> list[int]:
    """Return the instants at which the wall clock shows *wall*: one, two where it is set back, none in a gap."""
    found = {_instant(wall, offset) for offset in _offsets(zone, wall)}
    return sorted(instant for instant in found if wall_at(zone, instant) == wall)


def fixed_instant(zone: ZoneInfo, wall: datetime) -> int:
    """Return the instant of *wall* for cron: the first of two, or the end of the gap that skips it."""
    found = instants_of(zone, wall)
    if found:
        return found[0]
    # In a gap both offsets are wrong, the one before it and the one after; the jump lies between them.
    early, late = sorted(_instant(wall, offset) for offset in _offsets(zone, wall))
    change = first_change(zone, early, late)
    return late if change is None else change


def first_change(zone: ZoneInfo, start: int, end: int) -> int | None:
    """Return the first instant after *start*, *end* included, with another offset than *start*; None without one.

    Two changes within a day that cancel out are not detected; no zone has such changes.
    """
    before = offset_at(zone, start)
    while start < end:
        step = min(start + _DAY, end)
        if offset_at(zone, step) != before:
            return _bisected(zone, start, step, before)
        start = step
    return None


def _bisected(zone: ZoneInfo, low: int, high: int, before: int) -> int:
    while high - low > 1:
        middle = (low + high) // 2
        if offset_at(zone, middle) == before:
            low = middle
        else:
            high = middle
    return high


def _offsets(zone: ZoneInfo, wall: datetime) -> tuple[int, int]:
    readings = (wall.replace(tzinfo=zone, fold=0), wall.replace(tzinfo=zone, fold=1))
    first, second = (int((reading.utcoffset() or timedelta()).total_seconds()) for reading in readings)
    return first, second


def _instant(wall: datetime, offset: int) -> int:
    return int(wall.replace(tzinfo=UTC).timestamp()) - offset
