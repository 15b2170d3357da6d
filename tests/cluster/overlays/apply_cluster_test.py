"""Each overlay as the API server takes it: accepted as it is, and the same when it is applied again."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cluster.overlays.cluster import OverlayCluster, configured
from tests.cluster.overlays.operator_crds import operator_crds
from tests.deploy.manifests import KUBERNETES, of_kind
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(600)

NAMESPACES = {"production": "the0", "node-socket": "the0", "dev": "the0-dev"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def definitions(cluster: OverlayCluster) -> AsyncIterator[None]:
    """The Prometheus operator's definitions; those that were not there are removed afterwards."""
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
    ]
    refused = [
        ("get", "deployments/bot-runner-worker"),
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
    ]
    async with cluster.own_namespace(folder / "namespace.yaml", "the0"):
        access = [*of_kind("overlays/production", "ServiceAccount", "Role", "RoleBinding")]
        await cluster.kubectl(
            "apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": access})
        )

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
