"""References to secrets in a config: `{"$secret": name}` and `{"$sealed": text}`, at any depth. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from libs.core.secrets.errors import SecretRefused


class Kind(StrEnum):
    """The field that makes an object a reference."""

    SECRET = "$secret"  # noqa: S105 - the name of a field
    SEALED = "$sealed"


@dataclass(frozen=True)
class Reference:
    """One reference. *text* is the name, or the sealed value; *where* is its place, such as ``config.keys[0]``."""

    kind: Kind
    text: str
    where: str = ""


def has_references(value: object) -> bool:
    """Whether *value* contains a reference, also a malformed one."""
    if isinstance(value, Mapping):
        return any(kind in value for kind in Kind) or any(has_references(item) for item in value.values())
    return isinstance(value, list | tuple) and any(has_references(item) for item in value)


def references_in(value: object, where: str = "config") -> Iterator[Reference]:
    """Yield the references in *value*.

    Raises:
        SecretRefused: one is malformed.
    """
    if isinstance(value, Mapping):
        if (found := _reference(value, where)) is not None:
            yield found
            return
        for name, item in value.items():
            yield from references_in(item, f"{where}.{name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from references_in(item, f"{where}[{index}]")


def replaced(value: object, value_of: Callable[[Reference], str], where: str = "config") -> object:
    """Return *value* with each reference replaced by *value_of* it.

    Raises:
        SecretRefused: one is malformed.
    """
    if isinstance(value, Mapping):
        if (found := _reference(value, where)) is not None:
            return value_of(found)
        return {name: replaced(item, value_of, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(item, value_of, f"{where}[{index}]") for index, item in enumerate(value)]
    return value


def _reference(value: Mapping[str, object], where: str) -> Reference | None:
    kind = next((kind for kind in Kind if kind in value), None)
    if kind is None:
        return None
    text = value[kind]
    if len(value) != 1:
        # Silently dropping the other fields would hide a mistake.
        raise SecretRefused(where, f"an object with {kind} must have no other field")
    if not isinstance(text, str) or not text:
        raise SecretRefused(where, f"{kind} must be a non-empty string")
    return Reference(kind, text, where)
