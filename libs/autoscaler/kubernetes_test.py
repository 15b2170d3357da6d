"""The adapter's requests to an API server and its handling of answers, over real HTTP to a fake one."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from libs.autoscaler.errors import DeploymentMissing, ScaleConflict
from libs.autoscaler.kubernetes import KubernetesWorkers
from libs.core.kubernetes.errors import ClusterForbids, ClusterRejects, ClusterUnavailable, NoCluster
from tests.support.fakes.fake_kubernetes import ALL_RULES, DELETION_COST, FakeKubernetes


@pytest.fixture
async def cluster() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes(replicas=3) as fake:
        yield fake


@pytest.fixture
async def workers(cluster: FakeKubernetes, tmp_path: Path) -> AsyncIterator[KubernetesWorkers]:
    environ = {"KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig"))}
    async with KubernetesWorkers(cluster.namespace, cluster.deployment_name, environ, timeout_seconds=30) as adapter:
        yield adapter


async def test_the_number_of_replicas_is_read_and_changed(cluster: FakeKubernetes, workers: KubernetesWorkers) -> None:
    await workers.set_replicas(await workers.scale(), 5)

    assert (await workers.scale()).replicas == cluster.replicas == 5


async def test_a_deployment_scaled_to_nothing_reads_as_nothing(
    cluster: FakeKubernetes, workers: KubernetesWorkers
) -> None:
    cluster.scale_by_hand(0)

    assert (await workers.scale()).replicas == 0


async def test_a_change_based_on_an_old_number_is_refused(cluster: FakeKubernetes, workers: KubernetesWorkers) -> None:
    scale = await workers.scale()
    cluster.scale_by_hand(7)

    with pytest.raises(ScaleConflict):
        await workers.set_replicas(scale, 4)

    assert cluster.replicas == 7


async def test_ending_and_finished_pods_are_not_counted(cluster: FakeKubernetes, workers: KubernetesWorkers) -> None:
    cluster.pods[0].ending = True
    cluster.pods[1].phase = "Failed"

    assert [pod.name for pod in await workers.pods(await workers.scale())] == [cluster.pods[2].name]


async def test_a_pods_state_is_read_as_the_controller_ranks_it(
    cluster: FakeKubernetes, workers: KubernetesWorkers
) -> None:
    waiting, odd, ready = cluster.pods
    waiting.scheduled, waiting.phase, waiting.ready = False, "Pending", False
    odd.annotations[DELETION_COST] = "dear"
    ready.annotations[DELETION_COST] = "-3"

    pods = {pod.name: pod for pod in await workers.pods(await workers.scale())}

    assert (pods[waiting.name].scheduled, pods[waiting.name].phase, pods[waiting.name].ready) == (
        False,
        "Pending",
        False,
    )
    assert (pods[odd.name].deletion_cost, pods[ready.name].deletion_cost) == (0, -3)


async def test_pods_are_read_page_by_page(tmp_path: Path) -> None:
    async with FakeKubernetes(replicas=7, page_size=3) as cluster:
        environ = {"KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig"))}
        async with KubernetesWorkers(cluster.namespace, cluster.deployment_name, environ) as workers:
            assert len(await workers.pods(await workers.scale())) == 7


async def test_a_cost_is_annotated_and_other_annotations_stay(
    cluster: FakeKubernetes, workers: KubernetesWorkers
) -> None:
    cluster.pods[0].annotations["other"] = "stays"

    await workers.set_deletion_cost(cluster.pods[0].name, 100)

    assert cluster.pods[0].annotations == {"other": "stays", DELETION_COST: "100"}


async def test_annotating_a_pod_that_has_gone_is_no_error(cluster: FakeKubernetes, workers: KubernetesWorkers) -> None:
    await workers.set_deletion_cost("gone", 100)

    assert all(DELETION_COST not in pod.annotations for pod in cluster.pods)


@pytest.mark.parametrize("rule", sorted(ALL_RULES))
async def test_each_permission_is_needed_and_its_absence_is_named(
    cluster: FakeKubernetes, workers: KubernetesWorkers, rule: tuple[str, str]
) -> None:
    cluster.allowed = ALL_RULES - {rule}

    with pytest.raises(ClusterForbids, match=rf'cannot {rule[0]} resource "{rule[1]}".*deploy/kubernetes has the Role'):
        await every_call(workers)


async def every_call(workers: KubernetesWorkers) -> None:
    scale = await workers.scale()
    pods = await workers.pods(scale)
    await workers.set_deletion_cost(pods[0].name, 100)
    await workers.hindrances([replace(pods[0], ready=False)])
    await workers.set_replicas(scale, 4)


async def test_wrong_token_differs_from_missing_permission(cluster: FakeKubernetes, tmp_path: Path) -> None:
    environ = {"KUBECONFIG": str(cluster.kubeconfig(tmp_path / "other", user={"token": "wrong"}))}

    async with KubernetesWorkers(cluster.namespace, cluster.deployment_name, environ) as workers:
        with pytest.raises(ClusterForbids, match="rejects the token"):
            await workers.scale()


async def test_a_missing_deployment_is_named_with_the_settings_that_choose_it(
    cluster: FakeKubernetes, tmp_path: Path
) -> None:
    environ = {"KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig"))}

    async with KubernetesWorkers(cluster.namespace, "runtime-worker", environ) as workers:
        with pytest.raises(DeploymentMissing, match=r"'runtime-worker' in namespace 'bots'.*DEPLOYMENT_NAME"):
            await workers.scale()


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_server_in_trouble_is_worth_another_try(
    cluster: FakeKubernetes, workers: KubernetesWorkers, status: int
) -> None:
    cluster.down = status

    with pytest.raises(ClusterUnavailable, match=f"answers {status}"):
        await workers.scale()


async def test_an_answer_that_is_no_json_is_named(cluster: FakeKubernetes, workers: KubernetesWorkers) -> None:
    cluster.garbled = True

    with pytest.raises(ClusterRejects, match="not JSON"):
        await workers.scale()


async def test_a_server_that_moved_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    async with KubernetesWorkers("bots", "bot-runner-worker", {"KUBECONFIG": str(path)}, timeout_seconds=30) as workers:
        with pytest.raises(NoCluster):
            await workers.scale()
        async with FakeKubernetes(replicas=3) as first:
            first.kubeconfig(path)
            assert (await workers.scale()).replicas == 3
        with pytest.raises(ClusterUnavailable, match="does not answer"):
            await workers.scale()
        async with FakeKubernetes(replicas=4) as second:
            second.kubeconfig(path)
            assert (await workers.scale()).replicas == 4
