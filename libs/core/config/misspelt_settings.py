"""Detect variables that look like a misspelt setting, which would otherwise be ignored silently."""

import difflib
import re
from collections.abc import Mapping
from functools import cache

from libs.core.config.groups import GROUPS
from libs.core.config.settings_loader import rows
from libs.core.process.service import SERVICES

_ALIKE = 0.87
"""The minimal similarity: one different letter in a name of eight and more, two in one of sixteen."""
_SHORTEST = 7
_FOREIGN = {"HTTPS_PORT", "HTTPS_HOST"}
_FOREIGN_PREFIXES = ("OTEL_",)
_READ_ELSEWHERE = {"DOCKER_HOST", "RUNTIME_HOME", "RUNTIME_CACHE_DIR", "RUNTIME_PYTHON"}


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that resemble a setting but are none, each with the nearest one; unrelated ones are skipped.

    An empty variable counts as unset.
    """
    known = known_variables()
    found: dict[str, str] = {}
    for name, value in environ.items():
        if not value.strip() or name in known or name in _FOREIGN or name.startswith(_FOREIGN_PREFIXES):
            continue
        if (nearest := _nearest(name)) is not None:
            found[name] = nearest
    return dict(sorted(found.items()))


@cache
def known_variables() -> frozenset[str]:
    """Return every variable that the processes read, including older names."""
    read = [row for service in SERVICES for row in rows(GROUPS, service)]
    return frozenset(_READ_ELSEWHERE.union(*({row.name, *row.aliases} for row in read)))


def _nearest(name: str) -> str | None:
    plain = _plain(name)
    by_letters = {_plain(known): known for known in sorted(known_variables())}
    if plain in by_letters:
        return by_letters[plain]
    if len(name) < _SHORTEST:
        return None
    # Case and underscores are the most frequent mistakes, and have no meaning.
    close = difflib.get_close_matches(name.upper(), sorted(known_variables()), n=1, cutoff=_ALIKE)
    return close[0] if close and len(close[0]) >= _SHORTEST else None


def _plain(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", name.upper())
