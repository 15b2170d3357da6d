"""Mask what looks like a secret in a config that is shown. Pure."""

import re
from collections.abc import Mapping
from typing import Any

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


def masked(value: Any, name: str = "") -> Any:
    """Return *value* with everything masked that looks like a secret, by its *name* or by its content."""
    if is_secret_name(name):
        return None if value is None else MASK
    if isinstance(value, Mapping):
        return {inner: masked(one, str(inner)) for inner, one in value.items()}
    if isinstance(value, list | tuple):
        return [masked(one) for one in value]
    if not isinstance(value, str):
        return value
    return MASK if _SECRET_TEXT.search(value) else _PASSWORD_IN_URL.sub(rf"\g<before>{MASK}", value)


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    joined = "".join(words)
    return not _SECRET_WORDS.isdisjoint(words) or joined in _SECRET_WORDS or joined.endswith(_ENDINGS)


def is_secret_text(value: str) -> bool:
    """Whether the text itself looks like a secret, or contains a password."""
    return bool(_SECRET_TEXT.search(value) or _PASSWORD_IN_URL.search(value))
