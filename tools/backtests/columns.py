"""The columns that `backtest ls --columns` adds: metrics of results and parameters of configs. Pure."""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

_REMOVED = str.maketrans("", "", "_- ")


def value_in(name: str, *sources: Mapping[str, Any]) -> Any:
    """Return the value of *name* in the first of *sources* that has it; None without one.

    A name is equal regardless of case, and of `_`, `-` and spaces.
    """
    for source in sources:
        if name in source:
            return source[name]
    wanted = _plain(name)
    for source in sources:
        for key, value in source.items():
            if _plain(key) == wanted:
                return value
    return None


def similar(name: str, known: Collection[str]) -> list[str]:
    """Return at most three of the *known* names that *name* may mean: those that contain it, then misspelt ones."""
    plain = {_plain(one): one for one in sorted(known)}
    wanted = _plain(name)
    close = [one for one in plain if wanted and wanted in one] + difflib.get_close_matches(wanted, plain)
    return [plain[one] for one in dict.fromkeys(close)][:3]


def ordered(rows: Sequence[dict[str, Any]], values: Sequence[Any], *, lowest_first: bool) -> list[dict[str, Any]]:
    """Return *rows* by their *values*: numbers, the highest first, then text, then those without a value."""
    pairs = list(zip(rows, values, strict=True))
    numbers = [pair for pair in pairs if _is_number(pair[1])]
    texts = [pair for pair in pairs if isinstance(pair[1], str | datetime)]
    none = [row for row, value in pairs if not isinstance(value, str | datetime) and not _is_number(value)]
    numbers.sort(key=lambda pair: pair[1], reverse=not lowest_first)
    texts.sort(key=lambda pair: str(pair[1]), reverse=not lowest_first)
    return [row for row, _ in numbers + texts] + none


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _plain(name: str) -> str:
    return name.translate(_REMOVED).lower()
