"""Change and show a config: keys with dots, values in JSON, secrets masked. Pure."""

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from libs.core.errors import UserError

MASK = "********"

_SECRET_WORDS = {
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "cert",
    "certificate",
    "cookie",
    "credential",
    "credentials",
    "dsn",
    "jwt",
    "key",
    "keys",
    "mnemonic",
    "otp",
    "passphrase",
    "passwd",
    "password",
    "pin",
    "private",
    "privatekey",
    "pwd",
    "secret",
    "secretkey",
    "secrets",
    "seed",
    "seedphrase",
    "signature",
    "token",
    "tokens",
    "webhook",
}
_ENDINGS = ("apikey", "secret", "password", "passphrase", "token", "privatekey", "secretkey")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_TEXT = re.compile(r"-----BEGIN |^eyJ[\w-]+\.[\w-]+\.|^Bearer |^(sk|pk|ghp|xox[abp])[-_]\w{16,}")
_PASSWORD_IN_URL = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE)


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
    return [_assignment(text) for text in texts]


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


def masked(value: Any, name: str = "") -> Any:
    """Return *value* with everything masked that looks like a secret, by its *name* or by its content."""
    if _is_secret_name(name):
        return None if value is None else MASK
    if isinstance(value, Mapping):
        return {inner: masked(one, str(inner)) for inner, one in value.items()}
    if isinstance(value, list | tuple):
        return [masked(one) for one in value]
    if not isinstance(value, str):
        return value
    return MASK if _SECRET_TEXT.search(value) else _PASSWORD_IN_URL.sub(rf"\g<before>{MASK}", value)


def _is_secret_name(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    joined = "".join(words)
    return not _SECRET_WORDS.isdisjoint(words) or joined in _SECRET_WORDS or joined.endswith(_ENDINGS)


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigEditInvalid(f"{text!r} is not KEY=VALUE, such as symbol=BTC-USD or limits.max=5")
    _path(key)
    try:
        return key, json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        if value.lstrip()[:1] in ("{", "[", '"'):
            raise ConfigEditInvalid(f"the value of {key!r} looks like JSON but is invalid: {value!r}") from None
        return key, value


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
