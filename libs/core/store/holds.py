"""The kill switch: which entities must not run, whatever their documents and events say."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from libs.core.errors import UserError
from libs.core.store.client import Database, Document, translated


class SelectorInvalid(UserError):
    """What the person gave as a selector cannot be one."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text!r} is not a selector; write FIELD=VALUE, such as custom.config.author=alice")


@dataclass(frozen=True, slots=True)
class HoldTarget:
    """What is held: one entity, those with a value in a field, or all."""

    kind: str
    """`id`, `selector` or `all`."""
    path: str = ""
    value: str = ""

    @classmethod
    def entity(cls, entity_id: str) -> Self:
        """One entity, whether it exists now or not."""
        return cls("id", value=entity_id)

    @classmethod
    def everything(cls) -> Self:
        """All entities of the service, those to come too."""
        return cls("all")

    @classmethod
    def selector(cls, text: str) -> Self:
        """All entities whose field has a value: `custom.config.author=alice`. Dots lead into objects.

        Raises:
            SelectorInvalid: *text* is no FIELD=VALUE.
        """
        path, equals, value = text.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise SelectorInvalid(text)
        return cls("selector", path.strip(), value.strip())

    def matches(self, document: Mapping[str, object]) -> bool:
        """Whether an entity's document is among what this target means."""
        if self.kind == "all":
            return True
        if self.kind == "id":
            return document.get("id") == self.value
        return any(_as_text(found) == self.value for found in _at(document, self.path.split(".")))

    def __str__(self) -> str:
        return {"all": "all", "id": f"id {self.value}"}.get(self.kind, f"{self.path}={self.value}")

    @property
    def key(self) -> str:
        """What tells this target from others; the `_id` of its document."""
        return "all" if self.kind == "all" else f"{self.kind}:{self.path}={self.value}"


@dataclass(frozen=True, slots=True)
class Hold:
    """That a target is held, since when, and on whose word."""

    target: HoldTarget
    since: datetime
    by: str = ""
    reason: str = ""


class Holds:
    """All holds of one moment. Cheap to ask for every entity of a scan."""

    def __init__(self, holds: Iterable[Hold] = ()) -> None:
        self._all = sorted(holds, key=lambda hold: hold.since)
        self._by_id = {hold.target.value: hold for hold in reversed(self._all) if hold.target.kind == "id"}
        self._broad = [hold for hold in self._all if hold.target.kind != "id"]

    def __iter__(self) -> Iterator[Hold]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def on(self, document: Mapping[str, object]) -> Hold | None:
        """The hold that keeps this entity from running: its own before a broader one. None when it may run."""
        own = self._by_id.get(str(document.get("id")))
        if own is not None:
            return own
        return next((hold for hold in self._broad if hold.target.matches(document)), None)


class HoldStore:
    """The collection `holds`. No event touches it, so what is held stays held until it is resumed."""

    def __init__(self, database: Database) -> None:
        self._holds = database["holds"]

    async def hold(self, target: HoldTarget, by: str = "", reason: str = "") -> Hold:
        """Hold *target* from now on. Repeated, it keeps the time of the first.

        Wake the owners afterwards: see :meth:`libs.core.events.wakeups.WakeUps.segments_changed`.
        """
        with translated():
            await self._holds.update_one(
                {"_id": target.key},
                {
                    "$setOnInsert": {
                        "kind": target.kind,
                        "path": target.path,
                        "value": target.value,
                        "since": datetime.now(UTC),
                    },
                    "$set": {"by": by, "reason": reason},
                },
                upsert=True,
            )
            document = await self._holds.find_one({"_id": target.key})
        return _hold(document) if document is not None else Hold(target, datetime.now(UTC), by, reason)

    async def resume(self, target: HoldTarget) -> bool:
        """Undo the hold of exactly this target; False if there was none. Other holds on the same entities stay."""
        with translated():
            result = await self._holds.delete_one({"_id": target.key})
        return result.deleted_count > 0

    async def current(self) -> Holds:
        """All holds as they are now."""
        with translated():
            return Holds([_hold(document) async for document in self._holds.find({})])


def _hold(document: Document) -> Hold:
    target = HoldTarget(str(document["kind"]), str(document["path"]), str(document["value"]))
    return Hold(target, document["since"], str(document.get("by", "")), str(document.get("reason", "")))


def _at(value: object, path: list[str]) -> Iterator[object]:
    """The values at *path*; a list on the way stands for each of its elements."""
    if isinstance(value, list):
        for element in value:
            yield from _at(element, path)
    elif not path:
        yield value
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _at(value[path[0]], path[1:])


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)
