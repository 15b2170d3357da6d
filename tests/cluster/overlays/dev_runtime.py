"""The dev overlay as a developer applies it, and a platform that uses it from outside the cluster."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import yaml
from minio import Minio
from nats.aio.msg import Msg

from libs.core.process.service import SERVICES
from tests.cluster.overlays.cluster import OverlayCluster
from tests.deploy.manifests import KUBERNETES
from tests.support.eventually import eventually
from tests.support.rigs.platform import Platform
from tests.support.servers.real_cluster import port_forward
from tools.images.ensure import NODE, PYTHON
from tools.images.third_party.ensure import REGISTRY, STAND_INS
from tools.stack import binaries

NAMESPACE = "the0-dev"
OVERLAY = KUBERNETES / "overlays" / "dev"
SETTINGS = ["MAX_REPLICAS=3", "MAX_BOTS_PER_PARTITION=1", "STANDBY_WORKERS=0"]
"""As many workers as bots, so that few bots are enough to scale."""
MASTERS = 2

_ENGINE = "unix:///run/engine/docker.sock"
_REGISTRY_NAMESPACE = "the0-test-registry"
_MIRROR = f"--registry-mirror=http://registry.{_REGISTRY_NAMESPACE}.svc:5000"
_UP_SECONDS = 300.0
# In a master's container, where the token is.
_ASK = """
import os, pathlib, sys, urllib.request
asked = urllib.request.Request(f"http://127.0.0.1:8080/api/v1/{sys.argv[1]}")
asked.add_header("Authorization", f"Bearer {pathlib.Path(os.environ['HTTP_TOKEN_FILE']).read_text()}")
print(urllib.request.urlopen(asked, timeout=10).read().decode())
"""
# There too, by the Service, as the platform's API does from its own pod.
_QUERY = """
import json, os, pathlib, sys, urllib.request
service, bot, path = sys.argv[1:]
body = json.dumps({"bot_id": bot, "query_path": path, "params": {}, "timeout_sec": 60}).encode()
asked = urllib.request.Request(f"http://{service}-master:9477/query", body)
asked.add_header("Authorization", f"Bearer {pathlib.Path(os.environ['HTTP_TOKEN_FILE']).read_text()}")
print(urllib.request.urlopen(asked, timeout=90).read().decode())
"""
# In the container of a master or worker.
_SUM = """
import re, sys, urllib.request
text = urllib.request.urlopen("http://127.0.0.1:8080/metrics", timeout=30).read().decode()
print(sum(float(value) for value in re.findall(rf"^{sys.argv[1]}(?:\\{{.*\\}})? (\\S+)$", text, re.MULTILINE)))
"""


@dataclass(frozen=True)
class BotContainer:
    """A running container of an entity: the worker's pod, and the id in its engine."""

    pod: str
    container: str


@dataclass
class DevRuntime:
    """The running overlay. Made by :func:`dev_runtime`."""

    cluster: OverlayCluster
    folder: Path
    platform: Platform
    completed: list[dict[str, Any]] = field(default_factory=list)
    """The events of completed backtests."""

    async def pods(self, service: str, component: str) -> list[Any]:
        """Return the pods of a service's masters or workers, without those that are being deleted."""
        labels = f"app.kubernetes.io/name={service},app.kubernetes.io/component={component}"
        pods = await self.cluster.read("pods", f"--namespace={NAMESPACE}", f"--selector={labels}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    async def endpoints(self, service: str) -> list[Any]:
        """Return the ready pods that receive the traffic of the Service of a service's masters."""
        pods = await self.pods(service, "master")
        selector = f"--selector=kubernetes.io/service-name={service}-master"
        slices = await self.cluster.read("endpointslices", f"--namespace={NAMESPACE}", selector)
        names = {
            endpoint["targetRef"]["name"]
            for found in slices
            for endpoint in found["endpoints"] or []
            if endpoint["conditions"].get("ready")
        }
        # A slice follows its pods a moment later.
        return [pod for pod in pods if pod["metadata"]["name"] in names and is_ready(pod)]

    async def leader(self, service: str, *, lost_node: str = "") -> tuple[Any, Any] | None:
        """Return the pod of a service's leading master, and its status; None while no master leads.

        Args:
            lost_node: node whose pods get no request, since they do not answer.
        """
        for pod in await self.pods(service, "master"):
            if pod["spec"].get("nodeName") == lost_node:
                continue
            status = await self._api(pod, "status")
            if status.get("leads"):
                return pod, status
        return None

    async def _api(self, pod: Any, path: str) -> Any:
        """Return the answer of a master's API; empty without one."""
        place = [f"--namespace={NAMESPACE}", "exec", pod["metadata"]["name"], "--container=master", "--"]
        code, output, _ = await self.cluster.run(*place, "python3", "-c", _ASK, path)
        return json.loads(output) if code == 0 else {}

    async def query(self, service: str, bot_id: str, path: str) -> Any:
        """Return a bot's answer to a query that comes from inside the cluster."""
        pod = (await self.pods(service, "master"))[0]["metadata"]["name"]
        place = [f"--namespace={NAMESPACE}", "exec", pod, "--container=master", "--"]
        return json.loads(await self.cluster.kubectl(*place, "python3", "-c", _QUERY, service, bot_id, path))

    async def metric(self, pod: Any, container: str, name: str) -> float:
        """Return the sum of a metric of a master or worker over all its labels."""
        place = [f"--namespace={NAMESPACE}", "exec", pod["metadata"]["name"], f"--container={container}", "--"]
        return float(await self.cluster.kubectl(*place, "python3", "-c", _SUM, name))

    async def replicas(self, deployment: str) -> int:
        """Return the number of pods that a Deployment requests."""
        found = await self.cluster.read("deployment", deployment, f"--namespace={NAMESPACE}")
        return int(found["spec"]["replicas"])

    async def engine(self, pod: str, *command: str) -> str:
        """Run the Docker client in the engine container of a worker's pod, and return its output."""
        place = [f"--namespace={NAMESPACE}", "exec", pod, "--container=engine", "--"]
        return await self.cluster.kubectl(*place, "docker", f"--host={_ENGINE}", *command)

    async def shell(self, pod: str, script: str) -> str:
        """Run a script in the engine container of a worker's pod, and return its output."""
        return await self.cluster.kubectl(
            f"--namespace={NAMESPACE}", "exec", pod, "--container=engine", "--", "sh", "-c", script
        )

    async def containers(self, service: str, entity_id: str) -> list[BotContainer]:
        """Return the running containers of an entity, on all workers that are not being deleted."""
        show = ("ps", "--quiet", "--no-trunc", f"--filter=label=runtime.id={entity_id}")
        names = [pod["metadata"]["name"] for pod in await self.pods(service, "worker")]
        ids = await asyncio.gather(*(self.engine(name, *show) for name in names))
        return [BotContainer(name, one) for name, text in zip(names, ids, strict=True) for one in text.split()]

    async def output(self, bot: BotContainer) -> str:
        """Return the output of a container."""
        return await self.engine(bot.pod, "logs", bot.container)

    async def ended(self, service: str, entity_id: str) -> Any:
        """Return the last ended run of an entity, as the API shows it; None without one."""
        return next((run for run in await self.runs(service, entity_id) if run["reason"]), None)

    async def runs(self, service: str, entity_id: str) -> list[Any]:
        """Return the last runs of an entity, as the API shows them; empty while no master leads."""
        found = await self.leader(service)
        if found is None:
            return []
        return list((await self._api(found[0], f"runs?entity={entity_id}&limit=5")).get("runs", ()))

    @asynccontextmanager
    async def without_registry(self) -> AsyncIterator[None]:
        """End the registry of images during the block."""
        scale = [f"--namespace={_REGISTRY_NAMESPACE}", "scale", "deployment", "registry"]
        await self.cluster.kubectl(*scale, "--replicas=0")
        try:
            yield
        finally:
            await self.cluster.kubectl(*scale, "--replicas=1")

    def stored(self, bucket: str, prefix: str) -> str:
        """Return the contents of all objects of a bucket below *prefix*. Blocks."""
        storage = self.platform.storage
        if not storage.bucket_exists(bucket):
            return ""
        text = ""
        for entry in storage.list_objects(bucket, prefix=prefix, recursive=True):
            assert entry.object_name is not None
            with storage.get_object(bucket, entry.object_name) as response:
                text += response.read().decode()
        return text


@asynccontextmanager
async def dev_runtime(cluster: OverlayCluster, folder: Path) -> AsyncIterator[DevRuntime]:
    """Apply the overlay in its namespace, wait until it is ready, and delete all of it at the end.

    Args:
        folder: empty; receives a copy of the overlay with settings for tests.
    """
    _write_overlay(folder)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_registry(cluster))
        await stack.enter_async_context(cluster.own_namespace(OVERLAY / "namespace.yaml", NAMESPACE))
        keys = await _add_secrets(cluster, folder / "secrets")
        await cluster.apply(folder)
        await eventually(lambda: _is_up(cluster), within_seconds=_UP_SECONDS, every_seconds=1)
        nats_port = await stack.enter_async_context(port_forward(cluster.kubeconfig, NAMESPACE, "service/nats", 4222))
        s3_port = await stack.enter_async_context(port_forward(cluster.kubeconfig, NAMESPACE, "service/s3", 9000))
        client = await nats.connect(f"nats://the0:{keys['nats-password']}@127.0.0.1:{nats_port}", connect_timeout=60)
        stack.push_async_callback(client.close)
        storage = Minio(
            f"127.0.0.1:{s3_port}", access_key=keys["s3-access-key"], secret_key=keys["s3-secret-key"], secure=False
        )
        made = DevRuntime(cluster, folder, Platform(client, storage))
        await made.platform.ensure_stream()

        async def received(message: Msg) -> None:
            made.completed.append(json.loads(message.data))

        await client.subscribe("the0.backtest.completed", "api", received)
        await client.flush()
        yield made


def _write_overlay(folder: Path) -> None:
    """Write a copy as the README advises: the overlay, with a registry near the cluster and its own settings."""
    mirror = [{"op": "add", "path": "/spec/template/spec/initContainers/0/args/-", "value": _MIRROR}]
    workers = {"kind": "Deployment", "labelSelector": "app.kubernetes.io/component=worker"}
    settings = [*SETTINGS, f"PYTHON311_IMAGE={PYTHON}", f"NODEJS20_IMAGE={NODE}"]
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": [os.path.relpath(OVERLAY.resolve(), folder.resolve())],
        "configMapGenerator": [{"name": "bot-runner-settings", "behavior": "merge", "literals": settings}],
        # By their tags: a stand-in has another digest than the image that it stands in for.
        "images": [{"name": name, "newTag": tag} for name, _, tag in (one.tag.partition(":") for one in STAND_INS)],
        "replicas": [{"name": "bot-runner-master", "count": MASTERS}],
        "patches": [{"target": workers, "patch": json.dumps(mirror)}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))


async def _add_secrets(cluster: OverlayCluster, kept: Path) -> Mapping[str, str]:
    """Run the command of the README; return the passwords that it made."""
    process = await asyncio.create_subprocess_exec(
        *(KUBERNETES / "dev-secrets.sh", NAMESPACE, kept),
        env={**os.environ, "KUBECTL": f"{binaries.kubectl()} --kubeconfig={cluster.kubeconfig}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return _passwords(kept)


def _passwords(kept: Path) -> Mapping[str, str]:
    lines = [line for path in kept.glob("*.env") for line in path.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines)


def is_ready(pod: Any) -> bool:
    """Whether a pod is ready."""
    return any(found["type"] == "Ready" and found["status"] == "True" for found in pod["status"].get("conditions", ()))


async def _is_up(cluster: OverlayCluster) -> bool:
    deployments = await cluster.read("deployments", f"--namespace={NAMESPACE}")
    ready = {found["metadata"]["name"]: found["status"].get("readyReplicas", 0) for found in deployments}
    return all(ready.get(f"{service.name}-{role}", 0) >= 1 for service in SERVICES for role in ("master", "worker"))


@asynccontextmanager
async def _registry(cluster: OverlayCluster) -> AsyncIterator[None]:
    """A registry with the bots' images, for engines that reach no other one."""
    labels = {"app.kubernetes.io/name": "registry"}
    container = {"name": "registry", "image": REGISTRY, "imagePullPolicy": "IfNotPresent"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}
    deployment = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
    service = {"selector": labels, "ports": [{"port": 5000}]}
    metadata = {"name": "registry", "namespace": _REGISTRY_NAMESPACE}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _REGISTRY_NAMESPACE}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    await cluster.kubectl("apply", "--filename=-", stdin=listed)
    try:
        yield
    finally:
        await asyncio.shield(cluster.kubectl("delete", "namespace", _REGISTRY_NAMESPACE, "--wait=false"))
