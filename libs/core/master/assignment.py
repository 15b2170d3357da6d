"""Decide which worker should own which segments: one pure function of the known state."""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from libs.core.leases.lease import SegmentView
from libs.core.master.losses import reasons_of_losses
from libs.core.master.worker_view import WorkerView
from libs.core.room import Need, Room, missing


@dataclass(frozen=True, slots=True)
class Move:
    """A move of a segment between engines, because of room or an engine that does not answer."""

    segment_id: int
    from_host: str
    to_host: str


@dataclass(frozen=True)
class Decision:
    """The owner of each segment. Segments without entities have no owner."""

    owners: Mapping[int, str]
    """Segment to the worker that should own it."""
    reserved: Mapping[int, str]
    """Segments that cannot be given yet, to the worker whose lease still runs: it is gone, leaving or disconnected."""
    waiting: Sequence[int]
    """Segments with entities and without a worker, lowest first."""
    next_expiry_seconds: float | None
    """When the first of the reserved leases may expire; None when none is reserved."""
    reasons: Mapping[str, str]
    """Why a worker loses a segment that it holds or was assigned, for users."""
    moves: Sequence[Move] = ()
    """The moves between engines that this decision begins."""
    staying: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Drained worker to the segments that no other worker can take now, with the reason for users."""

    @property
    def given(self) -> dict[str, frozenset[int]]:
        """Worker to its segments; a worker that is missing here should own nothing."""
        segments = defaultdict(set)
        for segment_id, worker_id in self.owners.items():
            segments[worker_id].add(segment_id)
        return {worker_id: frozenset(owned) for worker_id, owned in segments.items()}


def decide(
    segments: Iterable[SegmentView],
    workers: Iterable[WorkerView],
    rooms: Mapping[str, Room] | None = None,
    *,
    target: int = 16,
    settled: bool = True,
    resting_hosts: Collection[str] = (),
) -> Decision:
    """Give each segment with entities to one worker, spread evenly, with as few moves as possible.

    A segment stays with the worker that holds its lease. One under the live lease of another process, registered or
    not, is given to no other worker until that lease has expired. A segment without an owner goes to the worker with
    the fewest segments among those whose engine has room; when all own *target* or more, to the one with most room.
    Workers below *target* with the newest template come before others, so that a rollout moves a segment only once.
    Draining workers get nothing; workers with an impediment, and cordoned ones, keep what they hold. No worker gets or
    keeps a segment whose placement requires a label that it lacks: that segment waits for a worker with all of them. A
    segment moves, as a whole, only

    - from a drained worker to one whose engine has room for the whole segment,
    - from a worker above *target* to one below it,
    - from an engine where an entity waits for room to one that has room for the whole segment,
    - from an engine that does not answer to one that does.

    The same input gives the same decision, and deciding again after a decision was carried out changes nothing.

    Args:
        rooms: the free room of engines, by host; a missing host counts as unlimited.
        settled: False while more workers are about to register: segments without an owner then wait.
        resting_hosts: engines that take part in no move to another engine now, so that their reports can catch up.
    """
    return _Deciding(segments, workers, rooms or {}, target, resting_hosts).run(settled)


class _Deciding:
    """The steps of decide(), in order of precedence."""

    def __init__(
        self,
        segments: Iterable[SegmentView],
        workers: Iterable[WorkerView],
        rooms: Mapping[str, Room],
        target: int,
        resting_hosts: Collection[str],
    ) -> None:
        self.all_segments = {segment.segment_id: segment for segment in segments}
        # Sorted once, so that everything below is deterministic.
        self.workers = sorted(workers, key=lambda worker: (worker.seniority, worker.worker_id))
        self.by_id = {worker.worker_id: worker for worker in self.workers}
        staying = (worker for worker in self.workers if not worker.draining)
        newest = max(staying, key=lambda worker: worker.started, default=None)
        self.newest_template = newest.template if newest is not None else ""
        self.unowned = {
            segment_id: self.all_segments[segment_id]
            for segment_id in sorted(self.all_segments)
            if self.all_segments[segment_id].bot_count > 0
        }
        self.rooms = dict(rooms)
        self.target = target
        self.resting_hosts = set(resting_hosts)
        self.owners: dict[int, str] = {}
        self.owned: dict[str, set[int]] = defaultdict(set)
        self.reserved: dict[int, str] = {}
        self.moves: list[Move] = []
        self.staying: dict[str, Mapping[int, str]] = {}
        claims = sorted(
            ((held.epoch, held.segment_id, worker) for worker in self.workers for held in worker.held),
            key=lambda claim: claim[0],
        )
        self.held_by = {segment_id: worker for _, segment_id, worker in claims}
        self.taken_over = {
            (worker.worker_id, held.segment_id) for worker in self.workers for held in worker.held if held.taken_over
        }

    def run(self, settled: bool) -> Decision:
        self._continue_moves()
        self._keep_what_workers_hold()
        self._follow_the_leases()
        self._keep_what_was_assigned()
        if settled:
            self._place_unowned()
            self._empty_drained_workers()
            self._leave_lost_engines()
            self._relieve_full_engines()
            self._spread_above_target()
        expiries = [
            lease.remaining_seconds
            for segment_id in self.reserved
            if (lease := self.all_segments[segment_id].lease) is not None
        ]
        return Decision(
            owners=self.owners,
            reserved=self.reserved,
            waiting=list(self.unowned),
            next_expiry_seconds=min(expiries, default=None),
            reasons=reasons_of_losses(self.workers, self.all_segments, self.owners, self.reserved),
            moves=self.moves,
            staying=self.staying,
        )

    # --- segments with an owner

    def _continue_moves(self) -> None:
        """Keep a segment with the worker that it moves to while the current holder releases it."""
        for worker in self.workers:
            for segment_id in sorted(worker.assigned or ()):
                holder = self.held_by.get(segment_id)
                is_moving = (
                    segment_id in self.unowned
                    and holder is not None
                    and holder is not worker
                    and holder.assigned is not None
                    and segment_id not in holder.assigned
                    and (holder.worker_id, segment_id) not in self.taken_over
                    and holder.may_take(self.unowned[segment_id].lease)
                )
                if is_moving and self._can_add(worker, segment_id):
                    self._give(segment_id, worker)
                    if holder is not None and holder.host != worker.host:
                        self.resting_hosts |= {holder.host, worker.host}

    def _keep_what_workers_hold(self) -> None:
        # A worker's report can be newer than the survey (it has just acquired), or older (it was disconnected): a live
        # lease of another process takes precedence, and so does a claim with a higher epoch.
        claims = [(held, worker) for worker in self.workers for held in worker.held]
        claims.sort(key=lambda claim: -claim[0].epoch)
        for held, worker in claims:
            segment = self.unowned.get(held.segment_id)
            if segment is None or not worker.may_take(segment.lease):
                continue
            if held.segment_id in worker.overdue:
                continue  # unless there is a lease, see below
            if worker.draining or not worker.suits(segment):
                # Without the labels, it releases the segment first.
                self._reserve(segment.segment_id, worker.worker_id)
            elif self._has_slot(worker):
                self._give(segment.segment_id, worker)

    def _follow_the_leases(self) -> None:
        for segment_id, segment in list(self.unowned.items()):
            if segment.lease is None:
                continue
            worker = self.by_id.get(segment.lease.holder.worker_id)
            if worker is not None and worker.may_take(segment.lease) and self._can_add(worker, segment_id):
                self._give(segment_id, worker)
            else:
                self._reserve(segment_id, segment.lease.holder.worker_id)

    def _keep_what_was_assigned(self) -> None:
        for worker in self.workers:
            for segment_id in sorted(worker.assigned or ()):
                is_kept = segment_id in self.unowned and segment_id not in worker.overdue
                if is_kept and self._can_add(worker, segment_id):
                    self._give(segment_id, worker)

    # --- segments without an owner

    def _place_unowned(self) -> None:
        # A heap whose keys are recomputed when popped: within one decision a worker's key only gets worse.
        heap = [(self._rank(worker), worker.worker_id) for worker in self.workers if worker.is_open]
        heapq.heapify(heap)
        suited: dict[str, bool] = {}
        for segment_id, segment in list(self.unowned.items()):
            # Once for each placement: it must not try every worker for every segment that waits for labels.
            if segment.placement not in suited:
                suited[segment.placement] = any(worker.suits(segment) for worker in self.workers if worker.is_open)
            if not suited[segment.placement]:
                continue
            passed_over = []
            last_resort = None
            while heap:
                rank, worker_id = heapq.heappop(heap)
                worker = self.by_id[worker_id]
                current = self._rank(worker)
                if current != rank:
                    heapq.heappush(heap, (current, worker_id))
                elif segment_id in worker.overdue and self._can_add(worker, segment_id):
                    last_resort = last_resort or worker
                    passed_over.append((rank, worker_id))
                elif self._can_add(worker, segment_id):
                    self._give(segment_id, worker)
                    heapq.heappush(heap, (self._rank(worker), worker_id))
                    break
                elif self._has_slot(worker):
                    passed_over.append((rank, worker_id))
            if segment_id in self.unowned and last_resort is not None:
                self._give(segment_id, last_resort)
            for entry in passed_over:
                heapq.heappush(heap, entry)

    def _rank(self, worker: WorkerView) -> tuple[bool, bool, bool, int, int, int, int]:
        """Return the sort key by which workers are given segments, the best first."""
        number = len(self.owned[worker.worker_id])
        room = self.rooms.get(worker.host)
        free_bytes = room.free.memory_bytes if room is not None else 0
        is_full = room is not None and not room.fits(room.entity)
        over = number >= self.target
        is_old = worker.template != self.newest_template
        return (is_full, over, is_old, 0 if over else number, -free_bytes, -worker.started, worker.seniority)

    # --- moves

    def _empty_drained_workers(self) -> None:
        """Move the segments of drained workers to other workers with enough room."""
        resting = frozenset(self.resting_hosts)
        for worker in self.workers:
            if not worker.drained or worker.draining:
                continue
            # An engine that does not answer has its own rule for giving up segments.
            for segment_id in self._movable(worker) if not worker.engine_lost else ():
                to = next(self._takers(segment_id, self._ready_for(worker, resting)), None)
                if to is None:
                    continue
                if to.host != worker.host:
                    self.moves.append(Move(segment_id, worker.host, to.host))
                    self.resting_hosts |= {worker.host, to.host}
                self._move(segment_id, to)
            if left := self.owned[worker.worker_id]:
                self.staying[worker.worker_id] = {one: self._why_it_stays(worker, one, resting) for one in sorted(left)}

    def _ready_for(self, worker: WorkerView, resting: Collection[str]) -> Iterator[WorkerView]:
        """Yield the workers to which a segment of *worker* may move now, regardless of their room."""
        for to in self.workers:
            rests = to.host != worker.host and (to.host in resting or worker.host in resting)
            if to.is_open and not rests:
                yield to

    def _why_it_stays(self, worker: WorkerView, segment_id: int, resting: Collection[str]) -> str:
        if worker.engine_lost:
            return "its engine does not answer"
        segment = self.all_segments[segment_id]
        others = [to for to in self.workers if to.is_open]
        if not others:
            return "no other worker accepts segments"
        others = [to for to in others if to.suits(segment)]
        if not others:
            return f"no other worker that accepts segments has the labels {segment.placement}"
        if any(self._takers(segment_id, others)):
            return "it waits for earlier moves to complete"
        bots = self._bots(segment_id)
        rooms = {to.worker_id: self.rooms[to.host] for to in others if to.host in self.rooms}
        entity = next(iter(rooms.values())).entity if rooms else Need()
        lacks = missing(self._need(segment_id) or entity * bots, rooms)
        if lacks is None or not (lacks.memory_bytes or lacks.cpus):
            return "no other worker can take it"
        return f"it {lacks}"

    def _leave_lost_engines(self) -> None:
        """Move one segment from an engine that does not answer to one that does and has room."""
        for worker in self.workers:
            if worker.engine_lost and not worker.draining and worker.host not in self.resting_hosts:
                self._move_between_engines(worker, self._movable(worker))

    def _relieve_full_engines(self) -> None:
        """Where an entity waits for room, move its segment, or another one, to an engine with enough room."""
        for worker in self.workers:
            lacking = {held.segment_id for held in worker.held if held.demand.lacking is not None}
            if lacking and not worker.draining and worker.host not in self.resting_hosts:
                by_need = sorted(
                    self._movable(worker),
                    key=lambda segment_id: (
                        segment_id not in lacking,
                        -(self._need(segment_id) or Need()).memory_bytes,
                    ),
                )
                self._move_between_engines(worker, by_need)

    def _move_between_engines(self, worker: WorkerView, candidates: Iterable[int]) -> None:
        elsewhere = [
            to for to in self.workers if to.is_open and to.host != worker.host and to.host not in self.resting_hosts
        ]
        pairs = ((segment_id, to) for segment_id in candidates for to in self._takers(segment_id, elsewhere))
        segment_id, to = next(pairs, (None, None))
        if segment_id is not None and to is not None:
            self.moves.append(Move(segment_id, worker.host, to.host))
            self.resting_hosts |= {worker.host, to.host}
            self._move(segment_id, to)

    def _spread_above_target(self) -> None:
        """Move segments of a worker above the target to workers below it.

        A segment that left an engine for lack of room must not return, so no segment moves to an engine where an entity
        waits for room, or to one that has just taken part in a move.
        """
        waiting_hosts = {
            worker.host for worker in self.workers for held in worker.held if held.demand.lacking is not None
        }
        for worker in sorted(self.workers, key=lambda worker: -len(self.owned[worker.worker_id])):
            while len(self.owned[worker.worker_id]) > self.target:
                below = [
                    to
                    for to in self._ready_for(worker, self.resting_hosts)
                    if len(self.owned[to.worker_id]) < self.target and to.host not in waiting_hosts
                ]
                pairs = ((one, to) for one in self._movable(worker) for to in self._takers(one, below))
                segment_id, to = next(pairs, (None, None))
                if segment_id is None or to is None:
                    break
                self._move(segment_id, to)

    def _movable(self, worker: WorkerView) -> list[int]:
        """Return the segments that *worker* keeps and could release, the least disturbing first.

        A segment under another holder's lease is about to be taken over with its running containers. One that another
        worker claims with a higher epoch was acquired after the survey.
        """
        held = {held.segment_id for held in worker.held if self.held_by[held.segment_id] is worker}
        return sorted(
            (one for one in self.owned[worker.worker_id] if one in held or self.all_segments[one].lease is None),
            # A segment that is not acquired yet disturbs no entity.
            key=lambda segment_id: (segment_id in held, self.all_segments[segment_id].bot_count, -segment_id),
        )

    def _takers(self, segment_id: int, workers: Iterable[WorkerView]) -> Iterator[WorkerView]:
        """Yield those of *workers* that have room for all of *segment_id*, the best first."""
        holder = self.held_by.get(segment_id)
        need = self._need(segment_id)
        for worker in sorted(workers, key=self._rank):
            room = self.rooms.get(worker.host)
            # On the same engine the room of its entities is already reserved.
            on_same_engine = holder is not None and holder.host == worker.host
            fits = room is None or on_same_engine or room.fits(need or room.entity * self._bots(segment_id))
            disturbs = worker.refused_lately and holder is not None
            if (
                fits
                and not disturbs
                and segment_id not in self.owned[worker.worker_id]
                and segment_id not in worker.overdue
                and self._can_add(worker, segment_id)
            ):
                yield worker

    def _need(self, segment_id: int) -> Need | None:
        """Return the need of the segment's entities, as its holder reports it; None without a report."""
        holder = self.held_by.get(segment_id)
        if holder is None:
            return None
        need = next(held.demand.need for held in holder.held if held.segment_id == segment_id)
        return need if need.memory_bytes > 0 else None

    # --- bookkeeping

    def _bots(self, segment_id: int) -> int:
        return self.all_segments[segment_id].bot_count

    def _has_slot(self, worker: WorkerView) -> bool:
        return worker.at_most is None or len(self.owned[worker.worker_id]) < worker.at_most

    def _can_add(self, worker: WorkerView, segment_id: int) -> bool:
        # A worker that owns at most one segment first has to release the one that it holds.
        gives_back = worker.at_most is not None and any(
            held.segment_id not in self.owned[worker.worker_id] and held.segment_id != segment_id
            for held in worker.held
        )
        is_able = worker.can_take(segment_id) and worker.suits(self.all_segments[segment_id])
        return is_able and self._has_slot(worker) and not gives_back

    def _give(self, segment_id: int, worker: WorkerView) -> None:
        del self.unowned[segment_id]
        self.owners[segment_id] = worker.worker_id
        self.owned[worker.worker_id].add(segment_id)
        holder = self.held_by.get(segment_id)
        if holder is None or holder.host != worker.host:
            self._use_room(segment_id, worker.host)

    def _move(self, segment_id: int, to: WorkerView) -> None:
        before = self.owners[segment_id]
        self.owned[before].discard(segment_id)
        self.unowned[segment_id] = self.all_segments[segment_id]
        self._give(segment_id, to)

    def _use_room(self, segment_id: int, host: str) -> None:
        room = self.rooms.get(host)
        if room is not None:
            self.rooms[host] = room.less(self._need(segment_id) or room.entity * self._bots(segment_id))

    def _reserve(self, segment_id: int, worker_id: str) -> None:
        del self.unowned[segment_id]
        self.reserved[segment_id] = worker_id
