"""The parameters of a request: their valid values, and the errors for invalid ones."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

_AGO = re.compile(
    r"(?:(?P<days>\d{1,6})d)?(?:(?P<hours>\d{1,8})h)?(?:(?P<minutes>\d{1,9})m)?(?:(?P<seconds>\d{1,10})s)?", re.ASCII
)
MAX_TEXT = 8000
_TRUE, _FALSE = ("true", "1"), ("false", "0")


class BadParameter(Exception):
    """A parameter of a request is invalid. The message names it."""

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(f"the parameter {name!r} must be {expected}")


@dataclass(frozen=True)
class Parameter:
    """One parameter in the query string.

    Attributes:
        read: converts the text into the value; raises ValueError.
        expected: the valid texts, as a continuation of "must be".
        schema: the same as JSON schema.
    """

    name: str
    description: str
    read: Callable[[str], object]
    expected: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    default: object = None

    def value(self, text: str | None) -> object:
        """Return the value, or the default without a text. Raises BadParameter."""
        if text is None:
            return self.default
        try:
            return self.read(text)
        except ValueError:
            raise BadParameter(self.name, self.expected) from None


def values_of(parameters: Sequence[Parameter], query: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of all *parameters* by name.

    Raises:
        BadParameter: a value is invalid or a name is unknown.
    """
    known = {parameter.name for parameter in parameters}
    for name in query:
        if name not in known:
            raise BadParameter(name[:100], f"one of: {', '.join(sorted(known)) or 'no parameters'}")
    return {parameter.name: parameter.value(query.get(parameter.name)) for parameter in parameters}


def whole(name: str, description: str, *, least: int, most: int, default: int | None = None) -> Parameter:
    """A whole number within bounds."""

    def read(text: str) -> int:
        if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 20:
            raise ValueError(text)
        number = int(text)
        if not least <= number <= most:
            raise ValueError(number)
        return number

    schema: dict[str, Any] = {"type": "integer", "minimum": least, "maximum": most}
    if default is not None:
        schema["default"] = default
    return Parameter(name, description, read, f"a whole number from {least} to {most}", schema, default)


def text(name: str, description: str) -> Parameter:
    """A non-empty string."""

    def read(given: str) -> str:
        if not given or len(given) > MAX_TEXT:
            raise ValueError(given)
        return given

    schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
    return Parameter(name, description, read, f"a string of 1 to {MAX_TEXT} characters", schema)


def flag(name: str, description: str) -> Parameter:
    """true or false; false when missing."""

    def read(given: str) -> bool:
        if given.lower() not in _TRUE + _FALSE:
            raise ValueError(given)
        return given.lower() in _TRUE

    return Parameter(name, description, read, "true or false", {"type": "boolean", "default": False}, False)


def choice(name: str, description: str, choices: Sequence[str]) -> Parameter:
    """One of the given words."""

    def read(given: str) -> str:
        if given not in choices:
            raise ValueError(given)
        return given

    return Parameter(
        name, description, read, f"one of: {', '.join(choices)}", {"type": "string", "enum": list(choices)}
    )


def matching(name: str, description: str, pattern: str) -> Parameter:
    """A string that matches *pattern* as a whole."""

    def read(given: str) -> str:
        if len(given) > MAX_TEXT or re.fullmatch(pattern, given, re.ASCII) is None:
            raise ValueError(given)
        return given

    return Parameter(
        name, description, read, f"a string that matches {pattern}", {"type": "string", "pattern": f"^{pattern}$"}
    )


def instant(name: str, description: str) -> Parameter:
    """A time in RFC 3339 with its zone, or an age."""

    def read(given: str) -> datetime:
        return instant_of(given.replace(" ", "+"), datetime.now(UTC))

    expected = "a time with its zone, such as 2026-01-31T12:00:00Z, or an age, such as 90s, 10m, 2h or 1d"
    return Parameter(name, description, read, expected, {"type": "string"})


def instant_of(given: str, now: datetime) -> datetime:
    """Return the time in *given*: RFC 3339 with its zone, or an age before *now* such as ``1h30m``.

    Raises:
        ValueError: it is neither.
    """
    found = _AGO.fullmatch(given)
    if found is not None and given:
        amounts = {unit: int(number or 0) for unit, number in found.groupdict().items()}
        try:
            return now - timedelta(**amounts)
        except OverflowError:
            raise ValueError(given) from None
    moment = datetime.fromisoformat(given)
    if moment.tzinfo is None:
        raise ValueError(given)
    return moment.astimezone(UTC)


def moment(name: str, description: str) -> Parameter:
    """A time in RFC 3339 with its zone."""

    def read(given: str) -> datetime:
        # A plus sign that was not encoded arrives as a space.
        found = datetime.fromisoformat(given.replace(" ", "+"))
        if found.tzinfo is None:
            raise ValueError(given)
        return found.astimezone(UTC)

    expected = "a time with its zone, such as 2026-01-31T12:00:00Z"
    return Parameter(name, description, read, expected, {"type": "string", "format": "date-time"})
