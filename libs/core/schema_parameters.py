"""Find the parameters of a config that its bot's schema does not describe. Pure.

The schema is JSON Schema in `custom.config.schema`, for all entrypoints, or one below the name of each (`bot`,
`backtest`, `query`). It is written by the bot's author, so every part of it may have an unexpected type.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any] | bool

RUNTIME_PARAMETERS = frozenset(
    {
        *("dataSets", "egress", "enabled", "notify", "placement", "resources", "rollback"),
        # Of schedules.
        *("misfire", "misfireGrace", "overlap", "retries", "retryDelay", "schedule", "timeout", "timezone"),
    }
)
"""Keys of a config that the runtime itself reads."""

_ENTRYPOINTS = frozenset({"bot", "backtest", "query"})
_MOST_DEPTH = 32
_COMBINED = ("allOf", "anyOf", "oneOf")


def schema_of(description: Mapping[str, Any], entrypoint: str) -> Schema | None:
    """Return the schema of the config for *entrypoint* in a bot's *description*; None without one."""
    schema = description.get("schema")
    if isinstance(schema, Mapping) and is_by_entrypoint(schema):
        schema = schema.get(entrypoint)
    return schema if isinstance(schema, Mapping | bool) else None


def is_by_entrypoint(schema: Mapping[str, Any]) -> bool:
    """Whether *schema* has a schema for each entrypoint, as the platform's has, instead of being one."""
    return bool(schema) and set(schema) <= _ENTRYPOINTS


def unknown_parameters(config: Mapping[str, Any], schema: Schema | None) -> list[str]:
    """Return the keys of *config*, with dots into objects, that *schema* does not describe.

    Where the schema allows further keys, or refers to other schemas, all are known. Without `properties` it describes
    none, and nothing is unknown.
    """
    if not isinstance(schema, Mapping):
        return []
    return list(_unknown({k: v for k, v in config.items() if k not in RUNTIME_PARAMETERS}, schema, "", _MOST_DEPTH))


def described_parameters(schema: Schema | None) -> list[str]:
    """Return the keys that *schema* describes, with dots into objects."""
    return list(_described(schema, "", _MOST_DEPTH)) if isinstance(schema, Mapping) else []


def _described(schema: Mapping[str, Any], prefix: str, depth: int) -> Iterator[str]:
    for key, inner in (_properties(schema, depth) or {}).items():
        yield f"{prefix}{key}"
        if isinstance(inner, Mapping) and depth:
            yield from _described(inner, f"{prefix}{key}.", depth - 1)


def _unknown(config: Mapping[str, Any], schema: Mapping[str, Any], prefix: str, depth: int) -> Iterator[str]:
    known = _properties(schema, depth)
    if known is None or not depth:
        return
    for key, value in config.items():
        if key not in known:
            yield f"{prefix}{key}"
        elif isinstance(value, Mapping) and isinstance(inner := known[key], Mapping):
            yield from _unknown(value, inner, f"{prefix}{key}.", depth - 1)


def _properties(schema: Mapping[str, Any], depth: int) -> dict[str, Any] | None:
    """Return the described keys with their schemas; None when others are allowed as well."""
    further = schema.get("additionalProperties")
    if further is True or isinstance(further, Mapping) or "$ref" in schema or "patternProperties" in schema:
        return None
    found: dict[str, Any] = {}
    parts = [part for name in _COMBINED if isinstance(listed := schema.get(name), list) for part in listed]
    for part in parts:
        inner = _properties(part, depth - 1) if isinstance(part, Mapping) and depth else None
        found |= inner or {}
    own = schema.get("properties")
    if isinstance(own, Mapping):
        found |= own
    return found or None
