"""Which of an entity's events counts, whatever order and however often they arrive.

The outcome is a function of the set of events alone. A deletion takes away every version that was made or published
before it; among the versions that are left the newest update counts, and without an update the oldest creation
(a creation of something that exists changes nothing). A version that does not count now is kept only while a
deletion still to come could make it count, so an ordinary history holds one version.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cmp_to_key

UNKNOWN_STREAM = 0
_FOREVER = 2**63 - 1
_MAX_CLOCK_LEAD_NANOSECONDS = 300 * 1_000_000_000
_MAX_ALTERNATES = 8


class EventKind(StrEnum):
    """What an event says about its entity."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Stamp:
    """When an event was made and where it stands among the others; times in nanoseconds since 1970.

    `made_by` is the latest moment at which it can have been made, as `made_at` may have been written coarsely.
    `stream` is the time the stream was created, because sequences start anew with it; UNKNOWN_STREAM outside of one.
    """

    made_at: int
    made_by: int
    published_at: int
    stream: int = UNKNOWN_STREAM
    sequence: int = 0

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
        """The stamp of an event published at *published_at* that says it was made at *made_at*, if it says so.

        A time far ahead of the server's clock is nonsense that would outlive every later update, so it is ignored.
        """
        if made_at is None or made_at > published_at + _MAX_CLOCK_LEAD_NANOSECONDS:
            return cls(published_at, _FOREVER, published_at, stream, sequence)
        return cls(made_at, made_at + precision, published_at, stream, sequence)

    @property
    def says_when_made(self) -> bool:
        """Whether the event itself said when it was made; otherwise `made_at` is when it was published."""
        return self.made_by != _FOREVER

    def same_message(self, other: "Stamp") -> bool:
        """Whether both are stamps of one stored message."""
        return self._place == other._place

    def published_before(self, other: "Stamp") -> bool:
        """Compare by sequence within one stream, where clocks may disagree, and by the server's time across streams."""
        if self.stream == other.stream != UNKNOWN_STREAM:
            return self.sequence < other.sequence
        return (self.published_at, self.sequence) < (other.published_at, other.sequence)

    def made_before(self, other: "Stamp") -> bool:
        """Compare by the time in the event, then by the order of publishing."""
        if self.made_at != other.made_at:
            return self.made_at < other.made_at
        return self.published_before(other)

    def outlives(self, deletion: "Stamp") -> bool:
        """Whether an event with this stamp belongs to the time after *deletion*: published after it, and made after it.

        The second half keeps an old event that is published again from raising what was deleted.
        """
        return deletion.published_before(self) and self.made_by > deletion.published_at

    @property
    def _place(self) -> tuple[int, int, int]:
        return (self.stream, self.sequence, self.published_at)


@dataclass(frozen=True, slots=True)
class Version:
    """What one `created` or `updated` event says the entity is."""

    kind: EventKind
    stamp: Stamp
    content: Mapping[str, object]
    trace: Mapping[str, str] = field(default_factory=dict)
    """The W3C trace headers of its message, if it had any."""

    def counts_before(self, other: "Version") -> bool:
        """Whether this version is the one to follow when both are there."""
        if self.kind != other.kind:
            return self.kind is EventKind.UPDATED
        if self.kind is EventKind.UPDATED:
            return other.stamp.made_before(self.stamp)
        return self.stamp.made_before(other.stamp)

    def repeats(self, other: "Version") -> bool:
        """Whether it says nothing that *other* has not said: the same message, or the same event published again."""
        if self.stamp.same_message(other.stamp):
            return True
        said = (self.kind, self.stamp.made_at, self.stamp.made_by)
        return said == (other.kind, other.stamp.made_at, other.stamp.made_by) and self.content == other.content

    def makes_needless(self, other: "Version") -> bool:
        """Whether *other* can never count while this version is known, whatever is still to come."""
        outlives_it = self.stamp.made_by >= other.stamp.made_by and not self.stamp.published_before(other.stamp)
        return outlives_it and self.counts_before(other)


@dataclass(frozen=True, slots=True)
class EntityEvent:
    """One event about the entity *id*; *content* is empty for a deletion.

    A *direct* one came from no stream but from somebody who saw the entity as it is now: it comes after all that is
    known, whatever the clocks say.
    """

    id: str
    kind: EventKind
    stamp: Stamp
    content: Mapping[str, object] = field(default_factory=dict)
    trace: Mapping[str, str] = field(default_factory=dict)
    direct: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """All that must be remembered of an entity's events: the versions that may count, and the last deletion."""

    versions: tuple[Version, ...] = ()
    deleted: Stamp | None = None

    @property
    def current(self) -> Version | None:
        """The version to follow, or None when the entity does not exist."""
        return self.versions[0] if self.versions else None

    @property
    def alternates(self) -> tuple[Version, ...]:
        """Versions that would count if a late deletion took the current one away."""
        return self.versions[1:]

    def after(self, event: EntityEvent) -> "History":
        """The history after *event* became known. Returns itself when that changes nothing."""
        stamp = self.following(event.stamp) if event.direct else event.stamp
        if event.kind is EventKind.DELETED:
            return self.with_deletion(stamp)
        return self.with_version(Version(event.kind, stamp, event.content, event.trace))

    def with_version(self, version: Version) -> "History":
        """The history after *version* became known. Returns itself when that changes nothing."""
        if self.deleted is not None and not version.stamp.outlives(self.deleted):
            return self
        if any(version.repeats(known) or known.makes_needless(version) for known in self.versions):
            return self
        return History(_in_order([*self.versions, version]), self.deleted)

    def with_deletion(self, stamp: Stamp) -> "History":
        """The history after a deletion became known. Returns itself when that changes nothing."""
        if self.deleted is not None and not self.deleted.published_before(stamp):
            return self
        return History(_in_order(v for v in self.versions if v.stamp.outlives(stamp)), stamp)

    def following(self, stamp: Stamp) -> Stamp:
        """*stamp*, or as much later as it takes to come after all that is known."""
        known = [version.stamp for version in self.versions] + ([self.deleted] if self.deleted is not None else [])
        latest = max((max(s.published_at, s.made_at) + 1 for s in known), default=0)
        return Stamp.of(max(stamp.published_at, latest))


def _in_order(versions: Iterable[Version]) -> tuple[Version, ...]:
    """Those of *versions* that can count, the one that does first, then the latest published."""
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
