"""Names of fields that are matched without regard to case."""

from collections.abc import Iterable, Mapping
from typing import Any

CUSTOM_FIELDS = ("config", "createdAt", "updatedAt", "filePath", "gcsPath", "version")
"""The fields of `custom` that the runtime reads. Producers and an older runtime spell them in several ways."""


def with_names(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """*fields* with those of *names* spelt so, whatever their case was. The exact spelling wins over others."""
    spelling = {name.lower(): name for name in names}
    renamed: dict[str, Any] = {}
    for key, value in fields.items():
        name = spelling.get(key.lower(), key)
        if name == key or name not in fields:
            renamed[name] = value
    return renamed
