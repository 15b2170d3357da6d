"""Where the runtime's own tools put code in the code bucket: ``.the0/code/{service}/{sha256}-{time}.zip``.

The bucket is shared with the platform, whose keys the runtime never removes. Below this prefix everything is the
runtime's, and each object belongs to one service, whose master may remove it once no entity refers to it.

The digest makes identical code one object, whatever entities run it. The time makes a key that is never used again
once its object may be removed. It is the beginning of a period, a quarter of the time for which unreferenced code is
kept, by the storage's clock. An upload uses the object of this period or of the one before, and makes another one when
there is neither. So an object that is used is at most half as old as one that may be removed, and its entity has the
other half of that time to appear in the database. No request must be conditional for that, and a garbage collector that
was frozen between its check and its removal does no harm.
"""

import re

from libs.core.process.service import ServiceDefinition

_ROOT = ".the0/code/"
_FILE = re.compile(r"[0-9a-f]{64}-[0-9]{1,12}\.zip")
_PERIODS = 4
_LEAST_PERIOD_SECONDS = 1.0


def code_prefix(service: ServiceDefinition) -> str:
    """The prefix of all code that the tools upload for *service*."""
    return f"{_ROOT}{service.name}/"


def code_keys(service: ServiceDefinition, digest: str, now_seconds: float, keep_seconds: float) -> tuple[str, ...]:
    """The keys under which the code with this SHA-256 may be used, the one to upload it to first.

    Args:
        now_seconds: Unix time by the storage's clock.
        keep_seconds: how long code is kept that no entity refers to; 0 for ever.
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
