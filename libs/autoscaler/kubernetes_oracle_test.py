"""What the adapter reads and writes, beside the official client on the same cluster: the two must agree.

The fake cluster is judged by it as well: the client checks each answer against the API's own model. With KUBECONFIG
set the same tests run against a real cluster.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from libs.autoscaler.decision import Pod
from libs.autoscaler.errors import ScaleConflict
from libs.autoscaler.kubernetes import DELETION_COST, KubernetesWorkers
from tests.support.fakes.fake_kubernetes import ALL_RULES, FakeKubernetes
from tests.support.servers.real_cluster import real_deployment

KUBECONFIG = os.environ.get("KUBECONFIG")
MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True)
class Cluster:
    """One Deployment of three running pods, and the two ways to it."""

    namespace: str
    deployment_name: str
    ours: KubernetesWorkers
    official: client.ApiClient

    async def official_scale(self) -> Any:
        return await asyncio.to_thread(
            client.AppsV1Api(self.official).read_namespaced_deployment_scale, self.deployment_name, self.namespace
        )

    async def official_pods(self, selector: str) -> list[Any]:
        found = await asyncio.to_thread(
            client.CoreV1Api(self.official).list_namespaced_pod, self.namespace, label_selector=selector
        )
        return sorted(found.items, key=lambda pod: str(pod.metadata.name))


@pytest.fixture(params=["fake", "real"] if KUBECONFIG else ["fake"])
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    if request.param == "real":
        async with (
            real_deployment(KUBECONFIG or "", replicas=3) as place,
            KubernetesWorkers(place.namespace, place.deployment_name, place.environ) as ours,
        ):
            with official_client(KUBECONFIG or "") as official:
                yield Cluster(place.namespace, place.deployment_name, ours, official)
        return
    async with FakeKubernetes(replicas=3) as fake:
        fake.allowed = ALL_RULES | {("patch", "deployments/scale")}
        fake.pods[1].annotations[DELETION_COST] = "-7"
        fake.pods[2].scheduled, fake.pods[2].phase, fake.pods[2].ready = False, "Pending", False
        kubeconfig = str(fake.kubeconfig(tmp_path / "kubeconfig"))
        async with KubernetesWorkers(fake.namespace, fake.deployment_name, {"KUBECONFIG": kubeconfig}) as ours:
            with official_client(kubeconfig) as official:
                yield Cluster(fake.namespace, fake.deployment_name, ours, official)


def official_client(kubeconfig: str) -> client.ApiClient:
    """Close it."""
    made: client.ApiClient = config.new_client_from_config(kubeconfig)  # type: ignore[no-untyped-call]
    return made


def as_official(pod: Any) -> Pod:
    """The official client's pod in our words."""
    conditions = {condition.type: condition.status for condition in pod.status.conditions or ()}
    return Pod(
        name=pod.metadata.name,
        scheduled=pod.spec.node_name is not None,
        phase=pod.status.phase,
        ready=conditions.get("Ready") == "True",
        template=pod.metadata.labels["pod-template-hash"],
        deletion_cost=int((pod.metadata.annotations or {}).get(DELETION_COST, "0")),
        node=pod.spec.node_name or "",
    )


async def test_both_read_the_same_scale(cluster: Cluster) -> None:
    ours, theirs = await cluster.ours.scale(), await cluster.official_scale()

    assert (ours.replicas, ours.selector) == (theirs.spec.replicas, theirs.status.selector) == (3, ours.selector)


async def test_both_read_the_same_pods(cluster: Cluster) -> None:
    scale = await cluster.ours.scale()

    ours = await cluster.ours.pods(scale)

    assert list(ours) == [as_official(pod) for pod in await cluster.official_pods(scale.selector)]
    assert len(ours) == 3


async def test_written_scale_is_read_by_official_client(cluster: Cluster) -> None:
    scale = await cluster.ours.scale()
    first = (await cluster.ours.pods(scale))[0].name

    await cluster.ours.set_deletion_cost(first, 100)
    await cluster.ours.set_replicas(scale, 4)

    costs = {pod.metadata.name: pod.metadata.annotations for pod in await cluster.official_pods(scale.selector)}
    assert costs[first][DELETION_COST] == "100"
    assert (await cluster.official_scale()).spec.replicas == 4


async def test_patch_of_official_client_is_read(cluster: Cluster) -> None:
    first = (await cluster.ours.pods(await cluster.ours.scale()))[0].name
    annotation = {"metadata": {"annotations": {DELETION_COST: "55"}}}

    await asyncio.to_thread(
        client.CoreV1Api(cluster.official).patch_namespaced_pod,
        first,
        cluster.namespace,
        annotation,
        _content_type=MERGE_PATCH,
    )
    await asyncio.to_thread(
        client.AppsV1Api(cluster.official).patch_namespaced_deployment_scale,
        cluster.deployment_name,
        cluster.namespace,
        {"spec": {"replicas": 5}},
        _content_type=MERGE_PATCH,
    )

    scale = await cluster.ours.scale()
    assert scale.replicas == 5
    assert {pod.name: pod.deletion_cost for pod in await cluster.ours.pods(scale)}[first] == 55


async def test_a_change_based_on_an_old_number_is_refused_to_both(cluster: Cluster) -> None:
    ours, theirs = await cluster.ours.scale(), await cluster.official_scale()
    await cluster.ours.set_replicas(ours, 4)

    theirs.spec.replicas = 2
    with pytest.raises(ApiException) as refused:
        await asyncio.to_thread(
            client.AppsV1Api(cluster.official).replace_namespaced_deployment_scale,
            cluster.deployment_name,
            cluster.namespace,
            theirs,
        )
    with pytest.raises(ScaleConflict):
        await cluster.ours.set_replicas(ours, 2)

    assert refused.value.status == 409
