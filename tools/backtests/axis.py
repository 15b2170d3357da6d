"""Parse one parameter of a sweep: `KEY=START:STOP:STEP` or `KEY=VALUE,VALUE,...`. Pure.

A range includes its ends and is computed exactly: `0.1:0.3:0.1` is 0.1, 0.2, 0.3. Values are JSON, or else text.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tools.bots.config_edit import ConfigEditInvalid, assignment_parts, value_of

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_MOST_DIGITS = 40
_LARGEST_INTEGER = 2**63 - 1
_JSON_BEGINS = ("{", "[", '"')
_REMEDY = "write KEY=START:STOP:STEP such as fast=5:30:5, or KEY=VALUE,VALUE such as slow=20,50,100"


@dataclass(frozen=True)
class Axis:
    """One parameter, whose key leads into objects by dots, with its values in the given order."""

    key: str
    values: Sequence[Any]


def axis(text: str, most: int) -> Axis:
    """Return the parameter that *text* describes.

    Args:
        most: the limit on values; a range beyond it is rejected before it is computed.

    Raises:
        ConfigEditInvalid: the syntax is invalid, or there are too many values; with the remedy.
    """
    key, written = assignment_parts(text)
    pieces = _pieces(key, written)
    if len(pieces) == 1 and ":" in written and not written.lstrip().startswith(_JSON_BEGINS):
        values: Sequence[Any] = _range(key, written, most)
    else:
        values = [_listed(key, piece) for piece in pieces]
    _check_count(key, len(values), most)
    _check_distinct(key, values)
    return Axis(key, values)


def _pieces(key: str, written: str) -> list[str]:
    """Split at the commas that are not within a JSON value."""
    pieces, position, decoder = [], 0, json.JSONDecoder()
    while True:
        start = position + len(written[position:]) - len(written[position:].lstrip())
        if written.startswith(_JSON_BEGINS, start):
            try:
                _, end = decoder.raw_decode(written, start)
            except (ValueError, RecursionError):
                raise ConfigEditInvalid(
                    f"a value of {key!r} looks like JSON but is invalid: {written[start:]!r}"
                ) from None
        else:
            comma = written.find(",", start)
            end = len(written) if comma < 0 else comma
        rest = written[end:].lstrip()
        if rest and not rest.startswith(","):
            raise ConfigEditInvalid(f"after a value of {key!r} a comma is missing, before {rest!r}")
        pieces.append(written[position:end].strip())
        if not rest:
            break
        position = len(written) - len(rest) + 1
    if not all(pieces):
        raise ConfigEditInvalid(f"{key!r} has an empty value; {_REMEDY}; an empty text is '\"\"'")
    return pieces


def _listed(key: str, piece: str) -> Any:
    if piece.count(":") == 2 and all(_NUMBER.fullmatch(part.strip()) for part in piece.split(":")):
        raise ConfigEditInvalid(
            f"{key!r} has the range {piece!r} within a list; sweep either one range or single values, and put text "
            f"into quotes: '\"{piece}\"'"
        )
    return value_of(key, piece)


def _range(key: str, written: str, most: int) -> list[int | float]:
    parts = [part.strip() for part in written.split(":")]
    if len(parts) != 3 or not all(_NUMBER.fullmatch(part) for part in parts):
        raise ConfigEditInvalid(
            f"{key!r} is swept over {written!r}, which is no range of numbers; {_REMEDY}; text with colons needs "
            f"quotes: '\"{written}\"'"
        )
    if any(len(part) > _MOST_DIGITS for part in parts):
        raise ConfigEditInvalid(f"the range of {key!r} has a number of more than {_MOST_DIGITS} characters; shorten it")
    start, stop, step = map(Fraction, parts)
    if step == 0:
        raise ConfigEditInvalid(f"the range {written!r} of {key!r} has the step 0; write a step such as 1")
    if (stop - start) / step < 0:
        raise ConfigEditInvalid(
            f"the range {written!r} of {key!r} is empty: from {parts[0]} it never reaches {parts[1]} by {parts[2]}; "
            f"{'give a negative step' if step > 0 else 'give a positive step'}, or exchange its ends"
        )
    count = math.floor((stop - start) / step) + 1
    _check_count(key, count, most)
    exact = [start + step * number for number in range(count)]
    if all(re.fullmatch(r"[+-]?\d+", part) for part in (parts[0], parts[2])):
        return [_integer(key, value) for value in exact]
    return [_decimal(key, value) for value in exact]


def _integer(key: str, value: Fraction) -> int:
    if abs(value) > _LARGEST_INTEGER:
        raise ConfigEditInvalid(f"the range of {key!r} has numbers beyond 64 bits; use smaller ones")
    return int(value)


def _decimal(key: str, value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ConfigEditInvalid(f"the range of {key!r} has numbers beyond 1e308; use smaller ones") from None


def _check_count(key: str, count: int, most: int) -> None:
    if count > most:
        raise ConfigEditInvalid(
            f"{key!r} has {_grouped(count)} values, and a sweep at most {most:,} backtests; use a larger step or fewer "
            f"values, or raise --most"
        )


def _check_distinct(key: str, values: Sequence[Any]) -> None:
    seen: set[str] = set()
    for value in values:
        text = json.dumps(value, sort_keys=True)
        if text in seen:
            raise ConfigEditInvalid(f"{key!r} has the value {text} twice; give each once")
        seen.add(text)


def _grouped(count: int) -> str:
    return f"{count:,}" if count < 10**15 else "more than 10^15"
