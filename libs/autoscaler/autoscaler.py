"""Run the autoscaler on the leading master: read, decide, act.

After an error nothing is changed in that round. It is logged once, not in every round, and so is the recovery.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from prometheus_client import Counter, Gauge

from libs.autoscaler.decision import Decision, Pod, Reason, ScalingSettings, ScalingState, decide
from libs.autoscaler.errors import FleetUnknown, ScaleConflict
from libs.autoscaler.fleet import FleetSnapshot, NodeLoss
from libs.autoscaler.hindrances import REASONS, Hindrance, described
from libs.autoscaler.kubernetes import Scale
from libs.core.kubernetes.errors import ClusterError, NoCluster
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.placement import Labels

log = get_logger(__name__)

LOOKS = Counter("runtime_autoscaler_looks_total", "Rounds of the autoscaler, by outcome.", ["outcome"])
REPLICAS = Gauge("runtime_autoscaler_replicas", "Worker replicas set in the cluster, as last read.")
REPLICAS_WANTED = Gauge(
    "runtime_autoscaler_replicas_wanted", "Worker replicas for segments and standby, within the bounds."
)
REPLICAS_NEEDED = Gauge(
    "runtime_autoscaler_replicas_needed", "Worker replicas for segments and standby, without the upper bound."
)
NODE_LOSS_SEGMENTS = Gauge(
    "runtime_autoscaler_node_loss_segments",
    "Segments without a worker after the loss of one node, because MAX_REPLICAS allows no standby workers.",
)
HINDRANCES = Gauge(
    "runtime_autoscaler_pod_hindrances",
    "Worker pods that do not run, by Kubernetes' reason; FailedCreate: none can be created, as by a quota.",
    ["reason"],
)
for _reason in REASONS:
    HINDRANCES.labels(_reason)


class Workers(Protocol):
    """The operations on a cluster that the loop needs; `KubernetesWorkers` implements them."""

    async def scale(self) -> Scale: ...
    async def set_replicas(self, scale: Scale, replicas: int) -> None: ...
    async def pods(self, scale: Scale) -> tuple[Pod, ...]: ...
    async def set_deletion_cost(self, pod: str, cost: int) -> None: ...
    async def hindrances(self, pods: Sequence[Pod]) -> tuple[Hindrance, ...]: ...


class Autoscaler:
    """Keeps the number of worker pods at the number that the segments need.

    Args:
        snapshot: returns the fleet as known to the store and the master. It must raise when the store is not
            available: an empty result would be taken as no segments.
        workers: the worker Deployment.
        settings: bounds and timing.
        leading: whether this master leads now. Called before each round and again before a change.
        notice: called with a topic and a notice for operators; empty when there is none.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        snapshot: Callable[[], Awaitable[FleetSnapshot]],
        workers: Workers,
        settings: ScalingSettings,
        leading: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        *,
        notice: Callable[[str, str], None] = lambda topic, text: None,
    ) -> None:
        self._snapshot = snapshot
        self._workers = workers
        self._settings = settings
        self._leading = leading
        self._clock = clock
        self._changed_at: float | None = None
        self._led = False
        self._trouble: str | None = None
        self._held: Reason | None = None
        self._notice = notice
        self._loss: NodeLoss | None = None
        self._labels: frozenset[Labels] = frozenset()
        self._hindered: frozenset[str] = frozenset()
        self._unreadable = False
        self.decided: Decision | None = None

    async def run(self) -> None:
        """Run a round every `interval_seconds`, forever."""
        while True:
            await self.run_once()
            await asyncio.sleep(self._settings.interval_seconds)

    async def run_once(self) -> Decision | None:
        """Run one round with at most one change. None: not leading, or an error prevented a decision."""
        try:
            with observe("reconcile", "replicas", refused=lambda error: isinstance(error, NoCluster | ScaleConflict)):
                self.decided = await self._decide_and_act()
        except Exception as error:  # noqa: BLE001 - the store's errors end here too: the master must go on assigning
            self.decided = None
            LOOKS.labels("failed").inc()
            self._log_trouble(error)
        else:
            if self.decided is not None:
                LOOKS.labels(self.decided.reason.name.lower()).inc()
                self._log_recovery(self.decided)
        return self.decided

    async def _decide_and_act(self) -> Decision | None:
        if not self._leading():
            self._led = False
            return None
        if not self._led:
            # The previous leader may have changed the number just now, and the workers have to reconnect first.
            self._led, self._changed_at = True, self._clock()
        fleet = await self._snapshot()
        scale = await self._workers.scale()
        pods = await self._workers.pods(scale)
        fleet = self._for_replicas(fleet, pods)
        decision = decide(ScalingState(fleet, scale.replicas, pods, self._changed_at), self._settings, self._clock())
        REPLICAS.set(scale.replicas)
        REPLICAS_WANTED.set(decision.wanted)
        REPLICAS_NEEDED.set(decision.needed)
        self._report_loss(decision)
        await self._report_hindrances(pods)
        for pod, cost in decision.deletion_costs.items():
            await self._workers.set_deletion_cost(pod, cost)
        if decision.replicas is not None and self._leading():
            # Before the call: if its answer is lost, the change may have been made.
            self._changed_at = self._clock()
            await self._workers.set_replicas(scale, decision.replicas)
            log.info(
                "workers scaled",
                replicas=decision.replicas,
                before=scale.replicas,
                wanted=decision.wanted,
                segments=fleet.segments_with_entities,
                reason=str(decision.reason),
            )
        return decision

    def _for_replicas(self, fleet: FleetSnapshot, pods: Sequence[Pod]) -> FleetSnapshot:
        """Return the fleet without the segments that no further replica could own, because it would lack their labels.

        With no replica connected, those of the last ones count: they may have been removed because they had none of the
        labels. Before the first one connects, nothing is known.
        """
        self._labels = frozenset(fleet.labels[pod.name] for pod in pods if pod.name in fleet.labels) or self._labels
        return fleet.only_for(self._labels) if self._labels else fleet

    def _log_trouble(self, error: Exception) -> None:
        if isinstance(error, ScaleConflict):
            log.debug("autoscaler retries after a conflict", error=str(error))
            return
        kind = type(error).__name__
        if kind == self._trouble:
            log.debug("autoscaler is still blocked", error=str(error))
            return
        self._trouble = kind
        # Outside a cluster there is nothing to repair.
        write = log.info if isinstance(error, NoCluster) else log.warning
        write(
            "autoscaler is blocked; the number of workers does not change",
            error=str(error),
            kind=kind,
            exc_info=None if isinstance(error, ClusterError | FleetUnknown) else error,
        )

    def _report_loss(self, decision: Decision) -> None:
        loss = decision.loss
        NODE_LOSS_SEGMENTS.set(loss.segments if loss is not None else 0)
        if loss == self._loss:
            return
        self._loss = loss
        if loss is None:
            self._notice("autoscaler", "")
            return
        log.warning(
            "the loss of a node would leave segments without a worker",
            node=loss.node,
            segments=loss.segments,
            needed=decision.needed,
            max_replicas=self._settings.max_replicas,
        )
        self._notice(
            "autoscaler",
            f"the loss of node {loss.node} would leave {loss.segments} segments without a worker: {decision.needed} "
            f"workers are needed and MAX_REPLICAS allows {self._settings.max_replicas}",
        )

    async def _report_hindrances(self, pods: Sequence[Pod]) -> None:
        """Report why pods do not run; each reason is logged once. Scaling does not depend on it."""
        try:
            found = await self._workers.hindrances(pods)
        except ClusterError as error:
            if not self._unreadable:
                log.warning("reasons why worker pods do not run cannot be read", error=str(error))
            self._unreadable = True
            return
        self._unreadable = False
        for reason in REASONS:
            HINDRANCES.labels(reason).set(sum(hindrance.reason == reason for hindrance in found))
        for hindrance in found:
            if hindrance.reason not in self._hindered:
                log.warning(
                    "worker pods do not run", reason=hindrance.reason, message=hindrance.message, pod=hindrance.pod
                )
                self._hindered |= {hindrance.reason}
        now = frozenset(hindrance.reason for hindrance in found)
        for reason in sorted(self._hindered - now):
            log.info("worker pods are no longer hindered", reason=reason)
        self._hindered = now
        self._notice("pods", described(found))

    def _log_recovery(self, decision: Decision) -> None:
        if self._trouble is not None:
            log.info("autoscaler is no longer blocked", replicas_wanted=decision.wanted)
            self._trouble = None
        held = decision.reason if decision.replicas is None and decision.reason is not Reason.COOLING_DOWN else None
        if held not in (None, Reason.AT_TARGET, self._held):
            log.info("workers not scaled down", reason=str(held), wanted=decision.wanted)
        self._held = held
