"""Determine which of an entity's events is current, independent of their order and number of arrivals.

The result is a function of the set of events. A deletion invalidates every version that was created or published
before it; among the remaining versions the newest update is current, and without an update the oldest creation
(a creation of an existing entity changes nothing). Another version is kept only while a future deletion could make
it current, so an ordinary history has one version.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cmp_to_key

UNKNOWN_STREAM = 0
_FOREVER = 2**63 - 1
_MAX_CLOCK_LEAD_NANOSECONDS = 300 * 1_000_000_000
CLOCK_TOLERANCE_NANOSECONDS = 5 * 1_000_000_000
"""How far a producer's clock may be behind the server's for a creation after a deletion to count."""
_MAX_ALTERNATES = 8
_STORED = ("made_at", "made_by", "published_at", "stream", "sequence")
"""The stored fields of a stamp, in this order."""


class EventKind(StrEnum):
    """The kinds of events about an entity."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Stamp:
    """The creation of an event and its position among the others; times in nanoseconds since 1970.

    `made_by` is the latest possible time of its creation, as `made_at` may have a low precision.
    `stream` is the creation time of the stream, because its sequences restart; UNKNOWN_STREAM outside of one.
    """

    made_at: int
    made_by: int
    published_at: int
    stream: int = UNKNOWN_STREAM
    sequence: int = 0
    last_made_by: int = 0
    """Of a deletion: the latest `made_by` of events published before it, 0 if unknown. A later event is no repeat."""

    def to_document(self) -> dict[str, int]:
        """Return it as stored, without `last_made_by`."""
        return {name: getattr(self, name) for name in _STORED}

    @classmethod
    def from_document(cls, fields: Mapping[str, int]) -> "Stamp":
        """Return the stamp stored as *fields*."""
        return cls(**{name: int(fields[name]) for name in _STORED})

    @classmethod
    def of(
        cls,
        published_at: int,
        *,
        made_at: int | None = None,
        precision: int = 1,
        stream: int = UNKNOWN_STREAM,
        sequence: int = 0,
    ) -> "Stamp":
        """Return the stamp of an event published at *published_at* that contains the creation time *made_at*, if any.

        A time far ahead of the server's clock is ignored: it would take precedence over every later update.
        """
        if made_at is None or made_at > published_at + _MAX_CLOCK_LEAD_NANOSECONDS:
            return cls(published_at, _FOREVER, published_at, stream, sequence)
        return cls(made_at, made_at + precision, published_at, stream, sequence)

    @property
    def says_when_made(self) -> bool:
        """Whether the event contained its creation time; otherwise `made_at` is the time of publishing."""
        return self.made_by != _FOREVER

    def same_message(self, other: "Stamp") -> bool:
        """Whether both are stamps of one stored message."""
        return self._place == other._place

    def published_before(self, other: "Stamp") -> bool:
        """Compare by sequence within one stream, where clocks may differ, and by the server's time across streams."""
        if self.stream == other.stream != UNKNOWN_STREAM:
            return self.sequence < other.sequence
        return (self.published_at, self.sequence) < (other.published_at, other.sequence)

    def made_before(self, other: "Stamp") -> bool:
        """Compare by the time in the event, then by the order of publishing."""
        if self.made_at != other.made_at:
            return self.made_at < other.made_at
        return self.published_before(other)

    def outlives(self, deletion: "Stamp") -> bool:
        """Whether an event with this stamp was both published and created after *deletion*.

        The second condition prevents a republished old event from recreating a deleted entity. The producer's clock may
        be behind the server's, so an event also counts that is certainly newer than everything before the deletion.
        """
        if not deletion.published_before(self):
            return False
        is_new = 0 < deletion.last_made_by < self.made_by
        tolerance = CLOCK_TOLERANCE_NANOSECONDS if is_new else 0
        return self.made_by + tolerance > deletion.published_at

    @property
    def _place(self) -> tuple[int, int, int]:
        return (self.stream, self.sequence, self.published_at)


@dataclass(frozen=True, slots=True)
class Version:
    """The content of one `created` or `updated` event."""

    kind: EventKind
    stamp: Stamp
    content: Mapping[str, object]
    trace: Mapping[str, str] = field(default_factory=dict)
    """The W3C trace headers of its message, if any."""

    def counts_before(self, other: "Version") -> bool:
        """Whether this version takes precedence over *other*."""
        if self.kind != other.kind:
            return self.kind is EventKind.UPDATED
        if self.kind is EventKind.UPDATED:
            return other.stamp.made_before(self.stamp)
        return self.stamp.made_before(other.stamp)

    def repeats(self, other: "Version") -> bool:
        """Whether it adds nothing to *other*: the same message, or the same event published again."""
        if self.stamp.same_message(other.stamp):
            return True
        identity = (self.kind, self.stamp.made_at, self.stamp.made_by)
        return identity == (other.kind, other.stamp.made_at, other.stamp.made_by) and self.content == other.content

    def makes_needless(self, other: "Version") -> bool:
        """Whether *other* can never become current while this version is known, for any later arrivals."""
        outlives_it = self.stamp.made_by >= other.stamp.made_by and not self.stamp.published_before(other.stamp)
        return outlives_it and self.counts_before(other)


@dataclass(frozen=True, slots=True)
class EntityEvent:
    """One event about the entity *id*; *content* is empty for a deletion.

    A *direct* one did not come from a stream but from a caller that read the current entity: it is ordered after all
    known events, regardless of clocks.
    """

    id: str
    kind: EventKind
    stamp: Stamp
    content: Mapping[str, object] = field(default_factory=dict)
    trace: Mapping[str, str] = field(default_factory=dict)
    direct: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """The part of an entity's events that must be stored: versions that may be current, and the last deletion."""

    versions: tuple[Version, ...] = ()
    deleted: Stamp | None = None

    @property
    def current(self) -> Version | None:
        """The current version, or None when the entity does not exist."""
        return self.versions[0] if self.versions else None

    @property
    def alternates(self) -> tuple[Version, ...]:
        """Versions that would become current if a late deletion invalidated the current one."""
        return self.versions[1:]

    def after(self, event: EntityEvent) -> "History":
        """Return the history with *event*; itself when that changes nothing."""
        stamp = self.following(event.stamp) if event.direct else event.stamp
        if event.kind is EventKind.DELETED:
            return self.with_deletion(stamp)
        return self.with_version(Version(event.kind, stamp, event.content, event.trace))

    def with_version(self, version: Version) -> "History":
        """Return the history with *version*; itself when that changes nothing."""
        if self.deleted is not None and not version.stamp.outlives(self.deleted):
            last_made_by = _last_made_by([version], self.deleted)
            return self.with_deletion(replace(self.deleted, last_made_by=last_made_by))
        if any(version.repeats(known) or known.makes_needless(version) for known in self.versions):
            return self
        return History(_in_order([*self.versions, version]), self.deleted)

    def with_deletion(self, stamp: Stamp) -> "History":
        """Return the history with a deletion; itself when that changes nothing."""
        known = self.deleted
        if known is not None and stamp.published_before(known):
            return self
        last_made_by = max(_last_made_by(self.versions, stamp), known.last_made_by if known is not None else 0)
        if known is not None and known.same_message(stamp) and known.last_made_by == last_made_by:
            return self
        deleted = replace(stamp, last_made_by=last_made_by)
        return History(_in_order(v for v in self.versions if v.stamp.outlives(deleted)), deleted)

    def behind_deletion(self, event: EntityEvent) -> int:
        """Return by how many nanoseconds *event* was made before a deletion that was published before it.

        Zero for any other event, and for one that only repeats what was published before the deletion.
        """
        deleted, stamp = self.deleted, event.stamp
        if deleted is None or event.direct or event.kind is EventKind.DELETED or not deleted.published_before(stamp):
            return 0
        return max(0, deleted.published_at - stamp.made_by) if stamp.made_by > deleted.last_made_by else 0

    def following(self, stamp: Stamp) -> Stamp:
        """Return *stamp*, moved after all known events if necessary."""
        known = [version.stamp for version in self.versions] + ([self.deleted] if self.deleted is not None else [])
        latest = max((max(s.published_at, s.made_at) + 1 for s in known), default=0)
        return Stamp.of(max(stamp.published_at, latest))


def _last_made_by(versions: Iterable[Version], deletion: Stamp) -> int:
    """Return the latest `made_by` of those of *versions* that were published before *deletion*, as known by now."""
    before = (v.stamp for v in versions if v.stamp.published_before(deletion))
    times = (stamp.made_by if stamp.says_when_made else stamp.published_at for stamp in before)
    return max([deletion.last_made_by, *times])


def _in_order(versions: Iterable[Version]) -> tuple[Version, ...]:
    """Return those of *versions* that can be current, the current one first, then the latest published."""
    known = list(versions)
    useful = [v for v in known if not any(other.makes_needless(v) for other in known if other is not v)]
    if not useful:
        return ()
    current = useful[0]
    for version in useful[1:]:
        if version.counts_before(current):
            current = version
    rest = [v for v in useful if v is not current]
    rest.sort(key=cmp_to_key(lambda a, b: -1 if b.stamp.published_before(a.stamp) else 1))
    return (current, *rest[:_MAX_ALTERNATES])
