"""The parameters of a request: what each may be, and a clear refusal of what it may not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

MAX_TEXT = 8000
_TRUE, _FALSE = ("true", "1"), ("false", "0")


class BadParameter(Exception):
    """A parameter of a request is not what it may be. The message names it."""

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(f"the parameter {name!r} must be {expected}")


@dataclass(frozen=True)
class Parameter:
    """One parameter in the query.

    Attributes:
        read: makes the value from the text; raises ValueError.
        expected: what the text must be, to go on from "must be".
        schema: the same for programs.
    """

    name: str
    description: str
    read: Callable[[str], object]
    expected: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    default: object = None

    def value(self, text: str | None) -> object:
        """The value; the default where there is no text. Raises BadParameter."""
        if text is None:
            return self.default
        try:
            return self.read(text)
        except ValueError:
            raise BadParameter(self.name, self.expected) from None


def values_of(parameters: Sequence[Parameter], query: Mapping[str, str]) -> dict[str, Any]:
    """The values of all *parameters* by name.

    Raises:
        BadParameter: one is not what it may be, or there is none of that name.
    """
    known = {parameter.name for parameter in parameters}
    for name in query:
        if name not in known:
            raise BadParameter(name[:100], f"one of: {', '.join(sorted(known)) or 'none at all'}")
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
    """Any text that is not empty."""

    def read(given: str) -> str:
        if not given or len(given) > MAX_TEXT:
            raise ValueError(given)
        return given

    schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
    return Parameter(name, description, read, f"a text of 1 to {MAX_TEXT} characters", schema)


def flag(name: str, description: str) -> Parameter:
    """true or false; false where it is missing."""

    def read(given: str) -> bool:
        if given.lower() not in _TRUE + _FALSE:
            raise ValueError(given)
        return given.lower() in _TRUE

    return Parameter(name, description, read, "true or false", {"type": "boolean", "default": False}, False)


def choice(name: str, description: str, choices: Sequence[str]) -> Parameter:
    """One of some words."""

    def read(given: str) -> str:
        if given not in choices:
            raise ValueError(given)
        return given

    return Parameter(
        name, description, read, f"one of: {', '.join(choices)}", {"type": "string", "enum": list(choices)}
    )


def moment(name: str, description: str) -> Parameter:
    """A time by RFC 3339, with its zone."""

    def read(given: str) -> datetime:
        # A plus that was not encoded arrives as a space.
        found = datetime.fromisoformat(given.replace(" ", "+"))
        if found.tzinfo is None:
            raise ValueError(given)
        return found.astimezone(UTC)

    expected = "a time with its zone, such as 2026-01-31T12:00:00Z"
    return Parameter(name, description, read, expected, {"type": "string", "format": "date-time"})
