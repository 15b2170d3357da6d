"""Assign segments while this master leads: read them, decide, and send what changed."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Counter

from libs.core.aio.wake import Wake
from libs.core.config.coordination_settings import CoordinationSettings
from libs.core.errors import RuntimeFault
from libs.core.http.health import Readiness
from libs.core.leases.lease import SegmentView
from libs.core.master.assignment import Decision, decide
from libs.core.master.cordons import Cordons
from libs.core.master.counts import Waits
from libs.core.master.move_pace import MovePace
from libs.core.master.registry import Instruction, Registry, SendAssignment
from libs.core.master.room_report import room_report
from libs.core.master.status import SegmentState, segments_by_state
from libs.core.master.unacquired import Unacquired
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.observability.tracing import Headers, begin, current
from libs.core.process.isolation import isolated
from libs.core.store.leases import LeaseStore

log = get_logger(__name__)

NOT_ACQUIRED = Counter(
    "runtime_assignments_not_acquired_total", "Assigned segments whose lease the worker did not acquire within 5 s."
)

DEPENDENCY = "segments"
"""The name under which readiness shows whether segments can be read, and how many of them wait."""

_RETRY_SECONDS = 1.0
_LEAST_GAP_SECONDS = 0.05
_SENT_AT_ONCE = 200
_MOST_CAUSES = 16


@dataclass(frozen=True, slots=True)
class Assigned:
    """The last decision, the segments on which it is based, and when it was made by this process's clock."""

    survey: Sequence[SegmentView]
    decision: Decision
    at: float


class Assigner:
    """Assigns the segments of one service to the workers in *registry*.

    Args:
        leads: whether this master leads, and can prove it now.
        carry_out: sends an instruction to a worker; returns at once.
    """

    def __init__(
        self,
        segments: LeaseStore,
        registry: Registry,
        cordons: Cordons,
        settings: CoordinationSettings,
        readiness: Readiness,
        *,
        leads: Callable[[], bool],
        carry_out: Callable[[Instruction], None],
        clock: Callable[[], float],
    ) -> None:
        self._segments = segments
        self._registry = registry
        self._cordons = cordons
        self._settings = settings
        self._readiness = readiness
        self._leads = leads
        self._carry_out = carry_out
        self._clock = clock
        self._wake = Wake()
        self._surveyed = asyncio.Event()
        self._led_by: deque[Headers] = deque(maxlen=_MOST_CAUSES)
        self._oversized = False
        self._unacquired = Unacquired()
        self._waits = Waits()
        self._pace = MovePace()
        self._notices: dict[str, str] = {}
        self.assigned: Assigned | None = None
        """The last decision while this master leads; None before the first."""
        self.problem = ""
        """Why segments cannot be read now; empty if they can."""

    @property
    def notices(self) -> Sequence[str]:
        """What operators should know, by topic."""
        return [text for _, text in sorted(self._notices.items()) if text]

    def notice(self, topic: str, text: str) -> None:
        """Show *text* to operators until it is replaced; an empty text removes it."""
        self._notices[topic] = text

    def led_by(self, trace: Headers) -> None:
        """Add the trace of a change of segments to the next decision."""
        if trace:
            self._led_by.append(trace)

    def changed(self) -> None:
        """Decide soon, because segments or workers may have changed, instead of at the next interval."""
        self._wake.set()

    async def surveyed(self) -> None:
        """Return when the segments have been read once since this master leads."""
        await self._surveyed.wait()

    def segments_by_state(self) -> Mapping[SegmentState, Collection[int]]:
        """Return the segments in each state; empty before the first decision."""
        if self.assigned is None:
            return {}
        return segments_by_state(self.assigned.survey, self.assigned.decision, self._registry.workers)

    def longest_wait_seconds(self, segments: Mapping[SegmentState, Collection[int]]) -> float:
        """Return for how long one of *segments*, as they are now, waits for a worker at most."""
        now = self._clock()
        if self.assigned is not None:
            self._waits.note(segments, now)
        return self._waits.longest_seconds(now)

    def clear(self) -> None:
        """Forget everything: this master does not lead any more."""
        self.assigned, self.problem = None, ""
        self._waits, self._pace = Waits(), MovePace()
        self._unacquired.clear()
        self._surveyed.clear()
        self._notices.clear()
        self._readiness.forget(DEPENDENCY)

    async def run(self) -> None:
        """Assign forever: after each change, and at the latest after an interval."""
        while True:
            begun = self._clock()
            await self._wake.wait_at_most(0)  # the following reads include all earlier changes
            next_seconds = _RETRY_SECONDS
            with isolated("assign segments", passing=()):
                next_seconds = await self._assign_once()
            # Many workers that join at once share one decision, and rounds take a third of the time at most.
            gap = max(_LEAST_GAP_SECONDS, min(1.0, 2 * (self._clock() - begun)))
            await asyncio.sleep(gap)
            await self._wake.wait_at_most(max(0.0, next_seconds - gap))

    async def _assign_once(self) -> float:
        """Read the segments, decide, and send changed assignments; return the seconds until the next round.

        When MongoDB cannot be read nothing is decided: all workers keep the last assignment.
        """
        # Changes that arrive while the segments are read may be missing in the result.
        causes = list(self._led_by)
        survey = await self._read()
        if survey is None:
            return _RETRY_SECONDS
        settled_in_seconds = self._registry.settled_in_seconds(self._clock())
        settled = settled_in_seconds <= 0
        with observe("master", "decide"):
            decision = self._decide(survey, settled)
            deciding = begin("assign segments", parent=causes[0] if causes else {}, links=causes[1:])
            news = self._registry.apply(decision, deciding.headers, settled=settled)
            self._unacquired.assigned(decision.given, survey, self._clock())
        if settled:
            # Until then the changes may still lead to an assignment.
            self._led_by = deque((cause for cause in self._led_by if cause not in causes), maxlen=_MOST_CAUSES)
        self.assigned = Assigned(survey, decision, self._clock())
        self._surveyed.set()
        self._waits.note(self.segments_by_state(), self._clock())
        self._report(survey, decision)
        if news:
            with deciding.entered():
                await self._send(news)
            deciding.end()  # a decision without a change is not recorded
        if settled:
            await self._answer_cordons(decision)
        return self._next_seconds(decision, settled_in_seconds)

    async def _read(self) -> Sequence[SegmentView] | None:
        """Return the segments, and update the registry by what else MongoDB has; None if that is not known now."""
        read_at = self._clock()
        departures = self._registry.departures
        try:
            with observe("master", "survey"):
                survey = await self._segments.survey()
                cordons = await self._cordons.read()
        except RuntimeFault as fault:
            if not self.problem:
                log.warning("segments cannot be read; the last assignment is kept", reason=str(fault))
            self.problem = str(fault)
            self._readiness.report(DEPENDENCY, False, f"the last assignment is kept: {fault}", required=False)
            return None
        if not self._leads():
            return None
        self.problem = ""
        for refuse in self._registry.bind(_keys(survey), departures):
            self._carry_out(refuse)
        self._registry.cordon(cordons)
        for worker_id, segment_id in self._unacquired.surveyed(survey, read_at):
            NOT_ACQUIRED.inc()
            log.warning("assigned segment not acquired in time", worker=worker_id, segment=segment_id)
        return survey

    def _decide(self, survey: Sequence[SegmentView], settled: bool) -> Decision:
        now = self._clock()
        decision = decide(
            survey,
            self._registry.views(self._unacquired.overdue(now)),
            self._registry.rooms(),
            target=self._settings.max_segments_per_worker,
            settled=settled,
            resting_hosts=self._pace.resting(now),
        )
        self._pace.note(decision.moves, now)
        return decision

    async def _send(self, news: Sequence[SendAssignment]) -> None:
        current().set(assignments=len(news))
        for number, instruction in enumerate(news):
            self._carry_out(instruction)
            if number % _SENT_AT_ONCE == _SENT_AT_ONCE - 1:
                await asyncio.sleep(0)  # let heartbeats and the leadership's renewal run

    async def _answer_cordons(self, decision: Decision) -> None:
        try:
            await self._cordons.answer(decision.staying)
        except RuntimeFault as fault:
            log.warning("the state of cordons cannot be stored now", reason=str(fault))

    def _next_seconds(self, decision: Decision, settled_in_seconds: float) -> float:
        """Return when to decide again without a change."""
        times = [self._settings.assign_interval_seconds]
        if decision.next_expiry_seconds is not None:
            times.append(decision.next_expiry_seconds + 0.01)
        if settled_in_seconds > 0:
            times.append(settled_in_seconds)
        if decision.staying:
            times.append(_RETRY_SECONDS)
        if (overdue_in_seconds := self._unacquired.next_seconds(self._clock())) is not None:
            times.append(overdue_in_seconds + 0.01)
        return min(times)

    def _report(self, survey: Sequence[SegmentView], decision: Decision) -> None:
        occupied = sum(segment.bot_count > 0 for segment in survey)
        details = [f"{len(decision.waiting)} of {occupied} segments wait for a worker"] if decision.waiting else []
        self.notice("drain", _drains(decision))
        self.notice("room", str(room_report(self._registry.workers)))
        oversized = occupied > self._settings.max_segment
        if oversized:
            details.append(f"{occupied} segments are more than the {self._settings.max_segment} of --max-segment")
        if oversized and not self._oversized:
            log.warning("more segments than --max-segment", segments=occupied, max_segment=self._settings.max_segment)
        self._oversized = oversized
        self._readiness.report(DEPENDENCY, True, "; ".join(details), required=False)


def _keys(survey: Sequence[SegmentView]) -> dict[str, bytes]:
    """Return the keys to which worker ids belong by live leases."""
    leases = (segment.lease for segment in survey)
    return {lease.holder.worker_id: lease.holder.public_key for lease in leases if lease and lease.holder.public_key}


def _drains(decision: Decision) -> str:
    """Return which drained workers keep segments, and why, for users."""
    return "; ".join(
        f"{worker_id} is drained and keeps segment {segment_id}: {why}"
        for worker_id, staying in sorted(decision.staying.items())
        for segment_id, why in staying.items()
    )
