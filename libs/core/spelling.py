"""Names of fields that are matched without regard to case."""

from collections.abc import Iterable, Mapping
from typing import Any

CUSTOM_FIELDS = ("config", "createdAt", "updatedAt", "filePath", "gcsPath", "sha256", "version")
"""The fields of `custom` that the runtime reads. Producers and an older runtime use different spellings."""


def with_names(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return *fields* with the spelling of *names*, regardless of case. An exact spelling takes precedence."""
    spelling = {name.lower(): name for name in names}
    renamed: dict[str, Any] = {}
    for key, value in fields.items():
        name = spelling.get(key.lower(), key)
        if name == key or name not in fields:
            renamed[name] = value
    return renamed
