"""The parameters of a backtest, kept in the records of its runs because its document is removed. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.core.hostile_json import Bounds, Parsed, parse
from libs.core.schema_parameters import schema_of, unknown_parameters
from libs.core.secrets.config_masks import masked
from libs.core.store.entities import Entity
from libs.docker_runner.executable import Entrypoint, to_json

_MOST_UNKNOWN = 100
_BOUNDS = Bounds(bytes=64 * 1024, depth=100, values=10_000)


@dataclass(frozen=True)
class Parameters:
    """The config of a backtest, with secrets masked. *unknown* are its keys that the description's schema lacks."""

    config: Mapping[str, Any]
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, entity: Entity) -> "Parameters":
        """Return those of a backtest that is not completed."""
        unknown = unknown_parameters(entity.config, schema_of(entity.bot, Entrypoint.BACKTEST))
        return cls(masked(entity.config), tuple(unknown[:_MOST_UNKNOWN]))

    def to_text(self) -> str | None:
        """Return it as stored; None if it is unusually large."""
        text = to_json({"config": self.config, "unknown": self.unknown}).encode("utf-8", "backslashreplace").decode()
        return text if len(text) <= _BOUNDS.bytes else None

    @classmethod
    def from_text(cls, text: str | None) -> "Parameters | None":
        """Parse the result of :meth:`to_text`; None without one."""
        parsed = parse(text.encode("utf-8", "replace"), _BOUNDS) if text is not None else None
        if not isinstance(parsed, Parsed) or not isinstance(parsed.value, Mapping):
            return None
        config, unknown = parsed.value.get("config"), parsed.value.get("unknown")
        if not isinstance(config, Mapping) or not isinstance(unknown, list):
            return None
        return cls(config, tuple(map(str, unknown)))

    @property
    def warning(self) -> str:
        """A sentence about the unknown keys; "" without any."""
        return f"the description's schema has no {', '.join(self.unknown)}" if self.unknown else ""

    def flat(self) -> dict[str, object]:
        """Return the values by their keys, with dots into objects."""
        return _flat(self.config)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | Mapping | bool) else value
    return found
