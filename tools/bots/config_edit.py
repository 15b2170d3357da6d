"""Change a config: keys with dots, values in JSON. Pure."""

import copy
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from libs.core.errors import UserError
from libs.core.secrets.config_masks import MASK as MASK
from libs.core.secrets.config_masks import masked as masked


class ConfigEditInvalid(UserError):
    """The requested change of the config is invalid."""


class KeyMissing(UserError):
    """The config has no such key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"there is no {key!r} in the config")
        self.key = key


def assignments(texts: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the keys and values of `KEY=VALUE` texts. A value that is not JSON is text.

    Raises:
        ConfigEditInvalid: one is not an assignment.
    """
    return [(key, value_of(key, value)) for key, value in map(assignment_parts, texts)]


def with_values(config: Mapping[str, Any], values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return *config* with *values*, whose keys lead into objects by dots; missing objects are created.

    Raises:
        ConfigEditInvalid: a key leads through a value that is not an object.
    """
    changed = copy.deepcopy(dict(config))
    for key, value in values:
        *parents, last = _path(key)
        _inner(changed, parents, key, make=True)[last] = value
    return changed


def without_keys(config: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return *config* without *keys*.

    Raises:
        KeyMissing: a key is missing.
        ConfigEditInvalid: a key leads through a value that is not an object.
    """
    changed = copy.deepcopy(dict(config))
    for key in keys:
        *parents, last = _path(key)
        parent = _inner(changed, parents, key, make=False)
        if last not in parent:
            raise KeyMissing(key)
        del parent[last]
    return changed


def assignment_parts(text: str) -> tuple[str, str]:
    """Return the key and the value of `KEY=VALUE` as they are written.

    Raises:
        ConfigEditInvalid: it is not an assignment.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigEditInvalid(f"{text!r} is not KEY=VALUE, such as symbol=BTC-USD or limits.max=5")
    _path(key)
    return key, value


def value_of(key: str, written: str) -> Any:
    """Return the value of *key* as it is *written*: JSON, or else text.

    Raises:
        ConfigEditInvalid: it looks like JSON but is invalid, or has a number that cannot be stored.
    """

    def number(text: str) -> float:
        if math.isinf(found := float(text)):
            raise ConfigEditInvalid(f"the value of {key!r} has the number {text}, beyond 1e308; use a smaller one")
        return found

    def integer(text: str) -> int:
        if not -(2**63) <= (found := int(text)) < 2**63:
            raise ConfigEditInvalid(f"the value of {key!r} has the number {text}, beyond 64 bits; write it as text")
        return found

    try:
        return json.loads(written, parse_constant=_no_constant, parse_float=number, parse_int=integer)
    except (ValueError, RecursionError):
        if written.lstrip()[:1] in ("{", "[", '"'):
            raise ConfigEditInvalid(f"the value of {key!r} looks like JSON but is invalid: {written!r}") from None
        return written


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _path(key: str) -> list[str]:
    path = key.split(".")
    if not all(path):
        raise ConfigEditInvalid(f"{key!r} is not a key: write NAME, or NAME.NAME for a value in an object")
    return path


def _inner(config: dict[str, Any], parents: Sequence[str], key: str, *, make: bool) -> dict[str, Any]:
    """Return the object at *parents*."""
    current = config
    for depth, name in enumerate(parents):
        if name not in current:
            if not make:
                raise KeyMissing(key)
            current[name] = {}
        inner = current[name]
        if not isinstance(inner, dict):
            raise ConfigEditInvalid(f"{'.'.join(parents[: depth + 1])!r} is not an object, so it has no {key!r}")
        current = inner
    return current
