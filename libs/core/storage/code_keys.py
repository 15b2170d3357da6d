"""Keys of code that the runtime's own tools upload: ``.the0/code/{service}/{sha256}-{time}.zip``.

The bucket is shared with the platform, whose keys the runtime never removes. Everything below this prefix belongs to
the runtime, and each object to one service, whose master may remove it when no entity refers to it.

The digest makes identical code one object, regardless of the entities that run it. The time makes a key that is never
reused after its object may be removed. It is the beginning of a period, a quarter of the retention of unreferenced
code, by the storage's clock. An upload uses the object of the current or the previous period, and creates one when
there is neither. So a used object is at most half as old as a removable one, and its entity has the
other half of that time to appear in the database. No request needs to be conditional for that, and a garbage collector
that was frozen between its check and its removal does no harm.
"""

import re

from libs.core.process.service import ServiceDefinition

TOOLS_ROOT = ".the0/code/"
"""The beginning of all keys of code that the tools upload."""

_FILE = re.compile(r"[0-9a-f]{64}-[0-9]{1,12}\.zip")
_PERIODS = 4
_LEAST_PERIOD_SECONDS = 1.0


def code_prefix(service: ServiceDefinition) -> str:
    """Return the prefix of all code that the tools upload for *service*."""
    return f"{TOOLS_ROOT}{service.name}/"


def code_keys(service: ServiceDefinition, digest: str, now_seconds: float, keep_seconds: float) -> tuple[str, ...]:
    """Return the keys under which the code with this SHA-256 may be used, the one for an upload first.

    Args:
        now_seconds: Unix time by the storage's clock.
        keep_seconds: retention of unreferenced code; 0 for ever.
    """
    if keep_seconds <= 0:
        return (_key(service, digest, 0.0),)
    period = max(_LEAST_PERIOD_SECONDS, keep_seconds / _PERIODS)
    begun = now_seconds // period * period
    return (_key(service, digest, begun), _key(service, digest, begun - period))


def is_code_key(service: ServiceDefinition, key: str) -> bool:
    """Whether the object at *key* is code that the tools uploaded for *service*."""
    prefix = code_prefix(service)
    return key.startswith(prefix) and _FILE.fullmatch(key, len(prefix)) is not None


def holds_digest(service: ServiceDefinition, key: str, digest: str) -> bool:
    """Whether the object at *key* is code of *service* with this SHA-256."""
    return is_code_key(service, key) and key.startswith(f"{code_prefix(service)}{digest}-")


def _key(service: ServiceDefinition, digest: str, begun_seconds: float) -> str:
    return f"{code_prefix(service)}{digest}-{int(begun_seconds)}.zip"
