"""Place copies of events from core NATS among the events of the stream.

A copy has neither a sequence nor a time of publishing. It is given a time that orders it correctly, whether the
neighbouring events were applied from the stream or from copies, by this process or another. Known are the order of
the copies, the time in each `created` and `updated` event, and an upper bound of each publishing time: its arrival.
Pure: takes events, returns events.
"""

from dataclasses import dataclass, replace

from libs.core.store.history import EntityEvent, EventKind, Stamp

_LONGEST_DELAY_NANOSECONDS = 2 * 1_000_000_000
"""Maximum delay between publishing and reading a copy, unless copies of later events arrive first."""


@dataclass(slots=True)
class _Last:
    """The state of an entity's copies: the time given to the last one, and the latest time written in them."""

    published_at: int = 0
    made_by: int = 0


class CopyOrder:
    """Assigns times to copies; call :meth:`stamped` once for each, in order of arrival."""

    def __init__(self) -> None:
        self._latest_made_at = 0
        self._last: dict[str, _Last] = {}

    def stamped(self, event: EntityEvent, received_at: int) -> EntityEvent:
        """Return *event* with its place; it arrived at *received_at* by the server's clock, or slightly earlier.

        A deletion is placed right after what was published before it: placed late, it would remove an entity created
        meanwhile. A version is placed as late as it may have been created: placed early, it would count as older than a
        deletion.
        """
        last = self._last.setdefault(event.id, _Last())
        if event.kind is EventKind.DELETED:
            earliest = max(received_at - _LONGEST_DELAY_NANOSECONDS, self._latest_made_at + 1)
            published_at = max(earliest, min(last.made_by, received_at), last.published_at + 1)
            # The last published event was made before it, although its own time of publishing may be later.
            stamp = replace(Stamp.of(published_at), last_made_by=last.made_by)
        elif event.stamp.says_when_made:
            published_at = max(min(event.stamp.made_by, received_at), last.published_at + 1)
            stamp = replace(event.stamp, published_at=published_at)
            last.made_by = max(last.made_by, stamp.made_by)
            self._latest_made_at = max(self._latest_made_at, min(stamp.made_at, received_at))
        else:
            published_at = max(received_at, last.published_at + 1)
            stamp = Stamp.of(published_at)
        last.published_at = published_at
        return replace(event, stamp=stamp)
