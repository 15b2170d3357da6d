"""When a container must be dead, from the content of its keepalive over time. Pure; times are CLOCK_BOOTTIME seconds.

The file says `<boot id> <deadline> <seconds left> <counter>`; the init of a container reads it likewise (lease.c). A
fifth word, `final`, makes it the last deadline of the containers that exist then.
"""

# The init ends the bot at the deadline, and then takes up to a second for the rest of the output and the outcome.
RUNNING_MARGIN_SECONDS = 2.0
UNREADABLE_EXTRA_SECONDS = 5.0
# Of a keepalive that was never readable.
UNKNOWN_LIFE_SECONDS = 60.0


class Keepalive:
    """One keepalive file, as read from time to time.

    Args:
        boot_id: of this kernel. A deadline of another kernel cannot be compared; only changes of the file count then.
        now: from when on it is watched.
    """

    __slots__ = ("_boot_id", "_comparable", "_deadline", "_life", "_since", "_text", "last_deadline")

    def __init__(self, boot_id: str, now: float) -> None:
        self._boot_id = boot_id
        self._text: str | None = None
        self._since = now
        self._life: float | None = None
        self._deadline = 0.0
        self._comparable = False
        self.last_deadline: float | None = None
        """While the file has the last deadline of the containers that watch it."""

    def read(self, text: str | None, now: float) -> None:
        """Note the content of the file; None if it is missing or unreadable."""
        if text == self._text:
            return
        self._text, self._since = text, now
        parsed = _parsed(text)
        self._comparable = parsed is not None and parsed[0] == self._boot_id
        if parsed is None:
            return
        _, deadline, left, is_final = parsed
        until = min(deadline, now + left) if self._comparable else now + left
        if is_final or self.last_deadline is not None:
            # What is promised to the containers before says nothing about those after it.
            self._deadline, self._life = 0.0, None
        self.last_deadline = until if is_final and deadline else None
        self._life = max(left, self._life or 0.0)
        if self._comparable:
            # As in the init: an owner may give up, but never shortens what it has proven.
            self._deadline = max(self._deadline, until) if deadline else 0.0

    def frozen_limit(self) -> float:
        """Return when a frozen container must be dead: its init cannot end it, so there is nothing to wait for."""
        return self._deadline if self._comparable else self._unreadable_limit()

    def running_limit(self, found_at: float) -> float:
        """Return when a running container, found at *found_at*, must be dead: later than its init ends it."""
        if not self._comparable:
            return self._unreadable_limit()
        return max(self._deadline, self._since, found_at) + RUNNING_MARGIN_SECONDS

    def _unreadable_limit(self) -> float:
        life = UNKNOWN_LIFE_SECONDS if self._life is None else self._life
        return self._since + life + UNREADABLE_EXTRA_SECONDS


def _parsed(text: str | None) -> tuple[str, float, float, bool] | None:
    """Return boot id, deadline, seconds left and whether it is the last one; None if *text* is malformed."""
    words = (text or "").split()
    is_final = len(words) == 5 and words[4] == "final"
    if len(words) != 4 and not is_final:
        return None
    try:
        deadline, left = float(words[1]), float(words[2])
    except ValueError:
        return None
    if not (0 <= deadline < float("inf") and 0 <= left < float("inf")):
        return None
    return words[0], deadline, left, is_final
