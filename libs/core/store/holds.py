"""Holds: orders that entities must not run, regardless of their documents and events.

A kill is for code that cannot be trusted to stop; a graceful stop gives it time for its clean-up. Each is undone
separately: a resume lifts a kill, a start lifts a stop.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from libs.core.errors import UserError
from libs.core.store.client import Database, Document, translated


class SelectorInvalid(UserError):
    """The selector is malformed."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text!r} is not a selector; write FIELD=VALUE, such as custom.config.author=alice")


@dataclass(frozen=True, slots=True)
class HoldTarget:
    """The target of a hold: one entity, entities with a value in a field, or all."""

    kind: str
    """`id`, `selector` or `all`."""
    path: str = ""
    value: str = ""

    @classmethod
    def entity(cls, entity_id: str) -> Self:
        """Return the target for one entity, whether it exists now or not."""
        return cls("id", value=entity_id)

    @classmethod
    def everything(cls) -> Self:
        """Return the target for all entities of the service, including future ones."""
        return cls("all")

    @classmethod
    def selector(cls, text: str) -> Self:
        """Return the target for entities whose field has a value: `custom.config.author=alice`. Dots lead into objects.

        Raises:
            SelectorInvalid: *text* is not FIELD=VALUE.
        """
        path, equals, value = text.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise SelectorInvalid(text)
        return cls("selector", path.strip(), value.strip())

    def matches(self, document: Mapping[str, object]) -> bool:
        """Whether the target includes the entity of a document."""
        if self.kind == "all":
            return True
        if self.kind == "id":
            return document.get("id") == self.value
        return any(_as_text(found) == self.value for found in _at(document, self.path.split(".")))

    def __str__(self) -> str:
        return {"all": "all", "id": f"id {self.value}"}.get(self.kind, f"{self.path}={self.value}")

    @property
    def key(self) -> str:
        """The unique key of this target; the `_id` of its document."""
        return "all" if self.kind == "all" else f"{self.kind}:{self.path}={self.value}"


@dataclass(frozen=True, slots=True)
class Hold:
    """A target that must not run, with time, author and reason.

    Attributes:
        graceful: a running container gets SIGTERM and its grace period; otherwise it is killed at once.
    """

    target: HoldTarget
    since: datetime
    by: str = ""
    reason: str = ""
    graceful: bool = False

    @property
    def state(self) -> str:
        """The state of entities under this hold."""
        return "stopped" if self.graceful else "killed"


class Holds:
    """All holds at one time. Fast enough to be called for every entity of a scan."""

    def __init__(self, holds: Iterable[Hold] = ()) -> None:
        self._all = sorted(holds, key=lambda hold: (hold.graceful, hold.since))
        self._by_id = {
            (hold.target.value, hold.graceful): hold for hold in reversed(self._all) if hold.target.kind == "id"
        }
        self._broad = [hold for hold in self._all if hold.target.kind != "id"]

    def __iter__(self) -> Iterator[Hold]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def on(self, document: Mapping[str, object]) -> Hold | None:
        """Return the hold that keeps this entity from running; None when it may run.

        A kill takes precedence over a graceful stop; of the same kind, the entity's own over a broader one.
        """
        return self._of_kind(document, graceful=False) or self._of_kind(document, graceful=True)

    def on_all(self) -> Hold | None:
        """The effective hold on everything, or None."""
        return next((hold for hold in self._all if hold.target.kind == "all"), None)

    def exactly(self, target: HoldTarget, *, graceful: bool) -> Hold | None:
        """Return the hold of this kind on exactly this target, or None."""
        return next((hold for hold in self._all if hold.target == target and hold.graceful == graceful), None)

    def _of_kind(self, document: Mapping[str, object], *, graceful: bool) -> Hold | None:
        own = self._by_id.get((str(document.get("id")), graceful))
        if own is not None:
            return own
        matching = (hold for hold in self._broad if hold.graceful == graceful and hold.target.matches(document))
        return next(matching, None)


class HoldStore:
    """The collection `holds`. No event changes it, so a hold stays until it is undone."""

    def __init__(self, database: Database) -> None:
        self._holds = database["holds"]

    async def hold(self, target: HoldTarget, by: str = "", reason: str = "", *, graceful: bool = False) -> Hold:
        """Hold *target* from now on. Repeating it keeps the first time. A kill and a stop are two holds.

        Wake the owners afterwards: see :meth:`libs.core.events.wakeups.WakeUps.segments_changed`.
        """
        with translated():
            await self._holds.update_one(
                {"_id": _key(target, graceful)},
                {
                    "$setOnInsert": {
                        "kind": target.kind,
                        "path": target.path,
                        "value": target.value,
                        "since": datetime.now(UTC),
                        "graceful": graceful,
                    },
                    "$set": {"by": by, "reason": reason},
                },
                upsert=True,
            )
            document = await self._holds.find_one({"_id": _key(target, graceful)})
        return _hold(document) if document is not None else Hold(target, datetime.now(UTC), by, reason, graceful)

    async def resume(self, target: HoldTarget, *, graceful: bool = False) -> bool:
        """Undo the hold of exactly this target and kind; return whether there was one. Other holds on it stay."""
        with translated():
            result = await self._holds.delete_one({"_id": _key(target, graceful)})
        return result.deleted_count > 0

    async def current(self) -> Holds:
        """Return all current holds."""
        with translated():
            return Holds([_hold(document) async for document in self._holds.find({})])


def _key(target: HoldTarget, graceful: bool) -> str:
    return f"stop {target.key}" if graceful else target.key


def _hold(document: Document) -> Hold:
    target = HoldTarget(str(document["kind"]), str(document["path"]), str(document["value"]))
    by, reason = str(document.get("by", "")), str(document.get("reason", ""))
    return Hold(target, document["since"], by, reason, bool(document.get("graceful")))


def _at(value: object, path: list[str]) -> Iterator[object]:
    """Return the values at *path*; a list on the way stands for each of its elements."""
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
