"""A nats-server that trusts an operator, and credentials of users in an account of that operator."""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from tools.stack.nats import NatsServer

_OPERATOR, _ACCOUNT, _USER = 14 << 3, 0, 20 << 3
_SEED = 18 << 3


class Key:
    """A key of an operator, an account or a user, in the encoding of NATS."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._key = SigningKey.generate()
        self.public = _encoded(bytes([kind]), bytes(self._key.verify_key))

    @property
    def seed(self) -> str:
        """The private part."""
        return _encoded(bytes([_SEED | self._kind >> 5, (self._kind & 31) << 3]), bytes(self._key))

    def token(self, subject: "Key", name: str, content: Mapping[str, Any], **more: int) -> str:
        """Return a JWT about *subject*, signed by this key."""
        claims = {"iat": int(time.time()), "iss": self.public, "name": name, "sub": subject.public, **more}
        claims["nats"] = {"version": 2, **content}
        claims["jti"] = base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode().rstrip("=")
        parts = [_base64({"typ": "JWT", "alg": "ed25519-nkey"}), _base64(claims)]
        signature = self._key.sign(".".join(parts).encode()).signature
        return ".".join([*parts, base64.urlsafe_b64encode(signature).decode().rstrip("=")])


class AccountsNatsServer(NatsServer):
    """A nats-server that lets in users of one account, who prove themselves by credentials."""

    def __init__(self, directory: Path, port: int | None = None, *, tethered: bool = True) -> None:
        super().__init__(directory, port, tethered=tethered)
        self._operator, self._account, self._system = Key(_OPERATOR), Key(_ACCOUNT), Key(_ACCOUNT)

    def credentials(self, *, publish: Sequence[str] = (">",), expires_in_seconds: int = 3600) -> str:
        """Return a new user's `.creds` file."""
        user = Key(_USER)
        unlimited = {"subs": -1, "data": -1, "payload": -1}
        content = {"type": "user", "pub": {"allow": list(publish)}, "sub": {}, **unlimited}
        expires = int(time.time()) + expires_in_seconds
        jwt = self._account.token(user, "user", content, exp=expires)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )

    async def _prepare(self) -> None:
        await super()._prepare()
        limits = dict.fromkeys(("subs", "conn", "leaf", "imports", "exports", "data", "payload"), -1)
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        account = {"type": "account", "limits": {**limits, "wildcards": True, **storage}}
        system = {"type": "account", "limits": {**limits, "wildcards": True}}
        lines = [
            f"operator: {self._operator.token(self._operator, 'operator', {'type': 'operator'})}",
            f"system_account: {self._system.public}",
            "resolver: MEMORY",
            "resolver_preload: {",
            f"  {self._account.public}: {self._operator.token(self._account, 'account', account)}",
            # JetStream needs it.
            f"  {self._system.public}: {self._operator.token(self._system, 'system', system)}",
            "}",
        ]
        self._configuration.write_text("\n".join(lines))

    @property
    def _configuration(self) -> Path:
        return self.directory / "nats.conf"

    def _command(self) -> Sequence[str | Path]:
        return [*super()._command(), "-c", self._configuration]


def _encoded(kind: bytes, content: bytes) -> str:
    raw = kind + content
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _base64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")
