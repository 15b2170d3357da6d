"""How many worker pods there should be, decided from values alone: no clock, no cluster, no database.

Wanted are as many workers as the segments need by their number and by the room that their entities take, plus those
that stand by, within bounds. Missing workers are added at once, since entities wait for them; others are removed one at
a time. The hard part is the removal: a Deployment gives no say in *which* pod goes. The rule of the ReplicaSet
controller is known, though (kubernetes.io, "Pod deletion cost"): pods without a node go first, then pending ones, then
those that are not ready, then the lowest deletion cost. So every owner of a segment is given a high cost, and a step
down is taken only when that rule cannot pick an owner.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from libs.autoscaler.fleet import FleetSnapshot, NodeLoss, node_loss, owners_on_fullest_node, workers_for_segments

OWNER_DELETION_COST = 100
_PHASE_ORDER = {"Pending": 0, "Unknown": 1, "Running": 2}


@dataclass(frozen=True)
class ScalingSettings:
    """Bounds and pace.

    Attributes:
        min_replicas: never fewer, whatever the segments say.
        max_replicas: never more.
        segments_per_worker: up to how many segments are spread evenly.
        standby: workers beyond those needed; ``node`` for as many as own something on the fullest node.
        interval_seconds: from one look to the next.
        cooldown_seconds: no second change sooner than this after the last one, or after taking over the lead.
    """

    min_replicas: int
    max_replicas: int
    segments_per_worker: int = 1
    standby: int | Literal["node"] = 0
    interval_seconds: float = 15.0
    cooldown_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas:
            raise ValueError(
                f"MIN_REPLICAS ({self.min_replicas}) must be at least 0 and at most MAX_REPLICAS ({self.max_replicas})"
            )
        if self.interval_seconds <= 0 or self.cooldown_seconds < 0:
            raise ValueError("the autoscaler's interval must be above 0 seconds and its cooldown not below 0")


@dataclass(frozen=True)
class Pod:
    """A worker pod that is neither ending nor finished."""

    name: str
    scheduled: bool
    phase: str
    ready: bool
    template: str
    deletion_cost: int = 0
    node: str = ""


@dataclass(frozen=True)
class ScalingState:
    """All that a decision depends on. `changed_at` is on the same clock as the decision's *now*, in seconds."""

    fleet: FleetSnapshot
    replicas: int
    pods: tuple[Pod, ...]
    changed_at: float | None = None


class Reason(StrEnum):
    """Why the number of replicas changes or stays."""

    MORE_SEGMENTS = "segments and standby need more workers"
    FEWER_SEGMENTS = "segments and standby need fewer workers"
    AT_TARGET = "as many workers as wanted"
    COOLING_DOWN = "changed less than a cooldown ago"
    NOBODY_IDLE = "every worker owns a segment"
    OWNER_UNKNOWN = "an owner of a segment is not a pod of this deployment"
    OWNER_AT_RISK = "the cluster might remove a worker that owns a segment"
    ROLLOUT = "a rollout is in progress"
    COSTS_FIRST = "deletion costs changed; the cluster must read them first"


@dataclass(frozen=True)
class Decision:
    """What to do now.

    Attributes:
        replicas: the new number, or None to leave it.
        reason: why.
        wanted: the number that would be right within the bounds, perhaps more steps away.
        needed: the number that would be right without an upper bound.
        loss: what the loss of a node would leave waiting, where the upper bound forbids the workers that stand by.
        deletion_costs: pods whose cost must be changed, and to what; never together with a step down.
    """

    replicas: int | None
    reason: Reason
    wanted: int
    needed: int = 0
    loss: NodeLoss | None = None
    deletion_costs: Mapping[str, int] = field(default_factory=dict)


def decide(state: ScalingState, settings: ScalingSettings, now: float) -> Decision:
    """The next step: up to what is wanted, or down by one. The same state always gives the same answer."""
    nodes = {pod.name: pod.node for pod in state.pods if pod.node}
    standby = settings.standby
    if standby == "node":
        standby = owners_on_fullest_node(state.fleet, nodes)
    working = max(workers_for_segments(state.fleet, settings.segments_per_worker) + standby, settings.min_replicas)
    needed = working + state.fleet.set_aside
    wanted = min(needed, settings.max_replicas)
    costs = {pod.name: OWNER_DELETION_COST if pod.name in state.fleet.owners else 0 for pod in state.pods}
    changed_costs = {pod.name: costs[pod.name] for pod in state.pods if costs[pod.name] != pod.deletion_cost}
    replicas, reason = _step(state, wanted, changed_costs, settings, now)
    loss = node_loss(state.fleet, nodes) if needed > wanted and standby else None
    return Decision(replicas, reason, wanted, needed, loss, changed_costs)


def _step(
    state: ScalingState, wanted: int, changed_costs: Mapping[str, int], settings: ScalingSettings, now: float
) -> tuple[int | None, Reason]:
    if state.replicas == wanted:
        return None, Reason.AT_TARGET
    if state.changed_at is not None and now - state.changed_at < settings.cooldown_seconds:
        return None, Reason.COOLING_DOWN
    if state.replicas < wanted:
        return wanted, Reason.MORE_SEGMENTS
    if changed_costs:
        # The controller works on a cache of its own; give it until the next look to see the new costs.
        return None, Reason.COSTS_FIRST
    hindrance = _hindrance(state)
    if hindrance is not None:
        return None, hindrance
    return state.replicas - 1, Reason.FEWER_SEGMENTS


def _hindrance(state: ScalingState) -> Reason | None:
    """Why one replica fewer might cost a segment its worker, or None when it cannot."""
    if state.fleet.owners - {pod.name for pod in state.pods}:
        # Either a pod that is just going, which the next look settles, or WORKER_ID is not the pod's name and the
        # costs protect nobody.
        return Reason.OWNER_UNKNOWN
    if len({pod.template for pod in state.pods}) > 1:
        # A reduction is then shared out between two ReplicaSets, and neither looks at the other's costs.
        return Reason.ROLLOUT
    owners = [pod for pod in state.pods if pod.name in state.fleet.owners]
    leaving = len(state.pods) - (state.replicas - 1)
    if leaving > len(state.pods) - len(owners):
        return Reason.NOBODY_IDLE
    if leaving <= 0:
        return None
    ranks = sorted(_rank(pod) for pod in state.pods)
    # Equal ranks are told apart by things that cannot be relied on (age, restarts), so a tie counts as a risk.
    if any(_rank(pod) <= ranks[leaving - 1] for pod in owners):
        return Reason.OWNER_AT_RISK
    return None


def _rank(pod: Pod) -> tuple[bool, int, bool, int]:
    """The ReplicaSet controller's order of going, lowest first."""
    return (pod.scheduled, _PHASE_ORDER.get(pod.phase, 1), pod.ready, pod.deletion_cost)
