"""What a deploy keeps of what is deployed already: the config and the flags that somebody gave before. Pure.

`custom.deployed` remembers how the last deploy came to its values: a digest of each value that `bot.json` gave, which
tells these from values that somebody set, and the flags. What was not deployed by this command has none of it, and
then every stored value counts as set.
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
    """What the flags of one deploy say; None and nothing for those that were not given.

    Attributes:
        reset: keep nothing of what is stored.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    runtime: str | None = None
    entrypoint: str | None = None
    reset: bool = False

    def over(self, known: Entity | None) -> "Flags":
        """These flags, and where one was not given what the last deploy of *known* was given."""
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
        """The config of the next version.

        Values that somebody set stay, as long as the flags do not replace them. A value that still is what an earlier
        `bot.json` gave follows the present one, whose config is *defaults*.
        """
        if known is None or self.reset:
            return {**defaults, **self.config}
        given_before = _deployed(known).get("defaults")
        digests = given_before if isinstance(given_before, Mapping) else {}
        kept = {name: value for name, value in known.config.items() if digests.get(name) != _digest(value)}
        fresh = {name: value for name, value in defaults.items() if name in known.config or name not in digests}
        return {**fresh, **kept, **self.config}

    def record(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """What the next deploy needs to know of this one, for `custom.deployed`."""
        flags = {"runtime": self.runtime, "entrypoint": self.entrypoint}
        return {
            "defaults": {name: _digest(value) for name, value in defaults.items()},
            "flags": {name: value for name, value in flags.items() if value is not None},
        }


def kept_fields(known: Entity | None) -> dict[str, Any]:
    """The fields beside config and custom that the last event of *known* brought, and that the next one repeats."""
    event = known.document.get("event") if known is not None else None
    names = event.get("fields", ()) if isinstance(event, Mapping) else ()
    document = known.document if known is not None else {}
    return {name: document[name] for name in names if name in document and name != ROLLBACK_FIELD}


def _deployed(known: Entity) -> Mapping[str, Any]:
    value = known.custom.get(FIELD)
    return value if isinstance(value, Mapping) else {}


def _digest(value: object) -> str:
    # A number may come back from the database as another type: 5 as 5.0.
    text = json.dumps(_plain(value), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else value
