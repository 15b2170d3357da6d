"""The API server accepts each overlay, and applying it again changes nothing."""

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from libs.autoscaler.kubernetes import KubernetesWorkers
from libs.autoscaler.pod_reviews import PodReviews
from libs.core.kubernetes.api_server import Answer, ApiServer, message_of
from libs.core.process.service import SERVICES
from libs.core.transport.pod_tokens import HEADER, PodProofs, PodTokenRefused, ProvenPod
from tests.cluster.overlays.cluster import OverlayCluster, configured
from tests.cluster.overlays.operator_crds import operator_crds
from tests.deploy.manifests import KUBERNETES, of_kind
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(600)

NAMESPACES = {"production": "the0", "node-socket": "the0", "dev": "the0-dev"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def definitions(cluster: OverlayCluster) -> AsyncIterator[None]:
    """The Prometheus operator's definitions; those that were missing are removed afterwards."""
    added = []
    for file in await operator_crds():
        code, _, _ = await cluster.run("get", "--filename", str(file))
        if code != 0:
            # Too large for the annotation that a client-side apply leaves.
            await cluster.kubectl("apply", "--server-side", "--filename", str(file))
            await cluster.kubectl("wait", "--for=condition=Established", "--timeout=120s", "--filename", str(file))
            added.append(file)
    try:
        yield
    finally:
        for file in added:
            await cluster.kubectl("delete", "--wait=false", "--filename", str(file))


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("overlay", NAMESPACES)
async def test_overlay_applied_again_changes_nothing(cluster: OverlayCluster, overlay: str) -> None:
    folder = KUBERNETES / "overlays" / overlay
    async with cluster.own_namespace(folder / "namespace.yaml", NAMESPACES[overlay]):
        first = await cluster.apply(folder)
        before = await cluster.generations(NAMESPACES[overlay], "poddisruptionbudgets")
        second = await cluster.apply(folder)
        after = await cluster.generations(NAMESPACES[overlay], "poddisruptionbudgets")

    assert {line.rpartition(" ")[2] for line in first} == {"created", "unchanged"}, first
    assert configured(second) == []
    assert after == before
    assert len(second) == len(first)


@pytest.mark.usefixtures("definitions")
async def test_rules_and_service_monitors_are_kept_whole_by_the_operators_definitions(cluster: OverlayCluster) -> None:
    folder = KUBERNETES / "overlays" / "production"
    async with cluster.own_namespace(folder / "namespace.yaml", "the0"):
        await cluster.apply(folder)

        for wanted in of_kind("overlays/production", "ServiceMonitor", "PrometheusRule"):
            kind, name = wanted["kind"].lower(), wanted["metadata"]["name"]
            stored = await cluster.read("--namespace=the0", f"{kind}.monitoring.coreos.com", name)
            # A field that the definition does not know is dropped without a word.
            assert json.dumps(stored["spec"], sort_keys=True) == json.dumps(wanted["spec"], sort_keys=True), name


async def test_rbac_allows_a_master_what_it_needs_and_nothing_else(cluster: OverlayCluster) -> None:
    folder = KUBERNETES / "overlays" / "production"
    scale = "--subresource=scale"
    allowed = [
        ("get", "deployments/bot-runner-worker", scale),
        ("update", "deployments/bot-runner-worker", scale),
        ("list", "pods"),
        ("patch", "pods"),
        ("get", "deployments/bot-runner-worker"),
        ("list", "events"),
        ("create", "tokenreviews.authentication.k8s.io"),
    ]
    refused = [
        ("get", "deployments/bot-runner-master"),
        ("update", "deployments/bot-runner-worker"),
        ("patch", "deployments/bot-runner-worker"),
        ("update", "deployments/bot-runner-master", scale),
        ("update", "deployments/backtest-runner-worker", scale),
        ("update", "deployments/bot-runner-worker", scale, "--namespace=default"),
        ("list", "pods", "--namespace=default"),
        ("create", "pods"),
        ("delete", "pods"),
        ("create", "pods", "--subresource=exec"),
        ("get", "secrets"),
        ("list", "secrets"),
        ("get", "configmaps"),
        ("list", "nodes"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("create", "subjectaccessreviews.authorization.k8s.io"),
    ]
    async with cluster.own_namespace(folder / "namespace.yaml", "the0"):
        await apply_access(cluster)

        async def granted() -> bool:
            return await cluster.can("bot-runner-master", "the0", *allowed[0])

        await eventually(granted)
        refusals = [question for question in allowed if not await cluster.can("bot-runner-master", "the0", *question)]
        grants = [question for question in refused if await cluster.can("bot-runner-master", "the0", *question)]
        of_workers = [
            question for question in allowed + refused if await cluster.can("bot-runner-worker", "the0", *question)
        ]

    assert refusals == []
    assert grants == []
    assert of_workers == []


async def test_runtime_keeps_its_rights_and_limits_when_another_one_is_removed(cluster: OverlayCluster) -> None:
    folders = [KUBERNETES / "overlays" / overlay for overlay in ("production", "dev")]
    create = ("create", "tokenreviews.authentication.k8s.io")
    async with (
        cluster.own_namespace(folders[0] / "namespace.yaml", "the0"),
        cluster.own_namespace(folders[1] / "namespace.yaml", "the0-dev"),
    ):
        await apply_access(cluster)
        await apply_access(cluster, "dev")
        await eventually(lambda: cluster.can("bot-runner-master", "the0", *create))
        await eventually(lambda: cluster.can("bot-runner-master", "the0-dev", *create))

        await cluster.kubectl("delete", "--filename=-", stdin=access_of("dev"))
        await eventually(lambda: refuses(cluster, "the0-dev", *create))

        assert await cluster.can("bot-runner-master", "the0", *create)
        policies = [item["metadata"]["name"] for item in await cluster.read("validatingadmissionpolicies")]
        assert {f"the0-{service.name}-master-patches-pods" for service in SERVICES} <= set(policies)


async def refuses(cluster: OverlayCluster, namespace: str, *request: str) -> bool:
    return not await cluster.can("bot-runner-master", namespace, *request)


COST = "controller.kubernetes.io/pod-deletion-cost"
PATCHES: dict[str, dict[str, Any]] = {
    "deadline": {"spec": {"activeDeadlineSeconds": 1}},
    "label": {"metadata": {"labels": {"app": "other"}}},
    "new label": {"metadata": {"labels": {"more": "other"}}},
    "finalizer": {"metadata": {"finalizers": ["the0.example/never"]}},
    "owner": {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x"}]}},
    "new annotation": {"metadata": {"annotations": {"more": "1"}}},
    "changed annotation": {"metadata": {"annotations": {"kept": "2"}}},
    "removed annotation": {"metadata": {"annotations": {"kept": None}}},
    "cost and another": {"metadata": {"annotations": {COST: "1", "kept": "2"}}},
}
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "victim", "labels": {"app": "victim"}, "annotations": {"kept": "1"}},
    # No node matches: the pod never starts.
    "spec": {"nodeSelector": {"no": "node"}, "containers": [{"name": "main", "image": "fine"}]},
}


async def test_masters_account_changes_only_the_deletion_cost_of_pods(cluster: OverlayCluster, tmp_path: Path) -> None:
    folder = KUBERNETES / "overlays" / "production"
    async with cluster.own_namespace(folder / "namespace.yaml", "the0"):
        await apply_access(cluster)
        await cluster.kubectl("--namespace=the0", "apply", "--filename=-", stdin=json.dumps(POD))
        master = ApiServer(await account(cluster, "bot-runner-master", tmp_path), timeout_seconds=60)
        administrator = ApiServer({"KUBECONFIG": cluster.kubeconfig}, timeout_seconds=60)

        async def is_guarded() -> bool:
            # A policy takes effect a moment after it is created; until then each of these is another change.
            return is_denied(await change(master, {"metadata": {"labels": {"early": secrets.token_hex(8)}}}))

        await eventually(is_guarded)
        before = await cluster.read("--namespace=the0", "pod", "victim")
        (container,) = before["spec"]["containers"]
        image = {"spec": {"containers": [container | {"image": "evil"}]}}
        permitted = {name: await change(master, patch) for name, patch in (PATCHES | {"image": image}).items()}
        after = await cluster.read("--namespace=the0", "pod", "victim")
        costs = [await change(master, {"metadata": {"annotations": {COST: cost}}}) for cost in ("9", "0", None, "-5")]
        cost = (await cluster.read("--namespace=the0", "pod", "victim"))["metadata"]["annotations"][COST]
        by_others = await change(administrator, image)

    assert [name for name, answer in permitted.items() if not is_denied(answer)] == []
    assert after == before
    assert ([answer.status for answer in costs], cost) == ([200] * 4, "-5")
    assert by_others.status == 200


async def test_master_reads_why_kubernetes_creates_or_schedules_no_worker(
    cluster: OverlayCluster, tmp_path: Path
) -> None:
    folder = KUBERNETES / "overlays" / "production"
    labels = {"app": "worker"}
    quota = {
        "metadata": {"name": "small"},
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "spec": {"hard": {"pods": "1"}},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "bot-runner-worker"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": POD["spec"]},
        },
    }
    async with cluster.own_namespace(folder / "namespace.yaml", "the0"):
        await apply_access(cluster)
        for made in (quota, deployment):
            await cluster.kubectl("--namespace=the0", "apply", "--filename=-", stdin=json.dumps(made))
        kubeconfig = await account(cluster, "bot-runner-master", tmp_path)
        async with KubernetesWorkers("the0", "bot-runner-worker", kubeconfig, timeout_seconds=60) as workers:

            async def both() -> dict[str, str]:
                pods = await workers.pods(await workers.scale())
                found = {one.reason: one.message for one in await workers.hindrances(pods)}
                return found if len(found) == 2 else {}

            found = await eventually(both, every_seconds=0.5)

    assert "exceeded quota: small" in found["FailedCreate"]
    assert "nodes are available" in found["Unschedulable"]


WORKER = "bot-runner-worker"
WORKER_POD = {**POD, "metadata": {"name": "worker-1"}, "spec": {**POD["spec"], "serviceAccountName": WORKER}}


async def test_token_of_a_worker_proves_its_pod_until_the_pod_is_gone(cluster: OverlayCluster, tmp_path: Path) -> None:
    folder = KUBERNETES / "overlays" / "production"

    async def token(account_name: str = WORKER, *options: str) -> str:
        made = await cluster.kubectl("--namespace=the0", "create", "token", account_name, *options)
        return made.strip()

    async with cluster.own_namespace(folder / "namespace.yaml", "the0"):
        await apply_access(cluster)
        await cluster.kubectl("--namespace=the0", "create", "--filename=-", stdin=json.dumps(WORKER_POD))
        master = ApiServer(await account(cluster, "bot-runner-master", tmp_path), 30)
        worker_folder = tmp_path / "worker"
        worker_folder.mkdir()
        worker = ApiServer(await account(cluster, WORKER, worker_folder), 30)

        async def proven(presented: str, server: ApiServer = master) -> ProvenPod | str:
            proofs = PodProofs("require", "the0", WORKER, PodReviews(server).review)
            try:
                return await proofs.check([(HEADER, presented)])
            except PodTokenRefused as refused:
                return str(refused)

        bound = ("--bound-object-kind=Pod", "--bound-object-name=worker-1")
        valid = await token(WORKER, "--audience=the0", *bound)

        async def is_granted() -> bool:
            return await proven(valid) == ProvenPod("worker-1")

        await eventually(is_granted, every_seconds=0.5)
        refusals = {
            "audience": await proven(await token(WORKER, *bound)),
            "unbound": await proven(await token(WORKER, "--audience=the0")),
            "account": await proven(await token("bot-runner-master", "--audience=the0")),
            "changed": await proven(f"{valid[:-8]}AAAAAAAA"),
        }
        unchecked = await proven(valid, worker)
        await cluster.kubectl("--namespace=the0", "delete", "pod", "worker-1", "--grace-period=0", "--force")

        async def is_gone() -> bool:
            return "its pod is gone" in str(await proven(valid))

        await eventually(is_gone, every_seconds=0.5)
        master.close()
        worker.close()

    assert unchecked == ProvenPod(is_unchecked=True)
    assert {
        name: [word for word in ("invalid", "bound to no pod") if word in str(found)]
        for name, found in refusals.items()
    } == {
        "audience": ["invalid"],
        "unbound": ["bound to no pod"],
        "account": ["bound to no pod"],
        "changed": ["invalid"],
    }


async def account(cluster: OverlayCluster, name: str, folder: Path) -> dict[str, str]:
    """Return the environment of a service account, with a token as a pod gets it."""
    token = (await cluster.kubectl("--namespace=the0", "create", "token", name)).strip()
    return {"KUBECONFIG": str(with_token(cluster.kubeconfig, token, folder))}


def with_token(kubeconfig: str, token: str, folder: Path) -> Path:
    configuration = yaml.safe_load(Path(kubeconfig).read_text())
    for user in configuration["users"]:
        user["user"] = {"token": token}
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(configuration))
    return file


async def change(server: ApiServer, patch: dict[str, Any]) -> Answer:
    return await server.call("PATCH", "/api/v1/namespaces/the0/pods/victim", patch)


def is_denied(answer: Answer) -> bool:
    """Whether the policy denied the change, rather than RBAC or the API's own checks."""
    return answer.status == 422 and "ValidatingAdmissionPolicy" in message_of(answer)


async def apply_access(cluster: OverlayCluster, overlay: str = "production") -> None:
    """Apply the accounts of *overlay*, with their rights and limits."""
    await cluster.kubectl("apply", "--filename=-", stdin=access_of(overlay))


def access_of(overlay: str) -> str:
    """The accounts of *overlay* with their rights and limits, as one list."""
    kinds = "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"
    policies = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"
    items = of_kind(f"overlays/{overlay}", *kinds, *policies)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
