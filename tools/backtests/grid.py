"""The backtests of a sweep: the product of its parameters, each with a readable id. Pure."""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.backtests.axis import Axis, axis
from tools.bots.config_edit import ConfigEditInvalid, masked, with_values

_UNREADABLE = re.compile(r"[^A-Za-z0-9._+-]+")
_MOST_VALUE_CHARACTERS = 24
_MOST_ID_CHARACTERS = 160


@dataclass(frozen=True)
class Point:
    """One backtest of a sweep.

    Attributes:
        parameters: its values by key; shown, so secrets are masked.
        config: its whole config.
    """

    backtest_id: str
    parameters: Mapping[str, Any]
    config: Mapping[str, Any]


def axes(texts: Sequence[str], set_keys: Iterable[str], most: int) -> list[Axis]:
    """Return the parameters that the texts of `--sweep` describe.

    Args:
        set_keys: keys with one value, by `--set`.
        most: the limit on backtests.

    Raises:
        ConfigEditInvalid: one is invalid, two overlap, or their product is beyond *most*; with the remedy.
    """
    found = [axis(text, most) for text in texts]
    keys = [one.key for one in found]
    for index, key in enumerate(keys):
        for other in (*keys[:index], *set_keys):
            if key == other:
                raise ConfigEditInvalid(f"{key!r} is given twice; give it once, by --sweep or by --set")
            if f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}."):
                raise ConfigEditInvalid(f"{key!r} and {other!r} overlap, since one contains the other; give only one")
    count = math.prod(len(one.values) for one in found)
    if count > most:
        sizes = " x ".join(str(len(one.values)) for one in found)
        raise ConfigEditInvalid(
            f"this sweep has {count:,} backtests ({sizes}), and the limit is {most:,}; use larger steps or fewer "
            f"values, or raise --most"
        )
    return found


def points(base_id: str, config: Mapping[str, Any], swept: Sequence[Axis]) -> list[Point]:
    """Return the backtests of the product, the last parameter changing fastest.

    Raises:
        ConfigEditInvalid: a key leads through a value of *config* that is not an object.
    """
    labels = _labels([one.key for one in swept])
    found, ids = [], set[str]()
    for number, values in enumerate(itertools.product(*(one.values for one in swept)), start=1):
        chosen = [(one.key, value) for one, value in zip(swept, values, strict=True)]
        parts = [f"{label}={_readable(one, value)}" for label, one, value in zip(labels, swept, values, strict=True)]
        backtest_id = "-".join((base_id, *parts))
        if backtest_id in ids or len(backtest_id) > _MOST_ID_CHARACTERS:
            backtest_id = f"{base_id}-{number}"
        ids.add(backtest_id)
        shown = {key: masked(value, key) for key, value in chosen}
        found.append(Point(backtest_id, shown, with_values(config, chosen)))
    return found


def _labels(keys: Sequence[str]) -> list[str]:
    """Return the last part of each key, or all of it where that is ambiguous."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    names = [short if last.count(short) == 1 else key for short, key in zip(last, keys, strict=True)]
    return [_UNREADABLE.sub("_", name)[:_MOST_VALUE_CHARACTERS] for name in names]


def _readable(one: Axis, value: Any) -> str:
    """Return *value* as a part of an id; its position among the values if it is secret or not readable."""
    text = value if isinstance(value, str) else json.dumps(value)
    readable = _UNREADABLE.sub("_", text).strip("_")
    is_secret = masked(value, one.key) != value
    if is_secret or not readable or len(readable) > _MOST_VALUE_CHARACTERS:
        return f"no{one.values.index(value) + 1}"
    return readable
