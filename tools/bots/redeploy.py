"""Determine what a deploy keeps of the deployed version: the config and the flags given before. Pure.

`custom.deployed` records the origin of the last deploy's values: a digest of each value from `bot.json`, which
distinguishes them from values that were set later, and the flags. Without it, for an entity that was not deployed by
this command, every stored value counts as set.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libs.core.store.entities import Entity
from libs.core.store.releases import ROLLBACK_FIELD

FIELD = "deployed"


@dataclass(frozen=True)
class Flags:
    """The flags of one deploy; None or empty for those that were not given.

    Attributes:
        reset: keep no stored value.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    runtime: str | None = None
    entrypoint: str | None = None
    reset: bool = False

    def over(self, known: Entity | None) -> "Flags":
        """Return these flags, with those of the last deploy of *known* where none was given."""
        kept = _deployed(known).get("flags") if known is not None and not self.reset else None
        if not isinstance(kept, Mapping):
            return self
        runtime, entrypoint = kept.get("runtime"), kept.get("entrypoint")
        return Flags(
            self.config,
            self.runtime or (runtime if isinstance(runtime, str) else None),
            self.entrypoint or (entrypoint if isinstance(entrypoint, str) else None),
            self.reset,
        )

    def config_for(self, known: Entity | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config of the next version.

        Values that were set stay, unless flags replace them. A value that still equals that of an earlier
        `bot.json` follows the current one, whose config is *defaults*.
        """
        if known is None or self.reset:
            return {**defaults, **self.config}
        given_before = _deployed(known).get("defaults")
        digests = given_before if isinstance(given_before, Mapping) else {}
        kept = {name: value for name, value in known.config.items() if digests.get(name) != _digest(value)}
        fresh = {name: value for name, value in defaults.items() if name in known.config or name not in digests}
        return {**fresh, **kept, **self.config}

    def record(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record for the next deploy, stored in `custom.deployed`."""
        flags = {"runtime": self.runtime, "entrypoint": self.entrypoint}
        return {
            "defaults": {name: _digest(value) for name, value in defaults.items()},
            "flags": {name: value for name, value in flags.items() if value is not None},
        }


def kept_fields(known: Entity | None) -> dict[str, Any]:
    """Return the additional fields of the last event of *known*, which the next one repeats."""
    event = known.document.get("event") if known is not None else None
    names = event.get("fields", ()) if isinstance(event, Mapping) else ()
    document = known.document if known is not None else {}
    return {name: document[name] for name in names if name in document and name != ROLLBACK_FIELD}


def _deployed(known: Entity) -> Mapping[str, Any]:
    value = known.custom.get(FIELD)
    return value if isinstance(value, Mapping) else {}


def _digest(value: object) -> str:
    # The database may return a number as another type: 5 as 5.0.
    text = json.dumps(_plain(value), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else value
