"""The decision, as properties over any fleet, and the cases that have a name."""

import itertools
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.autoscaler.decision import (
    OWNER_DELETION_COST,
    Decision,
    Pod,
    Reason,
    ScalingSettings,
    ScalingState,
    decide,
)
from libs.autoscaler.fleet import FleetSnapshot, NodeLoss, WorkerLoad, node_loss
from libs.core.room import Need, Room

SETTINGS = ScalingSettings(min_replicas=3, max_replicas=6)
NOW = 1000.0


def pods(count: int, owners: int = 0) -> tuple[Pod, ...]:
    return tuple(
        Pod(f"w{number}", True, "Running", True, "a", OWNER_DELETION_COST if number < owners else 0)
        for number in range(count)
    )


def state(segments: int, owners: int, replicas: int, fleet: tuple[Pod, ...] | None = None) -> ScalingState:
    """Workers w0, w1, ... of which the first *owners* own a segment."""
    owner_ids = frozenset(f"w{number}" for number in range(owners))
    return ScalingState(
        FleetSnapshot(segments, owner_ids), replicas, pods(replicas, owners) if fleet is None else fleet
    )


any_pod = st.builds(
    Pod,
    name=st.integers(0, 30).map("w{}".format),
    scheduled=st.booleans(),
    phase=st.sampled_from(["Pending", "Running", "Unknown"]),
    ready=st.booleans(),
    template=st.sampled_from(["a", "a", "a", "b"]),
    deletion_cost=st.sampled_from([0, 0, OWNER_DELETION_COST, -5, 7]),
)
any_settings = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda pair: ScalingSettings(min(pair), max(pair)))


@st.composite
def any_state(draw: st.DrawFn) -> ScalingState:
    fleet_pods = tuple(draw(st.lists(any_pod, max_size=9, unique_by=lambda pod: pod.name)))
    strangers = draw(st.lists(st.sampled_from(["elsewhere-1", "elsewhere-2"]), max_size=1))
    owners = {pod.name for pod in fleet_pods if draw(st.booleans())}
    return ScalingState(
        fleet=FleetSnapshot(draw(st.integers(0, 14)), frozenset(owners.union(strangers))),
        replicas=max(0, len(fleet_pods) + draw(st.integers(-2, 2))),
        pods=fleet_pods,
        changed_at=draw(st.none() | st.floats(NOW - 60, NOW)),
    )


@given(any_state(), any_settings)
def test_a_step_leads_up_to_the_wanted_number_or_down_by_one(current: ScalingState, settings: ScalingSettings) -> None:
    decision = decide(current, settings, NOW)

    assert settings.min_replicas <= decision.wanted <= settings.max_replicas
    if decision.replicas is not None:
        assert decision.replicas == max(decision.wanted, current.replicas - 1)
        assert decision.replicas != current.replicas


@given(any_state(), any_settings, st.floats(0, 9.99))
def test_cooldown_prevents_changes(current: ScalingState, settings: ScalingSettings, age_seconds: float) -> None:
    assert decide(replace(current, changed_at=NOW - age_seconds), settings, NOW).replicas is None


@given(any_state())
def test_whatever_pod_the_cluster_takes_it_owns_no_segment(current: ScalingState) -> None:
    known = tuple(
        replace(pod, deletion_cost=OWNER_DELETION_COST if pod.name in current.fleet.owners else 0)
        for pod in current.pods
    )
    current = replace(current, fleet=FleetSnapshot(0, current.fleet.owners), pods=known, changed_at=None)
    decision = decide(current, ScalingSettings(0, 12), NOW)
    remaining = len(current.pods) if decision.replicas is None else decision.replicas

    for order in possible_orders(current):
        leaving = order[: max(0, len(order) - remaining)]
        assert not {pod.name for pod in leaving} & current.fleet.owners


@given(any_state(), any_settings)
def test_owners_and_only_owners_are_costly_once_the_costs_are_set(
    current: ScalingState, settings: ScalingSettings
) -> None:
    decision = decide(current, settings, NOW)

    for pod in current.pods:
        cost = decision.deletion_costs.get(pod.name, pod.deletion_cost)
        assert cost == (OWNER_DELETION_COST if pod.name in current.fleet.owners else 0)


@given(any_settings, st.integers(0, 14), st.integers(0, 14))
def test_a_healthy_fleet_reaches_the_wanted_number_and_stays(
    settings: ScalingSettings, segments: int, start: int
) -> None:
    replicas = start
    for _ in range(40):
        owners = min(segments, settings.max_replicas, replicas)
        decision = decide(state(segments, owners, replicas), settings, NOW)
        replicas = replicas if decision.replicas is None else decision.replicas

    assert replicas == decision.wanted
    assert decision.reason is Reason.AT_TARGET


def possible_orders(current: ScalingState) -> list[list[Pod]]:
    """Every order in which a ReplicaSet may remove these pods: by its published rule, ties in any order."""
    phases = ["Pending", "Unknown", "Running"]

    def rank(pod: Pod) -> tuple[int, int, int, int]:
        return (int(pod.scheduled), phases.index(pod.phase), int(pod.ready), pod.deletion_cost)

    forwards = sorted(current.pods, key=rank)
    groups = [list(group) for _, group in itertools.groupby(forwards, key=rank)]
    backwards = [pod for group in groups for pod in reversed(group)]
    return [forwards, backwards]


def test_additional_segment_adds_one_worker() -> None:
    decision = decide(state(segments=5, owners=4, replicas=4), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (5, Reason.MORE_SEGMENTS)


def test_all_workers_that_are_missing_are_added_at_once() -> None:
    decision = decide(state(segments=20, owners=3, replicas=3), ScalingSettings(3, 20), NOW)

    assert (decision.replicas, decision.reason) == (20, Reason.MORE_SEGMENTS)


def test_no_more_workers_than_the_maximum() -> None:
    decision = decide(state(segments=50, owners=6, replicas=6), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.AT_TARGET)


def test_no_fewer_workers_than_the_minimum_when_no_segment_is_left() -> None:
    decision = decide(state(segments=0, owners=0, replicas=3), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.AT_TARGET)


def test_an_idle_worker_goes_once_the_owners_are_costly() -> None:
    decision = decide(state(segments=4, owners=4, replicas=5), SETTINGS, NOW)

    assert decision == Decision(4, Reason.FEWER_SEGMENTS, wanted=4, needed=4)


def test_owners_get_deletion_costs_before_any_reduction() -> None:
    decision = decide(state(segments=4, owners=4, replicas=5, fleet=pods(5)), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.COSTS_FIRST)
    assert decision.deletion_costs == {f"w{number}": OWNER_DELETION_COST for number in range(4)}


def test_no_worker_is_removed_while_every_worker_owns_a_segment() -> None:
    decision = decide(state(segments=3, owners=5, replicas=5), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.NOBODY_IDLE)


def test_no_worker_is_removed_while_an_owner_is_not_ready_and_would_be_taken_first() -> None:
    healthy = pods(5, owners=4)
    fleet = (replace(healthy[0], ready=False), *healthy[1:])

    decision = decide(state(segments=4, owners=4, replicas=5, fleet=fleet), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.OWNER_AT_RISK)


def test_no_worker_is_removed_during_a_rollout() -> None:
    healthy = pods(5, owners=3)
    fleet = (*healthy[:4], replace(healthy[4], template="b"))

    decision = decide(state(segments=3, owners=3, replicas=5, fleet=fleet), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.ROLLOUT)


def test_no_worker_is_removed_when_owners_are_not_pods_of_the_deployment() -> None:
    fleet = FleetSnapshot(3, frozenset({"laptop-17"}))

    decision = decide(ScalingState(fleet, 5, pods(5)), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.OWNER_UNKNOWN)


def test_bounds_that_contradict_each_other_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"MIN_REPLICAS \(5\).*MAX_REPLICAS \(4\)"):
        ScalingSettings(min_replicas=5, max_replicas=4)


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"min_replicas": 0, "max_replicas": 0}, True),
        ({"min_replicas": 4, "max_replicas": 4}, True),
        ({"min_replicas": -1}, False),
        ({"interval_seconds": 0.001}, True),
        ({"interval_seconds": 0.0}, False),
        ({"interval_seconds": -1.0}, False),
        ({"cooldown_seconds": 0.0}, True),
        ({"cooldown_seconds": -0.1}, False),
    ],
)
def test_bounds_and_pace_are_checked(change: dict[str, Any], allowed: bool) -> None:
    if allowed:
        replace(SETTINGS, **change)
    else:
        with pytest.raises(ValueError, match=r"MIN_REPLICAS|interval"):
            replace(SETTINGS, **change)


GOING_ORDER = [
    {"scheduled": False, "phase": "Running"},
    {"phase": "Pending"},
    {"phase": "Unknown"},
    {"ready": False},
    {},
]


@pytest.mark.parametrize("risk", GOING_ORDER[:4])
@pytest.mark.parametrize("spare", GOING_ORDER)
def test_idle_worker_goes_only_where_the_cluster_takes_it_before_an_owner(
    spare: dict[str, Any], risk: dict[str, Any]
) -> None:
    # Of two pods the cluster removes the one earlier in GOING_ORDER; the cost decides between equal ones.
    owner = Pod("w0", **{**ORDINARY, **risk, "deletion_cost": OWNER_DELETION_COST})
    idle = Pod("w1", **{**ORDINARY, **spare})
    bounds = ScalingSettings(0, 6)

    decision = decide(ScalingState(FleetSnapshot(1, frozenset(["w0"])), 2, (owner, idle)), bounds, NOW)

    goes = GOING_ORDER.index(spare) <= GOING_ORDER.index(risk)
    assert decision.reason is (Reason.FEWER_SEGMENTS if goes else Reason.OWNER_AT_RISK)


ORDINARY: dict[str, Any] = {"scheduled": True, "phase": "Running", "ready": True, "template": "a"}


def test_change_is_allowed_again_when_the_cooldown_is_over() -> None:
    current = replace(state(segments=5, owners=4, replicas=4), changed_at=NOW - SETTINGS.cooldown_seconds)

    assert decide(current, SETTINGS, NOW).replicas == 5
    assert decide(replace(current, changed_at=NOW - 9.99), SETTINGS, NOW).reason is Reason.COOLING_DOWN


def test_pod_that_was_an_owner_loses_its_cost() -> None:
    decision = decide(state(segments=3, owners=1, replicas=3, fleet=pods(3, owners=2)), SETTINGS, NOW)

    assert decision.deletion_costs == {"w1": 0}


# ---- segments, room and those that stand by

TWO_NODES = {"w0": "n1", "w1": "n1", "w2": "n2", "w3": "n2"}


def load(*needs: int, free: int | None = 0, lacking: int | None = None) -> WorkerLoad:
    """A worker that owns a segment of each of *needs*, on an engine with room for 100."""
    segments = {number: Need(need) for number, need in enumerate(needs)}
    room = Room(Need(100), Need(free), Need(10)) if free is not None else None
    return WorkerLoad("", segments, frozenset() if lacking is None else frozenset([lacking]), room)


def fleet_of(segments: int, unowned: int = 0, **workers: WorkerLoad) -> FleetSnapshot:
    loads = {name: replace(one, host=f"host-{name}") for name, one in workers.items()}
    return FleetSnapshot(segments, frozenset(name for name, one in loads.items() if one.needs), loads, unowned)


def on_two_nodes(count: int) -> tuple[Pod, ...]:
    return tuple(replace(pod, node=TWO_NODES[pod.name]) for pod in pods(count))


def needed(snapshot: FleetSnapshot, per_worker: int = 16, standby: int | Literal["node"] = 0) -> int:
    bounds = ScalingSettings(0, 99, segments_per_worker=per_worker, standby=standby)
    return decide(ScalingState(snapshot, 1, on_two_nodes(4)), bounds, NOW).needed


@pytest.mark.parametrize(("segments", "workers"), [(0, 0), (1, 1), (16, 1), (17, 2), (33, 3)])
def test_segments_are_divided_by_the_target_and_rounded_up(segments: int, workers: int) -> None:
    assert needed(fleet_of(segments)) == workers


def test_room_needs_more_workers_than_the_number_of_segments() -> None:
    assert needed(fleet_of(3, w0=load(90, 80, 40, free=-110))) == 3


def test_entities_without_a_worker_count_for_room_as_usual_ones() -> None:
    assert needed(fleet_of(2, unowned=15, w0=load(60, free=40))) == 3


def test_processors_count_for_room_as_memory_does() -> None:
    room = Room(Need(100, 4.0), Need(40, 0.0), Need(10))

    assert needed(fleet_of(1, w0=WorkerLoad("", {1: Need(20, 9.0)}, frozenset(), room))) == 3


def test_entity_waiting_for_room_adds_one_worker_if_its_segment_fits() -> None:
    waits = load(30, 50, free=5, lacking=1)

    assert needed(fleet_of(2, w0=waits)) == 2
    assert needed(fleet_of(2, w0=waits, w1=load(free=60))) == 1


def test_entity_too_large_for_any_engine_adds_no_worker() -> None:
    assert needed(fleet_of(1, w0=load(101, free=5, lacking=0))) == needed(fleet_of(1, w0=load(101, free=5)))


def test_workers_that_stand_by_come_on_top() -> None:
    assert needed(fleet_of(5, w0=load(10)), per_worker=5, standby=2) == 3


def test_worker_that_stood_by_and_was_given_a_segment_asks_for_no_other_one() -> None:
    assert needed(fleet_of(3, w0=load(10), w1=load(10), w2=load()), standby=1) == 2
    assert needed(fleet_of(3, w0=load(10), w1=load(10), w2=load(10)), standby=1) == 2


def test_as_many_stand_by_as_own_something_on_the_fullest_node() -> None:
    snapshot = fleet_of(3, w0=load(10), w1=load(10), w2=load(10), w3=load())

    assert needed(snapshot, per_worker=1, standby="node") == 5


def test_worker_that_does_not_live_makes_its_node_no_fuller() -> None:
    snapshot = replace(fleet_of(3, w0=load(10), w2=load(10)), owners=frozenset(["w0", "w1", "w2"]))

    assert needed(snapshot, per_worker=1, standby="node") == 4


def test_node_loss_is_reported_if_maximum_forbids_standby() -> None:
    snapshot = fleet_of(3, w0=load(60, 30, free=10), w2=load(50, free=35))
    current = ScalingState(snapshot, 3, on_two_nodes(4))

    tight = decide(current, ScalingSettings(0, 3, segments_per_worker=1, standby="node"), NOW)
    wide = decide(current, ScalingSettings(0, 4, segments_per_worker=1, standby="node"), NOW)

    assert (tight.wanted, tight.needed, tight.loss) == (3, 4, NodeLoss("n1", 1))
    assert (wide.wanted, wide.needed, wide.loss) == (4, 4, None)


def test_loss_of_a_node_leaves_nothing_waiting_that_has_room_elsewhere() -> None:
    assert node_loss(fleet_of(2, w0=load(40, free=60), w2=load(40, free=60)), TWO_NODES) is None


def test_idle_worker_without_a_report_counts_as_good_for_one_segment() -> None:
    snapshot = fleet_of(2, w0=load(40, 40, free=20), w2=load(free=None))

    assert node_loss(snapshot, TWO_NODES) == NodeLoss("n1", 1)


def test_worker_that_an_operator_set_aside_is_replaced() -> None:
    aside = replace(state(5, 5, 5), fleet=FleetSnapshot(5, frozenset(), set_aside=1))

    assert decide(aside, SETTINGS, NOW).wanted == 6
