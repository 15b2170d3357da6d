"""Where copies of events that came over core NATS stand among the events of the stream.

A copy has no sequence and no time of publishing. It is given a time that puts it in the right place whether the events
around it were applied from the stream or from copies, by this process or by another one. What is known is the order of
the copies, the time in each `created` and `updated` event, and a time before which each copy was published: that of
its arrival. Pure: takes events, returns events.
"""

from dataclasses import dataclass, replace

from libs.core.store.history import EntityEvent, EventKind, Stamp

_LONGEST_DELAY_NANOSECONDS = 2 * 1_000_000_000
"""How long after it was published a copy may be read, unless copies of events that were made later come first."""


@dataclass(slots=True)
class _Last:
    """Of the copies of an entity so far: the time given to the last one, and the latest one written in them."""

    published_at: int = 0
    made_by: int = 0


class CopyOrder:
    """Gives times to copies; call :meth:`stamped` once with each, in the order in which they arrived."""

    def __init__(self) -> None:
        self._latest_made_at = 0
        self._last: dict[str, _Last] = {}

    def stamped(self, event: EntityEvent, received_at: int) -> EntityEvent:
        """*event* with its place, given that it arrived at *received_at* by the server's clock, or somewhat before.

        A deletion comes right after what was published before it: late, it would take away what was created anew in
        the meantime. A version comes as late as it may have been made: early, it would be taken for one from before a
        deletion.
        """
        last = self._last.setdefault(event.id, _Last())
        if event.kind is EventKind.DELETED:
            earliest = max(received_at - _LONGEST_DELAY_NANOSECONDS, self._latest_made_at + 1)
            published_at = max(earliest, min(last.made_by, received_at), last.published_at + 1)
            stamp = Stamp.of(published_at)
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
