"""Seal values for workers: libsodium's sealed box (X25519, XSalsa20-Poly1305), by PyNaCl.

A sealed text is `v1.` and the box in base64url without padding. The box contains the JSON object
`{"owner": ..., "value": ...}`: with the owner inside, a text that leaked from a store is of no use in a bot of another
owner. A file of private keys has one key in each line; `#` begins a comment.
"""

import base64
import binascii
import json
from collections.abc import Sequence

from libs.core.secrets.errors import KeyInvalid

ANY_OWNER = "*"
"""The owner of a value that every owner may use."""

PUBLIC_PREFIX = "the0-public-1-"
PRIVATE_PREFIX = "the0-private-1-"
MOST_BYTES = 64 * 1024
"""The maximum size of one secret value."""

_VERSION = "v1."
_KEY_BYTES = 32
_KEYS = 32


def new_private_key() -> str:
    """Return a new private key as text."""
    from nacl.public import PrivateKey  # only processes with sealed values need it

    return PRIVATE_PREFIX + _encoded(bytes(PrivateKey.generate()))


def public_key_of(private_key: str) -> str:
    """Return the public key of *private_key*, both as text.

    Raises:
        KeyInvalid: it is no private key.
    """
    from nacl.public import PrivateKey

    return PUBLIC_PREFIX + _encoded(bytes(PrivateKey(_key(private_key, PRIVATE_PREFIX, "private")).public_key))


def seal(value: str, owner: str, public_key: str) -> str:
    """Return *value* as a sealed text, which workers open for bots of *owner* only; :data:`ANY_OWNER` for all.

    Raises:
        KeyInvalid: *public_key* is none.
    """
    from nacl.public import PublicKey, SealedBox

    box = SealedBox(PublicKey(_key(public_key, PUBLIC_PREFIX, "public")))
    content = json.dumps({"owner": owner, "value": value}, ensure_ascii=False).encode()
    return _VERSION + _encoded(box.encrypt(content))


def unseal(text: str, private_keys: Sequence[str]) -> tuple[str, str] | None:
    """Return owner and value of a sealed *text* by the first key that opens it; None when none does."""
    from nacl.exceptions import CryptoError
    from nacl.public import PrivateKey, SealedBox

    if not text.startswith(_VERSION):
        return None
    try:
        box = _decoded(text.removeprefix(_VERSION))
    except (ValueError, binascii.Error):
        return None
    for key in private_keys:
        try:
            content = json.loads(SealedBox(PrivateKey(_key(key, PRIVATE_PREFIX, "private"))).decrypt(box))
        except (CryptoError, ValueError):
            continue
        if isinstance(content, dict):
            owner, value = content.get("owner"), content.get("value")
            if isinstance(owner, str) and isinstance(value, str):
                return owner, value
    return None


def keys_in(text: str) -> list[str]:
    """Return the private keys in the content of a file, in its order.

    Raises:
        KeyInvalid: a line is no key, or there is none. The message names the line, not its content.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        if key := line.partition("#")[0].strip():
            try:
                _key(key, PRIVATE_PREFIX, "private")
            except KeyInvalid as error:
                raise KeyInvalid(f"line {number} is no private key of `runtime secrets keygen`") from error
            keys.append(key)
    if not 0 < len(keys) <= _KEYS:
        raise KeyInvalid(f"it has {len(keys)} private keys; 1 to {_KEYS} are allowed")
    return keys


def _key(text: str, prefix: str, kind: str) -> bytes:
    try:
        found = _decoded(text.removeprefix(prefix)) if text.startswith(prefix) else b""
    except (ValueError, binascii.Error):
        found = b""
    if len(found) != _KEY_BYTES:
        raise KeyInvalid(f"this is no {kind} key: it must begin with {prefix} and be complete")
    return found


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
