"""Credentials of NATS in a `.creds` file, as `nsc` writes it: the JWT of a user, and the key that proves it.

The server sends a random nonce with each connection, which the key signs; the key itself is never sent.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from libs.core.transport.watched_files import FileRejected, WatchedFiles

SETTING = "NATS_CREDS_FILE"

_PART = r"-----BEGIN {name}-----\s+(\S+)\s+-+END {name}-+"
_JWT = re.compile(_PART.format(name="NATS USER JWT"))
_KEY = re.compile(_PART.format(name="USER NKEY SEED"))
# An encoded key: two bytes for its kind, 32 of the seed, and two of a checksum.
_SEED_KIND, _USER_KIND = 18 << 3, 20 << 3
_SEED_BYTES = 32


@dataclass(frozen=True)
class NatsCredentials:
    """A user's JWT and the seed of its Ed25519 key."""

    jwt: str
    seed: bytes = field(repr=False)

    def sign(self, nonce: str) -> bytes:
        """Return the signature of the server's *nonce*, as the server reads it."""
        from nacl.signing import SigningKey  # 3 MB, for those who have such a file

        return base64.b64encode(SigningKey(self.seed).sign(nonce.encode()).signature)


def credentials_file(path: Path) -> WatchedFiles[NatsCredentials]:
    """Return the credentials in a file, read again when it changes.

    Raises:
        FileRejected: it is missing, or has none.
    """
    return WatchedFiles([(SETTING, path)], parse_credentials)


def parse_credentials(contents: Sequence[bytes]) -> NatsCredentials:
    """Return the credentials in the content of one file.

    Raises:
        FileRejected: it has none.
    """
    text = contents[0].decode(errors="replace")
    jwt, key = _JWT.search(text), _KEY.search(text)
    if jwt is None or key is None:
        raise FileRejected(SETTING, "it has no user's JWT with its key, as `nsc generate creds` writes them")
    return NatsCredentials(jwt[1], _seed(key[1]))


def _seed(encoded: str) -> bytes:
    try:
        raw = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
    except binascii.Error:
        raise FileRejected(SETTING, "its key is not in base32") from None
    kind, checked, checksum = raw[:2], raw[:-2], raw[-2:]
    if len(raw) != 2 + _SEED_BYTES + 2 or binascii.crc_hqx(checked, 0) != int.from_bytes(checksum, "little"):
        raise FileRejected(SETTING, "its key is damaged")
    # The first byte holds five bits of the kind and three of the user's; the second one the other five.
    if kind[0] & 0xF8 != _SEED_KIND or (kind[0] & 0x07) << 5 | (kind[1] & 0xF8) >> 3 != _USER_KIND:
        raise FileRejected(SETTING, "its key is not that of a user")
    return raw[2 : 2 + _SEED_BYTES]
