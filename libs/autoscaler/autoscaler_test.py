"""The loop, against an API server over HTTP: the fake one, and with KUBECONFIG set a real cluster as well."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from libs.autoscaler.autoscaler import Autoscaler, Workers
from libs.autoscaler.decision import OWNER_DELETION_COST, Pod, Reason, ScalingSettings
from libs.autoscaler.fleet import FleetSnapshot, Placed, WorkerLoad
from libs.autoscaler.kubernetes import KubernetesWorkers, Scale
from libs.core.observability.metrics import registry
from libs.core.room import Need
from tests.support.eventually import eventually
from tests.support.fakes.fake_kubernetes import ALL_RULES, FakeKubernetes
from tests.support.servers.real_cluster import real_deployment

SETTINGS = ScalingSettings(min_replicas=1, max_replicas=4)
KUBECONFIG = os.environ.get("KUBECONFIG")


class Clock:
    """A clock that advances only on request."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fleet:
    """The master's side: segments, owners and the lead, as a test sets them."""

    def __init__(self) -> None:
        self.segments = 3
        self.owners: frozenset[str] = frozenset()
        self.leads = True
        self.fault: Exception | None = None

    async def snapshot(self) -> FleetSnapshot:
        if self.fault is not None:
            raise self.fault
        return FleetSnapshot(self.segments, self.owners)

    def leading(self) -> bool:
        return self.leads


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes(replicas=3) as cluster:
        cluster.kubeconfig(tmp_path / "kubeconfig")
        yield cluster


@pytest.fixture
async def on_fake(fake: FakeKubernetes, tmp_path: Path) -> AsyncIterator[KubernetesWorkers]:
    environ = {"KUBECONFIG": str(tmp_path / "kubeconfig")}
    async with KubernetesWorkers(fake.namespace, fake.deployment_name, environ, timeout_seconds=30) as workers:
        yield workers


@pytest.fixture(params=["fake", "real"] if KUBECONFIG else ["fake"])
async def workers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KubernetesWorkers]:
    """A Deployment of three running pods."""
    if request.param == "real":
        async with (
            real_deployment(KUBECONFIG or "", replicas=3) as place,
            KubernetesWorkers(place.namespace, place.deployment_name, place.environ) as adapter,
        ):
            yield adapter
        return
    async with FakeKubernetes(replicas=3) as cluster:
        environ = {"KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig"))}
        async with KubernetesWorkers(cluster.namespace, cluster.deployment_name, environ) as adapter:
            yield adapter


def autoscaler(fleet: Fleet, workers: Workers, clock: Clock) -> Autoscaler:
    """An autoscaler that has led for longer than the cooldown at its next round."""
    return Autoscaler(fleet.snapshot, workers, SETTINGS, fleet.leading, clock)


async def run_rounds(scaler: Autoscaler, clock: Clock, times: int = 1) -> None:
    for _ in range(times):
        clock.now += SETTINGS.interval_seconds
        await scaler.run_once()


async def pods_when(workers: KubernetesWorkers, condition: Callable[[tuple[Pod, ...]], bool]) -> tuple[Pod, ...]:
    seen: tuple[Pod, ...] = ()

    async def fulfilled() -> bool:
        nonlocal seen
        seen = await workers.pods(await workers.scale())
        return condition(seen)

    await eventually(fulfilled)
    return seen


def three_ready(pods: tuple[Pod, ...]) -> bool:
    return len(pods) == 3 and all(pod.ready for pod in pods)


# On any cluster.


async def test_a_new_segment_gets_a_worker_at_the_second_look(
    workers: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    scaler = autoscaler(fleet, workers, clock)
    fleet.segments = 4

    await run_rounds(scaler, clock, times=2)

    assert len(await pods_when(workers, lambda pods: len(pods) == 4)) == 4


async def test_the_owner_of_a_segment_outlives_every_step_down(
    workers: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    scaler = autoscaler(fleet, workers, clock)
    owner = (await pods_when(workers, three_ready))[1].name
    fleet.segments, fleet.owners = 1, frozenset({owner})

    await run_rounds(scaler, clock, times=4)

    pods = await pods_when(workers, lambda pods: len(pods) == 1)
    assert [(pod.name, pod.deletion_cost) for pod in pods] == [(owner, OWNER_DELETION_COST)]


async def test_a_worker_that_no_longer_owns_a_segment_loses_its_protection(
    workers: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    scaler = autoscaler(fleet, workers, clock)
    former, owner, _ = (pod.name for pod in await pods_when(workers, three_ready))
    fleet.owners = frozenset({former})
    await run_rounds(scaler, clock)

    fleet.owners = frozenset({owner})
    await run_rounds(scaler, clock)

    costs = {pod.name: pod.deletion_cost for pod in await workers.pods(await workers.scale())}
    assert (costs[former], costs[owner]) == (0, OWNER_DELETION_COST)


async def test_a_change_from_outside_is_seen_at_the_next_look(
    workers: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    scaler = autoscaler(fleet, workers, clock)
    await run_rounds(scaler, clock)
    await workers.set_replicas(await workers.scale(), 1)

    await run_rounds(scaler, clock)

    assert (await workers.scale()).replicas == 3


# On the fake one, which can be made to fail.


async def test_standby_master_sends_no_request_to_cluster(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    fleet.leads, fleet.segments = False, 4

    await run_rounds(autoscaler(fleet, on_fake, clock), clock, times=3)

    assert fake.calls == []


async def test_a_new_leader_changes_nothing_within_the_cooldown(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    scaler = autoscaler(fleet, on_fake, clock)
    fleet.segments = 4

    first = await scaler.run_once()
    clock.now += SETTINGS.cooldown_seconds - 0.1
    second = await scaler.run_once()
    clock.now += 0.1
    third = await scaler.run_once()

    assert [first and first.reason, second and second.reason] == [Reason.COOLING_DOWN, Reason.COOLING_DOWN]
    assert third is not None
    assert fake.replicas == third.replicas == 4


async def test_unavailable_database_removes_no_worker(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    scaler = autoscaler(fleet, on_fake, clock)
    fleet.segments = 0
    fleet.fault = ConnectionError("no primary")

    with capture_logs() as logs:
        await run_rounds(scaler, clock, times=5)

    assert (fake.replicas, fake.taken) == (3, [])
    assert [entry["error"] for entry in logs if entry["log_level"] == "warning"] == ["no primary"]


@pytest.mark.parametrize("fault", ["down", "garbled", "forbidden", "missing"])
async def test_trouble_is_logged_once_and_its_end_once(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, fleet: Fleet, clock: Clock, fault: str
) -> None:
    scaler = autoscaler(fleet, on_fake, clock)
    allowed, name = fake.allowed, fake.deployment_name
    fake.down, fake.garbled = 503 if fault == "down" else 0, fault == "garbled"
    fake.allowed = frozenset() if fault == "forbidden" else allowed
    fake.deployment_name = "another" if fault == "missing" else name

    with capture_logs() as logs:
        await run_rounds(scaler, clock, times=4)
        fake.down, fake.garbled, fake.allowed, fake.deployment_name = 0, False, allowed, name
        await run_rounds(scaler, clock, times=4)

    said = [(entry["log_level"], entry["event"]) for entry in logs if entry["log_level"] != "debug"]
    assert said == [
        ("warning", "autoscaler is blocked; the number of workers does not change"),
        ("info", "autoscaler is no longer blocked"),
    ]


async def test_missing_cluster_is_logged_once_and_master_continues(fleet: Fleet, clock: Clock) -> None:
    scaler = autoscaler(fleet, KubernetesWorkers("default", "runtime-worker", environ={}), clock)

    with capture_logs() as logs:
        await run_rounds(scaler, clock, times=5)

    said = [(entry["log_level"], entry["error"]) for entry in logs if entry["log_level"] != "debug"]
    assert said == [
        ("info", "not in a Kubernetes pod and KUBECONFIG is not set: the number of workers stays as it is"),
    ]


async def test_two_leaders_at_once_make_one_step(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    fleet.segments = 4
    frozen_scale = await on_fake.scale()
    await run_rounds(autoscaler(fleet, on_fake, clock), clock, times=2)

    stale = autoscaler(fleet, StaleOnce(on_fake, frozen_scale), clock)
    await run_rounds(stale, clock, times=2)

    assert fake.replicas == 4


class StaleOnce:
    """A cluster whose scale was changed after it was read."""

    def __init__(self, workers: KubernetesWorkers, scale: Scale) -> None:
        self._scale = scale
        self.pods, self.set_replicas = workers.pods, workers.set_replicas
        self.set_deletion_cost, self.hindrances = workers.set_deletion_cost, workers.hindrances

    async def scale(self) -> Scale:
        return self._scale


async def test_reason_for_keeping_workers_is_logged_once(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    scaler = autoscaler(fleet, on_fake, clock)
    fleet.segments, fleet.owners = 1, frozenset(pod.name for pod in fake.pods)

    with capture_logs() as logs:
        await run_rounds(scaler, clock, times=6)

    assert [entry["reason"] for entry in logs if entry["event"] == "workers not scaled down"] == [
        str(Reason.NOBODY_IDLE)
    ]


async def test_the_loop_looks_again_and_again(fake: FakeKubernetes, on_fake: KubernetesWorkers, fleet: Fleet) -> None:
    settings = ScalingSettings(min_replicas=1, max_replicas=6, interval_seconds=0.02, cooldown_seconds=0.0)
    fleet.segments = 6
    loop = asyncio.create_task(Autoscaler(fleet.snapshot, on_fake, settings, fleet.leading).run())

    await eventually(lambda: fake.replicas == 6)

    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_node_loss_not_covered_by_the_maximum_is_logged_once_and_reported(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, clock: Clock
) -> None:
    notices: list[str] = []
    owner = fake.pods[0].name
    lost = FleetSnapshot(1, frozenset([owner]), {owner: WorkerLoad("h", {1: Need(10)})})
    bounds = ScalingSettings(min_replicas=1, max_replicas=1, standby="node")

    async def snapshot() -> FleetSnapshot:
        return lost

    def note(topic: str, text: str) -> None:
        if topic == "autoscaler":
            notices.append(text)

    scaler = Autoscaler(snapshot, on_fake, bounds, lambda: True, clock, notice=note)
    with capture_logs() as logs:
        await run_rounds(scaler, clock, times=3)
        lost = FleetSnapshot(0, frozenset())
        await run_rounds(scaler, clock, times=2)

    said = [entry for entry in logs if entry["event"] == "the loss of a node would leave segments without a worker"]
    assert [(entry["node"], entry["segments"]) for entry in said] == [("node-1", 1)]
    expected = (
        "the loss of node node-1 would leave 1 segments without a worker: "
        "2 workers are needed and MAX_REPLICAS allows 1"
    )
    assert notices == [expected, ""]


async def test_reasons_of_pods_that_do_not_run_are_logged_once_and_shown_until_they_are_gone(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    shown: dict[str, str] = {}
    scaler = Autoscaler(fleet.snapshot, on_fake, SETTINGS, fleet.leading, clock, notice=shown.__setitem__)
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: small"}

    with capture_logs() as logs:
        fake.conditions = [refused]
        await run_rounds(scaler, clock, times=3)
        while_refused, count = shown["pods"], hindered("FailedCreate")
        fake.conditions = []
        await run_rounds(scaler, clock, times=2)

    said = [(entry["event"], entry["reason"]) for entry in logs if entry.get("reason") == "FailedCreate"]
    assert said == [
        ("worker pods do not run", "FailedCreate"),
        ("worker pods are no longer hindered", "FailedCreate"),
    ]
    assert while_refused == "worker pods are not created: FailedCreate: exceeded quota: small"
    assert (shown["pods"], count, hindered("FailedCreate")) == ("", 1.0, 0.0)


def hindered(reason: str) -> float | None:
    return registry.get_sample_value("runtime_autoscaler_pod_hindrances", {"reason": reason})


async def test_workers_are_scaled_although_reasons_may_not_be_read(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, fleet: Fleet, clock: Clock
) -> None:
    fake.allowed = ALL_RULES - {("get", "deployments")}
    fleet.segments = 4
    scaler = autoscaler(fleet, on_fake, clock)

    with capture_logs() as logs:
        await run_rounds(scaler, clock, times=3)

    assert fake.replicas == 4
    said = [entry for entry in logs if entry["event"] == "reasons why worker pods do not run cannot be read"]
    assert len(said) == 1


async def test_segments_that_no_replica_can_own_add_no_replicas(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, clock: Clock
) -> None:
    plain, static = frozenset({("region", "eu")}), frozenset({("egress", "static-1")})
    placed = {static: Placed(3), plain: Placed(1)}
    labels = {pod.name: plain for pod in fake.pods} | {"of-another-deployment": static}

    async def snapshot() -> FleetSnapshot:
        return FleetSnapshot(6, frozenset(), placed=placed, labels=labels)

    scaler = Autoscaler(snapshot, on_fake, SETTINGS, lambda: True, clock)

    await run_rounds(scaler, clock, times=2)
    assert scaler.decided is not None
    assert scaler.decided.needed == 3

    # A rollout has given the replicas the label.
    labels[fake.pods[0].name] = plain | static
    await run_rounds(scaler, clock)
    assert scaler.decided.needed == 6


async def test_replicas_that_are_gone_do_not_return_for_segments_that_they_could_not_own(
    fake: FakeKubernetes, on_fake: KubernetesWorkers, clock: Clock
) -> None:
    wanted = frozenset({("egress", "static-1")})
    labels: dict[str, frozenset[tuple[str, str]]] = {}

    async def snapshot() -> FleetSnapshot:
        return FleetSnapshot(1, frozenset(), placed={wanted: Placed(1)}, labels=labels)

    bounds = ScalingSettings(min_replicas=0, max_replicas=4)
    scaler = Autoscaler(snapshot, on_fake, bounds, lambda: True, clock)
    await run_rounds(scaler, clock, times=2)
    assert scaler.decided is not None
    before_any_connects = scaler.decided.needed

    labels |= {pod.name: frozenset() for pod in fake.pods}
    await run_rounds(scaler, clock)
    while_connected = scaler.decided.needed
    labels.clear()
    await run_rounds(scaler, clock)

    assert (before_any_connects, while_connected, scaler.decided.needed) == (1, 0, 0)
