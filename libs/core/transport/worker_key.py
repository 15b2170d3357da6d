"""The key by which a worker proves, after a restart too, that a worker id is its own.

It is created at the first start in the work folder, where only the worker's user can read it. The master sends a random
challenge for each registration, so that a signature that was overheard proves nothing later.
"""

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from libs.core.errors import UserError
from libs.core.observability.log import get_logger

log = get_logger(__name__)

CHALLENGE_BYTES = 32
_FILE = "worker.key"
_SEED_BYTES = 32
_PURPOSE = b"the0 worker registration 1"


class KeyFileUnusable(UserError):
    """The file with the worker's key cannot be created or read."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"the key of this worker, {str(path)!r}, cannot be used: {error.strerror or error}; "
            "give this process's user the file, or set TEMP_DIR to a folder that it can write"
        )


@dataclass(frozen=True)
class WorkerKey:
    """An Ed25519 key."""

    seed: bytes = field(repr=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the key in *folder*, created if there is none. Workers that start together get the same one.

        Raises:
            KeyFileUnusable: it cannot be created or read.
        """
        path = folder / _FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            seed = _read(path)
            if seed is None:
                _create(path)
                seed = _read(path)
        except OSError as error:
            raise KeyFileUnusable(path, error) from None
        if seed is None:
            log.warning("the key of this worker is damaged and is replaced", path=str(path))
            path.unlink(missing_ok=True)
            return cls.load(folder)
        return cls(seed)

    @property
    def public(self) -> bytes:
        """The public key."""
        from nacl.signing import SigningKey  # 3 MB that only the first registration needs

        return bytes(SigningKey(self.seed).verify_key)

    def sign(self, challenge: bytes, worker_id: str, instance_id: str) -> bytes:
        """Return the proof that the process *instance_id* has this key."""
        from nacl.signing import SigningKey

        return bytes(SigningKey(self.seed).sign(_text(challenge, worker_id, instance_id)).signature)


def new_challenge() -> bytes:
    """Return a random challenge."""
    return secrets.token_bytes(CHALLENGE_BYTES)


def proves(public: bytes, signature: bytes, challenge: bytes, worker_id: str, instance_id: str) -> bool:
    """Whether *signature* is by the key of *public*, for this challenge and this process."""
    from nacl.exceptions import CryptoError
    from nacl.signing import VerifyKey

    try:
        VerifyKey(public).verify(_text(challenge, worker_id, instance_id), signature)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def _text(challenge: bytes, worker_id: str, instance_id: str) -> bytes:
    # Each part with its length: no two registrations have the same text.
    parts = (_PURPOSE, challenge, worker_id.encode(errors="replace"), instance_id.encode(errors="replace"))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _read(path: Path) -> bytes | None:
    """Return the seed in *path*; None without a valid one. Take others' permissions away."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                log.warning("others could read the key of this worker; it is private now", path=str(path))
                os.fchmod(file.fileno(), 0o600)
            content = file.read(4096)
    except FileNotFoundError:
        return None
    try:
        seed = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        return None
    return seed if len(seed) == _SEED_BYTES else None


def _create(path: Path) -> None:
    """Write a new key, complete or not at all; one that exists stays."""
    written = path.with_name(f".{_FILE}.{secrets.token_hex(8)}")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(_SEED_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(written, path)
    finally:
        written.unlink(missing_ok=True)
