"""Reduce curves to the resolution of a screen. Pure."""

from collections.abc import Sequence

_MOST_POINTS = 2000


def kept_points(ys: Sequence[float | None]) -> list[int]:
    """Return the indexes of the points to keep: all of a short curve, else lows and highs, so that no peak is lost."""
    if len(ys) <= _MOST_POINTS:
        return list(range(len(ys)))
    size = 2 * len(ys) // _MOST_POINTS + 1
    kept: set[int] = {0, len(ys) - 1}
    for start in range(0, len(ys), size):
        known = [(y, start + i) for i, y in enumerate(ys[start : start + size]) if y is not None]
        kept |= {min(known)[1], max(known)[1]} if known else {start}
    return sorted(kept)
