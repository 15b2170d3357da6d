"""An attempt starts its run at most once, and its container stays until its end is recorded, after any death."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.core.aio.backoff import Backoff
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, UserError
from libs.core.room import Need
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer
from libs.docker_runner.engine.room import Shortage
from libs.docker_runner.errors import AlreadyRunning, EngineUnavailable, NoRoom, StartFailed
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Placement
from libs.docker_runner.runs.attempt import NOT_STARTED, Attempt, AttemptResult, RunKit
from libs.docker_runner.runs.stop_orders import StopOrder
from tests.support.fakes.fake_host import FakeHost, container_of
from tests.support.virtual_time import in_virtual_time

LOST = EngineUnavailable("start", "no answer")
LATE = StopOrder("late", 7.0)
PATIENCE_SECONDS = 60.0
T0 = 1_000_000_000.0


def executable(run_id: str = "r", **more: Any) -> Executable:
    return Executable(
        id=more.pop("id", "b"),
        service="s",
        scope="x",
        runtime="python3.11",
        entrypoint=Entrypoint.BOT,
        script="main.py",
        code=CodeRef("bots", "key"),
        placement=Placement("image"),
        run_id=run_id,
        **more,
    )


@dataclass
class Host(FakeHost):
    """A host that notes what is done to its containers."""

    calls: list[str] = field(default_factory=list)
    stops: list[tuple[str, float, EndReason]] = field(default_factory=list)
    lists: int = 0

    @property
    def begun(self) -> list[str]:
        """The run ids of the containers that were made."""
        return [call.removeprefix("made ") for call in self.calls if call.startswith("made ")]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made = lambda container: self.calls.append(f"made {container.run_id}")

    async def list(self) -> list[ManagedContainer]:
        self.lists += 1
        return await super().list()

    async def start(self, executable: Executable) -> ManagedContainer:
        container = await super().start(executable)
        if container.container_id in self.containers:
            self.containers[container.container_id] = container = replace(container, started_at=now())
        return container

    async def stop(
        self, container: ManagedContainer, grace_seconds: float = 30.0, reason: EndReason = EndReason.STOPPED
    ) -> Ended:
        self.stops.append((container.run_id, grace_seconds, reason))
        self.calls.append(f"stopped {container.run_id}")
        return await super().stop(container, grace_seconds, reason)

    async def remove(self, container: ManagedContainer) -> Ended:
        self.calls.append(f"removed {container.run_id}")
        return await super().remove(container)

    def put(self, run_id: str, state: ContainerState = ContainerState.RUNNING, **more: Any) -> ManagedContainer:
        """A container that is there already."""
        container = replace(container_of(executable(run_id, **more)), state=state)
        self.containers[container.container_id] = container
        return container


@dataclass
class Slow(Host):
    """A host whose starts take twenty seconds."""

    async def start(self, executable: Executable) -> ManagedContainer:
        await asyncio.sleep(20.0)
        return await super().start(executable)


@dataclass
class Stubborn(Host):
    """A host whose containers end on SIGKILL only."""

    stop_faults: list[Exception] = field(default_factory=list)

    async def stop(
        self, container: ManagedContainer, grace_seconds: float = 30.0, reason: EndReason = EndReason.STOPPED
    ) -> Ended:
        if self.stop_faults:
            self.stops.append((container.run_id, grace_seconds, reason))
            raise self.stop_faults.pop(0)
        if grace_seconds >= 1:
            self.stops.append((container.run_id, grace_seconds, reason))
            await asyncio.sleep(grace_seconds)
            return await FakeHost.stop(self, container, 0.0, reason)
        return await super().stop(container, grace_seconds, reason)


@dataclass
class Blind(Host):
    """A host that lists only the containers of the run `r`."""

    async def list(self) -> list[ManagedContainer]:
        return [container for container in await super().list() if container.run_id == "r"]


@dataclass
class Policy:
    """The policy of a run on *host*; *order* is its stop order."""

    host: Host
    order: StopOrder | None = None
    is_ready: Callable[[], Awaitable[bool | AttemptResult]] | None = None
    cannot_build: UserError | None = None
    timeout_seconds: float | None = None
    refusals: list[NoRoom | None] = field(default_factory=list)
    results: list[AttemptResult] = field(default_factory=list)
    record_faults: list[Exception] = field(default_factory=list)
    attempt: Attempt[str] = field(init=False)

    def stop_order(self) -> StopOrder | None:
        return self.order

    def build(self) -> Executable:
        if self.cannot_build is not None:
            raise self.cannot_build
        return executable()

    async def ready(self, executable: Executable, refusal: NoRoom | None) -> bool | AttemptResult:
        self.refusals.append(refusal)
        await asyncio.sleep(0)
        return await self.is_ready() if self.is_ready is not None else True

    def start_patience_seconds(self, error: Retryable) -> float:
        return PATIENCE_SECONDS

    def rejected(self, error: UserError) -> AttemptResult:
        return AttemptResult("rejected", str(error))

    async def see_through(self, container: ManagedContainer) -> AttemptResult:
        self.host.calls.append(f"seen {container.run_id}")
        order = await self.attempt.watch(container, self.timeout_seconds, LATE)
        ended = await self.host.exit_info(container)
        assert ended is not None
        return AttemptResult(order.reason if order is not None else str(ended.reason), ended=ended)

    async def record(self, result: AttemptResult) -> str:
        await asyncio.sleep(0)
        if self.record_faults:
            raise self.record_faults.pop(0)
        self.host.calls.append("recorded")
        self.results.append(result)
        return result.reason


def attempt(policy: Policy, *, proven: Callable[[], bool] = lambda: True, **more: Any) -> Attempt[str]:
    host = policy.host

    async def note(ended: Ended) -> None:
        host.calls.append(f"noted {ended.container.run_id}")

    made = Attempt(
        "b",
        "r",
        kit=RunKit(
            engine=host, proven=proven, containers=host.list, stop_grace_seconds=9.0, clock=lambda: T0 + seconds()
        ),
        policy=policy,
        container_ended=note,
        backoff=Backoff(1.0, 8.0, jitter=0.0),
        wake=Wake(),
        **more,
    )
    policy.attempt = made
    host.changed = lambda entity_id: made.changed()
    return made


def seconds() -> float:
    return asyncio.get_running_loop().time()


def now() -> datetime:
    return datetime.fromtimestamp(T0 + seconds(), UTC)


async def order_at(policy: Policy, moment: float, order: StopOrder) -> None:
    await asyncio.sleep(moment)
    policy.order = order
    for _ in range(3):  # several things may change at once
        policy.attempt.changed()
        await asyncio.sleep(0)


# --- a life


@in_virtual_time
async def test_end_is_recorded_before_the_container_is_removed() -> None:
    host = Host(run_seconds=5.0)
    assert await attempt(Policy(host)).carry_out() == "finished"
    assert host.calls == ["made r", "seen r", "recorded", "removed r"]
    assert seconds() == 5.0


@in_virtual_time
async def test_container_is_shown_from_its_start_to_its_removal() -> None:
    policy = Policy(Host(run_seconds=5.0))
    going = asyncio.create_task(attempt(policy).carry_out())
    await asyncio.sleep(4.0)
    shown = policy.attempt.container
    await going
    assert shown is not None
    assert shown.run_id == "r"
    assert policy.attempt.container is None


@in_virtual_time
async def test_record_that_fails_leaves_the_container() -> None:
    policy = Policy(Host(), record_faults=[ValueError("a defect")])
    with pytest.raises(ValueError, match="a defect"):
        await attempt(policy).carry_out()
    assert list(policy.host.containers) == ["c-r"]


@in_virtual_time
async def test_adopted_container_is_seen_through_without_a_start() -> None:
    host = Host()
    policy = Policy(host)
    adopted = host.put("r")
    asyncio.get_running_loop().call_later(3.0, host.end, adopted.container_id)
    assert await attempt(policy, adopted=adopted).carry_out() == "finished"
    assert host.starts == []
    assert host.calls == ["seen r", "recorded", "removed r"]


@in_virtual_time
async def test_end_whose_event_is_lost_is_noticed() -> None:
    host = Host(run_seconds=5.0)
    carrying = attempt(Policy(host))
    host.changed = lambda entity_id: None
    assert await carrying.carry_out() == "finished"
    assert seconds() <= 40.0


# --- at most one start


@in_virtual_time
async def test_start_whose_answer_was_lost_is_not_repeated() -> None:
    host = Host(run_seconds=50.0, faults_after=[LOST])
    assert await attempt(Policy(host)).carry_out() == "finished"
    assert len(host.starts) == 1


@in_virtual_time
async def test_run_that_ended_before_its_lost_start_was_looked_at_is_not_repeated() -> None:
    host = Host(run_seconds=0.1, faults_after=[LOST])
    assert await attempt(Policy(host)).carry_out() == "finished"
    assert host.begun == ["r"]


@in_virtual_time
async def test_run_is_not_started_again_before_it_is_known_that_it_is_not_there() -> None:
    host = Host(run_seconds=0.1, faults_after=[LOST])
    policy = Policy(host)
    going = asyncio.create_task(attempt(policy).carry_out())
    await asyncio.sleep(0.05)
    host.away = LOST
    await asyncio.sleep(20.0)
    starts = len(host.starts)
    host.away = None
    assert await going == "finished"
    assert (starts, host.begun) == (1, ["r"])


@in_virtual_time
async def test_start_that_made_nothing_is_repeated() -> None:
    host = Host(faults=[LOST, StartFailed("n", "port taken")])
    assert await attempt(Policy(host)).carry_out() == "finished"
    assert (len(host.starts), host.begun) == (3, ["r"])


@in_virtual_time
async def test_start_that_is_known_to_have_made_nothing_is_not_looked_for_again() -> None:
    policy = Policy(Host(faults=[LOST]))

    async def later() -> bool:
        await asyncio.sleep(1.0)
        return seconds() < 1.5 or seconds() > 100.0

    policy.is_ready = later
    assert await attempt(policy).carry_out() == "finished"
    assert policy.host.lists == 1


@in_virtual_time
async def test_run_of_an_earlier_owner_is_looked_for_before_the_first_start() -> None:
    host = Host()
    host.end(host.put("r").container_id)
    assert await attempt(Policy(host), may_be_started=True).carry_out() == "finished"
    assert host.starts == []


@in_virtual_time
async def test_container_that_was_made_and_not_started_is_removed_before_the_next_start() -> None:
    host = Host()
    host.put("r", ContainerState.CREATED)
    assert await attempt(Policy(host), may_be_started=True).carry_out() == "finished"
    assert host.calls[:2] == ["removed r", "made r"]


@in_virtual_time
async def test_containers_of_other_entities_are_left_alone() -> None:
    host = Host()
    host.put("r0", id="other")
    policy = Policy(host)
    carrying = attempt(policy)
    await carrying.clear()
    await carrying.carry_out()
    assert list(host.containers) == ["c-r0"]


@pytest.mark.parametrize("same_version", [True, False])
@in_virtual_time
async def test_earlier_run_in_the_way_is_ended_noted_and_removed_before_the_start(same_version: bool) -> None:
    host = Host(faults=[] if same_version else [AlreadyRunning("n", "r0")])
    host.put("r0")
    assert await attempt(Policy(host)).carry_out() == "finished"
    assert host.calls[:4] == ["stopped r0", "noted r0", "removed r0", "made r"]
    assert host.stops[0] == ("r0", 9.0, EndReason.STOPPED)
    assert seconds() < 0.5, "it is no failed start: there is no backoff"


@in_virtual_time
async def test_run_of_another_segment_in_the_way_is_ended_as_well() -> None:
    host = Blind()
    host.put("r0")
    assert await attempt(Policy(host)).carry_out() == "finished"
    assert host.calls[:4] == ["stopped r0", "noted r0", "removed r0", "made r"]


@in_virtual_time
async def test_run_in_the_way_that_cannot_be_seen_is_waited_for_with_backoff() -> None:
    policy = Policy(Host(faults=[AlreadyRunning("n", "r0")] * 3))
    assert await attempt(policy).carry_out() == "finished"
    assert seconds() == pytest.approx(7.0, abs=0.1)


@in_virtual_time
async def test_own_run_whose_document_has_changed_is_taken_and_not_ended() -> None:
    host = Host(faults=[AlreadyRunning("n", "r")])
    asyncio.get_running_loop().call_later(3.0, host.end, host.put("r").container_id)
    assert await attempt(Policy(host)).carry_out() == "finished"
    assert host.calls == ["seen r", "recorded", "removed r"]


# --- the lease


@in_virtual_time
async def test_nothing_is_written_or_started_while_the_lease_is_not_proven() -> None:
    policy = Policy(Host())
    proven = False
    going = asyncio.create_task(attempt(policy, proven=lambda: proven).carry_out())
    await asyncio.sleep(100.0)
    assert (policy.refusals, policy.host.starts) == ([], [])
    proven = True
    assert await going == "finished"


@in_virtual_time
async def test_lease_that_is_lost_while_the_run_is_recorded_prevents_the_start() -> None:
    policy = Policy(Host())
    proven = True

    async def lose() -> bool:
        nonlocal proven
        proven = False
        return True

    policy.is_ready = lose
    going = asyncio.create_task(attempt(policy, proven=lambda: proven).carry_out())
    await asyncio.sleep(100.0)
    assert policy.host.starts == []
    policy.order = StopOrder("gone")
    assert await going == "gone"


@in_virtual_time
async def test_stop_order_that_comes_while_the_run_is_recorded_prevents_the_start() -> None:
    policy = Policy(Host())

    async def withdraw() -> bool:
        policy.order = StopOrder("withdrawn")
        return True

    policy.is_ready = withdraw
    assert await attempt(policy).carry_out() == "withdrawn"
    assert policy.host.starts == []


# --- stop orders


@in_virtual_time
async def test_stop_order_ends_the_run_once_with_its_grace() -> None:
    policy = Policy(Host(run_seconds=None))
    carrying = attempt(policy)
    ordering = asyncio.create_task(order_at(policy, 5.0, StopOrder("deleted", 3.0)))
    assert await carrying.carry_out() == "deleted"
    await ordering
    assert policy.host.stops == [("r", 3.0, EndReason.STOPPED)]
    assert seconds() == 5.0


@in_virtual_time
async def test_run_that_is_not_wanted_is_not_begun() -> None:
    policy = Policy(Host(), order=StopOrder("killed", again=True))
    assert await attempt(policy).carry_out() == "killed"
    [result] = policy.results
    assert (result.message, result.again, result.ended) == ("the run was stopped before its start", True, None)
    assert (policy.host.starts, policy.refusals) == ([], [])


@in_virtual_time
async def test_message_of_a_stop_order_is_that_of_the_result() -> None:
    policy = Policy(Host(), order=StopOrder("killed", message="by alice"))
    await attempt(policy).carry_out()
    assert (policy.results[0].message, policy.results[0].again) == ("by alice", False)


@pytest.mark.parametrize("made", [True, False])
@in_virtual_time
async def test_stop_order_interrupts_a_start_that_hangs(made: bool) -> None:
    policy = Policy(Host(run_seconds=None, hang_after=made, hang_before=not made))
    carrying = attempt(policy)
    ordering = asyncio.create_task(order_at(policy, 5.0, StopOrder("killed", interrupts=True)))
    assert await carrying.carry_out() == "killed"
    await ordering
    assert seconds() == 5.0
    assert (policy.results[0].ended is not None) is made
    assert policy.host.containers == {}


@in_virtual_time
async def test_start_that_the_order_does_not_interrupt_is_ended_when_it_is_there() -> None:
    policy = Policy(Slow(run_seconds=None))
    carrying = attempt(policy)
    ordering = asyncio.create_task(order_at(policy, 5.0, StopOrder("deleted")))
    assert await carrying.carry_out() == "deleted"
    await ordering
    assert seconds() == 20.0
    assert policy.host.begun == ["r"]
    assert policy.host.alive("b") == []


@in_virtual_time
async def test_start_goes_on_when_something_else_has_changed() -> None:
    policy = Policy(Host(run_seconds=None, hang_before=True))
    going = asyncio.create_task(attempt(policy).carry_out())
    for _ in range(3):
        await asyncio.sleep(1.0)
        policy.attempt.changed()
    assert len(policy.host.starts) == 1
    assert not going.done()
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going


@in_virtual_time
async def test_stop_order_after_a_lost_start_ends_the_container_that_it_made() -> None:
    policy = Policy(Host(run_seconds=None, faults_after=[LOST]))
    going = asyncio.create_task(attempt(policy).carry_out())
    await asyncio.sleep(0.5)
    await order_at(policy, 0.0, StopOrder("killed"))
    assert await going == "killed"
    assert policy.results[0].ended is not None
    assert policy.host.alive("b") == []


@in_virtual_time
async def test_run_is_not_ended_while_its_start_is_unknown() -> None:
    host = Host(run_seconds=None, faults_after=[LOST], away=LOST)
    policy = Policy(host)
    going = asyncio.create_task(attempt(policy).carry_out())
    await asyncio.sleep(0.5)
    await order_at(policy, 0.0, StopOrder("killed"))
    await asyncio.sleep(100.0)
    assert policy.results == []
    host.away = None
    assert await going == "killed"
    assert policy.results[0].ended is not None


@in_virtual_time
async def test_stop_order_ends_the_pause_after_a_failed_start() -> None:
    policy = Policy(Host(faults=[LOST] * 5))
    carrying = attempt(policy)
    ordering = asyncio.create_task(order_at(policy, 1.5, StopOrder("killed")))
    assert await carrying.carry_out() == "killed"
    await ordering
    assert seconds() == 1.5


@in_virtual_time
async def test_order_with_less_grace_cuts_a_stop_short() -> None:
    policy = Policy(Stubborn(run_seconds=None))
    carrying = attempt(policy)
    ordering = [
        asyncio.create_task(order_at(policy, 5.0, StopOrder("replaced", 30.0))),
        asyncio.create_task(order_at(policy, 6.0, StopOrder("deleted", 30.0))),
        asyncio.create_task(order_at(policy, 8.0, StopOrder("killed", 0.0))),
    ]
    assert await carrying.carry_out() == "killed"
    await asyncio.gather(*ordering)
    assert [stop[:2] for stop in policy.host.stops] == [("r", 30.0), ("r", 0.0)]
    assert seconds() == 8.0


@in_virtual_time
async def test_stop_lasts_as_long_as_its_grace() -> None:
    policy = Policy(Stubborn(run_seconds=None))
    carrying = attempt(policy)
    ordering = asyncio.create_task(order_at(policy, 5.0, StopOrder("replaced", 30.0)))
    assert await carrying.carry_out() == "replaced"
    await ordering
    assert seconds() == 35.0


@in_virtual_time
async def test_stop_that_fails_is_repeated() -> None:
    policy = Policy(Stubborn(run_seconds=None, stop_faults=[LOST]), order=None)
    carrying = attempt(policy)
    ordering = asyncio.create_task(order_at(policy, 5.0, StopOrder("replaced", 3.0)))
    assert await carrying.carry_out() == "replaced"
    await ordering
    assert [stop[:2] for stop in policy.host.stops] == [("r", 3.0)] * 2


# --- time limits


@in_virtual_time
async def test_run_that_takes_too_long_is_ended_by_the_late_order() -> None:
    policy = Policy(Host(run_seconds=None), timeout_seconds=10.0)
    assert await attempt(policy).carry_out() == "late"
    assert policy.host.stops == [("r", 7.0, EndReason.TIMEOUT)]
    assert seconds() == pytest.approx(10.0)


@in_virtual_time
async def test_run_that_ends_in_time_is_not_late() -> None:
    policy = Policy(Host(run_seconds=9.0), timeout_seconds=10.0)
    assert await attempt(policy).carry_out() == "finished"


@in_virtual_time
async def test_time_of_an_adopted_run_counts_from_its_start() -> None:
    host = Host(run_seconds=None)
    known = host.put("r")
    host.containers[known.container_id] = replace(known, started_at=now() - timedelta(seconds=8))
    policy = Policy(host, timeout_seconds=10.0)
    # As a list has it.
    adopted = replace(known, started_at=None)
    assert await attempt(policy, adopted=adopted).carry_out() == "late"
    assert seconds() == pytest.approx(2.0)


# --- what prevents a start


@in_virtual_time
async def test_starts_that_fail_for_too_long_are_given_up() -> None:
    policy = Policy(Host(faults=[StartFailed("n", "no such network")] * 100))
    assert await attempt(policy).carry_out() == NOT_STARTED
    [result] = policy.results
    assert result.again
    assert "no such network" in result.message
    assert PATIENCE_SECONDS < seconds() <= PATIENCE_SECONDS + 8.0
    # 1, 2, 4 and then 8 seconds apart.
    assert len(policy.host.starts) == 3 + 1 + int((PATIENCE_SECONDS - 7.0) // 8.0) + 1


@in_virtual_time
async def test_patience_counts_from_when_the_policy_was_ready() -> None:
    policy = Policy(Host(faults=[LOST]))

    async def after_a_while() -> bool:
        if seconds() < 10 * PATIENCE_SECONDS:
            await asyncio.sleep(1.0)
            return False
        return True

    policy.is_ready = after_a_while
    assert await attempt(policy).carry_out() == "finished"


@in_virtual_time
async def test_refusal_for_want_of_room_is_handed_to_the_policy_once() -> None:
    refusal = NoRoom("n", Shortage(Need(2), Need(1), Need()))
    policy = Policy(Host(faults=[refusal]))
    assert await attempt(policy).carry_out() == "finished"
    assert policy.refusals == [None, refusal]


@in_virtual_time
async def test_result_of_the_policy_takes_the_place_of_a_start() -> None:
    policy = Policy(Host())

    async def missed() -> AttemptResult:
        return AttemptResult("missed")

    policy.is_ready = missed
    assert await attempt(policy).carry_out() == "missed"
    assert policy.host.starts == []


@in_virtual_time
async def test_executable_that_cannot_be_built_is_rejected() -> None:
    policy = Policy(Host(), cannot_build=UserError("custom.filePath is missing"))
    assert await attempt(policy).carry_out() == "rejected"
    assert policy.results[0].message == "custom.filePath is missing"


@in_virtual_time
async def test_executable_that_the_engine_rejects_is_not_started_again() -> None:
    policy = Policy(Host(faults=[UserError("there is no code")]))
    assert await attempt(policy).carry_out() == "rejected"
    assert len(policy.host.starts) == 1


@in_virtual_time
async def test_run_that_goes_on_is_seen_through_though_its_document_is_wrong_now() -> None:
    host = Host()
    asyncio.get_running_loop().call_later(3.0, host.end, host.put("r").container_id)
    policy = Policy(host, cannot_build=UserError("custom.filePath is missing"))
    assert await attempt(policy, may_be_started=True).carry_out() == "finished"


@in_virtual_time
async def test_unexpected_fault_is_raised() -> None:
    with pytest.raises(OSError, match="no space"):
        await attempt(Policy(Host(faults=[OSError("no space")]))).carry_out()


@in_virtual_time
async def test_start_that_times_out_by_itself_is_a_fault() -> None:
    with pytest.raises(TimeoutError, match="of its own"):
        await attempt(Policy(Host(faults=[TimeoutError("of its own")]))).carry_out()


@in_virtual_time
async def test_room_is_kept_for_a_run_while_it_starts() -> None:
    policy = Policy(Slow())
    going = asyncio.create_task(attempt(policy).carry_out())
    await asyncio.sleep(5.0)
    room = policy.host.room
    await room.refresh()
    during = room.reservations()
    await going
    await room.refresh()
    after = room.reservations()
    assert during is not None
    assert executable().room.name in during.by_name
    assert after is not None
    assert after.by_name == {}


# --- containers of others, and no container


@in_virtual_time
async def test_lost_start_takes_the_container_of_its_own_run_among_others() -> None:
    host = Host(faults_after=[LOST])
    other = host.put("r9", id="other")
    assert await attempt(Policy(host)).carry_out() == "finished"
    assert host.begun == ["r"]
    assert "removed r" in host.calls
    assert list(host.containers) == [other.container_id]


@in_virtual_time
async def test_adopted_container_that_is_gone_has_ended() -> None:
    host = Host()
    gone = replace(container_of(executable()), started_at=None)
    assert await attempt(Policy(host, timeout_seconds=10.0), adopted=gone).carry_out() == EndReason.MISSING
    assert host.starts == []


@in_virtual_time
async def test_rejected_start_has_no_container_to_look_for() -> None:
    host = Host(faults=[UserError("there is no code")], away=LOST)
    assert await attempt(Policy(host)).carry_out() == "rejected"
    assert (host.lists, seconds()) == (0, 0.0)


@in_virtual_time
async def test_run_that_was_never_requested_has_no_container_to_look_for() -> None:
    host = Host(away=LOST)
    assert await attempt(Policy(host, order=StopOrder("killed"))).carry_out() == "killed"
    assert (host.lists, seconds()) == (0, 0.0)


@in_virtual_time
async def test_interrupting_order_after_the_start_ends_the_run() -> None:
    policy = Policy(Host(run_seconds=None))
    carrying = attempt(policy)
    ordering = asyncio.create_task(order_at(policy, 5.0, StopOrder("killed", interrupts=True)))
    assert await carrying.carry_out() == "killed"
    await ordering
    assert [stop[:2] for stop in policy.host.stops] == [("r", 0.0)]


# --- results


@pytest.mark.parametrize(("reason", "succeeded"), [(EndReason.FINISHED, True), (EndReason.ERROR, False)])
def test_only_a_finished_attempt_succeeded_and_none_is_repeated_by_default(reason: EndReason, succeeded: bool) -> None:
    result = AttemptResult(reason)
    assert (result.succeeded, result.again) == (succeeded, False)


# --- deaths


@in_virtual_time
async def test_owner_that_dies_anywhere_leaves_one_run_to_the_next() -> None:
    for step in range(200):
        host = Host(run_seconds=5.0)
        first = Policy(host)
        going = asyncio.create_task(attempt(first).carry_out())
        for _ in range(step):
            await asyncio.sleep(0 if step < 50 else 0.1)
        died = going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        if not died:
            break
        second = Policy(host)
        if not first.results:
            assert await attempt(second, may_be_started=True).carry_out() == "finished"
        assert host.begun == ["r"]
        assert len(first.results) + len(second.results) == 1
    else:
        pytest.fail("the run never ended")
    assert step > 50


@in_virtual_time
async def test_owner_that_dies_while_a_start_hangs_leaves_its_container_to_the_next() -> None:
    host = Host(run_seconds=5.0, hang_after=True)
    going = asyncio.create_task(attempt(Policy(host)).carry_out())
    await asyncio.sleep(1.0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    host.hang_after = False
    assert await attempt(Policy(host), may_be_started=True).carry_out() == "finished"
    assert host.begun == ["r"]
