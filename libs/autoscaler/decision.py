"""Decide the number of worker pods from values alone: no clock, no cluster, no database.

Wanted are as many workers as the segments need by their number and by the room of their entities, plus the standby
workers, within bounds. Missing workers are added at once, since entities wait for them; others are removed one at
a time. The difficulty is the removal: a Deployment does not let the caller choose the pod. But the rule of the
ReplicaSet controller is known (kubernetes.io, "Pod deletion cost"): pods without a node are removed first, then pending
ones, then those that are not ready, then those with the lowest deletion cost. So every owner of a segment gets a high
cost, and the number is reduced only when that rule cannot select an owner.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from libs.autoscaler.fleet import FleetSnapshot, NodeLoss, node_loss, owners_on_fullest_node, workers_for_segments
from libs.autoscaler.hindrances import Hindrance

OWNER_DELETION_COST = 100
_PHASE_ORDER = {"Pending": 0, "Unknown": 1, "Running": 2}


@dataclass(frozen=True)
class ScalingSettings:
    """Bounds and timing.

    Attributes:
        min_replicas: lower bound.
        max_replicas: upper bound.
        segments_per_worker: number of segments up to which they are spread evenly.
        standby: workers beyond those needed; ``node`` for as many as own a segment on the fullest node.
        interval_seconds: interval between rounds.
        cooldown_seconds: minimum time between changes, and after becoming the leader.
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
    """A worker pod that is neither terminating nor finished. *hindrance*: why it does not run, by its status."""

    name: str
    scheduled: bool
    phase: str
    ready: bool
    template: str
    deletion_cost: int = 0
    node: str = ""
    hindrance: Hindrance | None = None


@dataclass(frozen=True)
class ScalingState:
    """The input of a decision. `changed_at` is on the same clock as the decision's *now*, in seconds."""

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
    """The result of a round.

    Attributes:
        replicas: the new number, or None to keep it.
        reason: the reason.
        wanted: the target within the bounds, perhaps several steps away.
        needed: the target without the upper bound.
        loss: the segments that would wait after the loss of a node, if the upper bound forbids standby workers.
        deletion_costs: pods whose cost must be changed, with the new cost; never together with a reduction.
    """

    replicas: int | None
    reason: Reason
    wanted: int
    needed: int = 0
    loss: NodeLoss | None = None
    deletion_costs: Mapping[str, int] = field(default_factory=dict)


def decide(state: ScalingState, settings: ScalingSettings, now: float) -> Decision:
    """Return the next step: up to the target, or down by one. Deterministic."""
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
        # The controller works on its own cache; give it until the next round to read the new costs.
        return None, Reason.COSTS_FIRST
    hindrance = _hindrance(state)
    if hindrance is not None:
        return None, hindrance
    return state.replicas - 1, Reason.FEWER_SEGMENTS


def _hindrance(state: ScalingState) -> Reason | None:
    """Return why one replica fewer might remove a segment's owner; None when it cannot."""
    if state.fleet.owners - {pod.name for pod in state.pods}:
        # Either a pod that is being removed, which the next round settles, or WORKER_ID is not the pod's name and
        # the costs have no effect.
        return Reason.OWNER_UNKNOWN
    if len({pod.template for pod in state.pods}) > 1:
        # A reduction is then split between two ReplicaSets, and neither considers the other's costs.
        return Reason.ROLLOUT
    owners = [pod for pod in state.pods if pod.name in state.fleet.owners]
    leaving = len(state.pods) - (state.replicas - 1)
    if leaving > len(state.pods) - len(owners):
        return Reason.NOBODY_IDLE
    if leaving <= 0:
        return None
    ranks = sorted(_rank(pod) for pod in state.pods)
    # Ties are resolved by unreliable criteria (age, restarts), so a tie counts as a risk.
    if any(_rank(pod) <= ranks[leaving - 1] for pod in owners):
        return Reason.OWNER_AT_RISK
    return None


def _rank(pod: Pod) -> tuple[bool, int, bool, int]:
    """Return the ReplicaSet controller's sort key for removal, lowest first."""
    return (pod.scheduled, _PHASE_ORDER.get(pod.phase, 1), pod.ready, pod.deletion_cost)
