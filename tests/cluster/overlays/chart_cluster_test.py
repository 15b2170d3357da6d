"""The Helm chart as the API server takes it: installed, upgraded, rolled back and removed by Helm itself."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.cluster.overlays.cluster import OverlayCluster
from tests.deploy.manifests import ROOT
from tests.support.eventually import eventually
from tools.helm.__main__ import CHART
from tools.stack import binaries

pytestmark = pytest.mark.timeout(600)

NAMESPACE = "the0-chart"
PATIENCE_SECONDS = 120.0
VALUES = {
    "image": {"tag": "latest"},
    "tls": {"mode": "off"},
    "services": {"bot-runner": {"enabled": False}, "backtest-runner": {"enabled": False}},
    "masters": {"replicas": 1},
    "workers": {"nodeSelector": {"the0.invalid/none": "true"}},
}
"""One service is enough for what Helm does, and no node starts an engine for it."""
NAMESPACE_MANIFEST = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
}


class Release:
    """A release of the chart in a namespace of its own."""

    def __init__(self, cluster: OverlayCluster, values: Path) -> None:
        self._cluster = cluster
        self._values = values

    async def helm(self, *arguments: str) -> str:
        """What Helm prints.

        Raises:
            AssertionError: it failed; the message is its own.
        """
        command = [str(binaries.helm()), *arguments, f"--namespace={NAMESPACE}"]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "KUBECONFIG": self._cluster.kubeconfig, "HELM_CACHE_HOME": str(self._values.parent)},
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return output.decode()

    async def apply(self, verb: str, *options: str) -> str:
        """Install or upgrade the release."""
        return await self.helm(verb, "runtime", str(ROOT / CHART), f"--values={self._values}", *options)

    async def objects(self, kind: str) -> dict[str, Any]:
        """The objects of the release of a kind, by name."""
        labels = "--selector=app.kubernetes.io/managed-by=Helm"
        found = await self._cluster.read(kind, f"--namespace={NAMESPACE}", labels)
        return {item["metadata"]["name"]: item for item in found}

    async def master(self) -> Any:
        """The Deployment of masters."""
        return (await self.objects("deployments"))["bot-scheduler-master"]

    async def started_masters(self) -> list[Any]:
        """The pods of masters whose container runs."""
        labels = "--selector=app.kubernetes.io/name=bot-scheduler,app.kubernetes.io/component=master"
        pods = await self._cluster.read("pods", f"--namespace={NAMESPACE}", labels)
        return [
            pod
            for pod in pods
            if any("running" in status["state"] for status in pod["status"].get("containerStatuses", ()))
        ]


@pytest_asyncio.fixture(name="release")
async def own_release(cluster: OverlayCluster, images: None, tmp_path: Path) -> AsyncIterator[Release]:
    """A release that is not yet installed, with connections to servers that do not exist."""
    manifest, values = tmp_path / "namespace.yaml", tmp_path / "values.yaml"
    manifest.write_text(yaml.safe_dump(NAMESPACE_MANIFEST))
    values.write_text(yaml.safe_dump(VALUES))
    async with cluster.own_namespace(manifest, NAMESPACE):
        connections = {"mongo-uri": "mongodb://mongo.invalid:27017/", "s3-access-key": "a", "s3-secret-key": "b"}
        await cluster.add_secret(NAMESPACE, "the0-connections", connections)
        yield Release(cluster, values)


async def test_release_is_installed_upgraded_rolled_back_and_removed(release: Release, cluster: OverlayCluster) -> None:
    notes = await release.apply("install")
    assert "port-forward service/bot-scheduler-master 8080" in notes
    await eventually(release.started_masters, within_seconds=PATIENCE_SECONDS, every_seconds=0.5)
    first = await release.master()
    assert set(await release.objects("deployments")) == {"bot-scheduler-master", "bot-scheduler-worker"}
    assert await cluster.can("bot-scheduler-master", NAMESPACE, "list", "pods")
    assert await cluster.can("bot-scheduler-master", NAMESPACE, "create", "tokenreviews")
    assert f"{NAMESPACE}-bot-scheduler-master-patches-pods" in await release.objects("validatingadmissionpolicies")

    await release.apply("upgrade", "--set=settings.LOG_LEVEL=debug")
    second = await release.master()
    settings = (await release.objects("configmaps"))["bot-scheduler-settings"]
    assert settings["data"]["LOG_LEVEL"] == "debug"
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    assert second["spec"]["template"] != first["spec"]["template"]

    await release.helm("rollback", "runtime", "1")
    settings = (await release.objects("configmaps"))["bot-scheduler-settings"]
    assert "LOG_LEVEL" not in settings["data"]
    assert (await release.master())["spec"] == first["spec"]

    await release.helm("uninstall", "runtime")
    for kind in (
        "deployments",
        "configmaps",
        "services",
        "networkpolicies",
        "clusterroles",
        "validatingadmissionpolicies",
    ):
        assert await release.objects(kind) == {}, kind
