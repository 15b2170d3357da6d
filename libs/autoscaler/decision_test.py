"""The decision, as properties over any fleet, and the cases that have a name."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.autoscaler.decision import (
    OWNER_DELETION_COST,
    Decision,
    FleetSnapshot,
    Pod,
    Reason,
    ScalingSettings,
    ScalingState,
    decide,
)

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
def test_a_step_is_one_replica_towards_the_wanted_number(current: ScalingState, settings: ScalingSettings) -> None:
    decision = decide(current, settings, NOW)

    assert settings.min_replicas <= decision.wanted <= settings.max_replicas
    if decision.replicas is not None:
        assert abs(decision.replicas - current.replicas) == 1
        assert abs(decision.replicas - decision.wanted) < abs(current.replicas - decision.wanted)


@given(any_state(), any_settings, st.floats(0, 9.99))
def test_nothing_changes_within_the_cooldown(
    current: ScalingState, settings: ScalingSettings, age_seconds: float
) -> None:
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
    """Every order in which a ReplicaSet may take these pods: told by its published rule, ties in any order."""
    phases = ["Pending", "Unknown", "Running"]

    def rank(pod: Pod) -> tuple[int, int, int, int]:
        return (int(pod.scheduled), phases.index(pod.phase), int(pod.ready), pod.deletion_cost)

    forwards = sorted(current.pods, key=rank)
    groups = [list(group) for _, group in itertools.groupby(forwards, key=rank)]
    backwards = [pod for group in groups for pod in reversed(group)]
    return [forwards, backwards]


def test_one_more_worker_for_one_more_segment() -> None:
    decision = decide(state(segments=5, owners=4, replicas=4), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (5, Reason.MORE_SEGMENTS)


def test_no_more_workers_than_the_maximum() -> None:
    decision = decide(state(segments=50, owners=6, replicas=6), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.AT_TARGET)


def test_no_fewer_workers_than_the_minimum_when_no_segment_is_left() -> None:
    decision = decide(state(segments=0, owners=0, replicas=3), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.AT_TARGET)


def test_an_idle_worker_goes_once_the_owners_are_costly() -> None:
    decision = decide(state(segments=4, owners=4, replicas=5), SETTINGS, NOW)

    assert decision == Decision(4, Reason.FEWER_SEGMENTS, wanted=4)


def test_owners_are_made_costly_before_anybody_goes() -> None:
    decision = decide(state(segments=4, owners=4, replicas=5, fleet=pods(5)), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.COSTS_FIRST)
    assert decision.deletion_costs == {f"w{number}": OWNER_DELETION_COST for number in range(4)}


def test_nobody_goes_while_every_worker_owns_a_segment() -> None:
    decision = decide(state(segments=3, owners=5, replicas=5), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.NOBODY_IDLE)


def test_nobody_goes_while_an_owner_is_not_ready_and_would_be_taken_first() -> None:
    healthy = pods(5, owners=4)
    fleet = (replace(healthy[0], ready=False), *healthy[1:])

    decision = decide(state(segments=4, owners=4, replicas=5, fleet=fleet), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.OWNER_AT_RISK)


def test_nobody_goes_during_a_rollout() -> None:
    healthy = pods(5, owners=3)
    fleet = (*healthy[:4], replace(healthy[4], template="b"))

    decision = decide(state(segments=3, owners=3, replicas=5, fleet=fleet), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.ROLLOUT)


def test_nobody_goes_when_the_owners_are_not_the_pods_of_the_deployment() -> None:
    fleet = FleetSnapshot(3, frozenset({"laptop-17"}))

    decision = decide(ScalingState(fleet, 5, pods(5)), SETTINGS, NOW)

    assert (decision.replicas, decision.reason) == (None, Reason.OWNER_UNKNOWN)


def test_bounds_that_contradict_each_other_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"MIN_REPLICAS \(5\).*MAX_REPLICAS \(4\)"):
        ScalingSettings(min_replicas=5, max_replicas=4)
