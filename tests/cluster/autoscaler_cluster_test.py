"""The autoscaler's calls to a real API server, with the rights that the base gives it, and what refuses them."""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from aiohttp import ClientSession, TCPConnector, web

from libs.autoscaler.errors import ScaleConflict
from libs.autoscaler.kubernetes import KubernetesWorkers
from libs.core.kubernetes.errors import ClusterForbids, ClusterRejects, ClusterUnavailable
from tests.deploy.manifests import Manifest, named
from tests.support.eventually import eventually
from tests.support.servers.cluster import Cluster

DEPLOYMENT, ACCOUNT, BINDING = "bot-runner-worker", "bot-runner-master", "bot-runner-autoscaler"
PATIENCE_SECONDS = 60.0
TIMEOUT_SECONDS = 10.0


@dataclass
class Relay:
    """Stands between the autoscaler and the API server."""

    url: str = ""
    fault: str = ""
    """``429``, ``html`` or ``hang``; empty: every call is passed on."""


@dataclass
class Access:
    """The way of a service account to the cluster."""

    cluster: Cluster
    namespace: str
    folder: Path
    relay: Relay

    @property
    def environ(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.folder / "kubeconfig")}

    async def new_token(self) -> None:
        """Write a token of the account to the file that the SDK reads."""
        token = await self.cluster.kubectl("create", "token", ACCOUNT, f"--namespace={self.namespace}")
        (self.folder / "token").write_text(token)


@pytest_asyncio.fixture(loop_scope="session")
async def access(cluster: Cluster, namespace: str, tmp_path: Path) -> AsyncIterator[Access]:
    """A Deployment without pods, and an account with the role of the base."""
    await cluster.apply(*objects(namespace))
    async with relayed(cluster) as relay:
        made = Access(cluster, namespace, tmp_path, relay)
        user = {"tokenFile": str(tmp_path / "token")}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": relay.url}}], "users": [{"name": "u", "user": user}],
        }  # fmt: skip
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        await made.new_token()
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def workers(access: Access) -> AsyncIterator[KubernetesWorkers]:
    async with KubernetesWorkers(access.namespace, DEPLOYMENT, access.environ, TIMEOUT_SECONDS) as workers:
        # An account's rights are known a moment after they are given.
        await eventually(lambda: is_served(workers), within_seconds=PATIENCE_SECONDS, every_seconds=0.2)
        yield workers


async def test_rights_of_the_base_suffice_for_every_call(workers: KubernetesWorkers) -> None:
    scale = await workers.scale()
    pods = await workers.pods(scale)

    assert (scale.replicas, pods, await workers.hindrances(pods)) == (0, (), ())
    # Of a pod that is gone: the right is checked first.
    await workers.set_deletion_cost("gone", 100)
    await workers.set_replicas(scale, 0)


async def test_token_of_a_deleted_account_is_refused_until_there_is_another(
    access: Access, workers: KubernetesWorkers
) -> None:
    place = f"--namespace={access.namespace}"
    await access.cluster.kubectl("delete", "serviceaccount", ACCOUNT, place)

    with pytest.raises(ClusterForbids, match="rejects the token"):
        await refused(workers)
    await access.cluster.kubectl("create", "serviceaccount", ACCOUNT, place)
    await access.new_token()

    assert (await workers.scale()).replicas == 0


async def test_rights_that_are_taken_away_are_named_and_used_again_when_they_return(
    access: Access, workers: KubernetesWorkers
) -> None:
    await access.cluster.kubectl("delete", "rolebinding", BINDING, f"--namespace={access.namespace}")

    with pytest.raises(ClusterForbids, match="needs get and update on deployments/scale"):
        await refused(workers)
    await access.cluster.apply(*objects(access.namespace))

    await eventually(lambda: is_served(workers), within_seconds=PATIENCE_SECONDS, every_seconds=0.2)


async def test_number_that_was_changed_meanwhile_is_not_overwritten(access: Access, workers: KubernetesWorkers) -> None:
    before = await workers.scale()
    annotation = ("annotate", f"deployment/{DEPLOYMENT}", "changed=true", f"--namespace={access.namespace}")
    await access.cluster.kubectl(*annotation)

    with pytest.raises(ScaleConflict):
        await workers.set_replicas(before, 0)

    await workers.set_replicas(await workers.scale(), 0)


@pytest.mark.parametrize(
    ("fault", "error"), [("429", ClusterUnavailable), ("html", ClusterRejects), ("hang", ClusterUnavailable)]
)
async def test_server_that_misbehaves_for_a_while_is_used_again(
    access: Access, fault: str, error: type[Exception]
) -> None:
    async with KubernetesWorkers(access.namespace, DEPLOYMENT, access.environ, 2.0) as workers:
        access.relay.fault = fault
        # More often than the adapter has threads.
        for _ in range(3):
            with pytest.raises(error):
                await workers.scale()
        access.relay.fault = ""

        await eventually(lambda: is_served(workers), within_seconds=PATIENCE_SECONDS, every_seconds=0.2)


def objects(namespace: str) -> list[Manifest]:
    """Return the account, its role and the binding of the base, and a Deployment of no pods."""
    role = named("base/bot-runner", "Role", BINDING)
    binding = named("base/bot-runner", "RoleBinding", BINDING)
    account = named("base/bot-runner", "ServiceAccount", ACCOUNT)
    labels = {"app": DEPLOYMENT}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT}, "spec": spec}
    placed = [json.loads(json.dumps(one)) for one in (account, role, binding, deployment)]
    for one in placed:
        one["metadata"]["namespace"] = namespace
        for subject in one.get("subjects", ()):
            subject["namespace"] = namespace
    return placed


async def is_served(workers: KubernetesWorkers) -> bool:
    try:
        await workers.scale()
    except (ClusterForbids, ClusterUnavailable):
        return False
    return True


async def refused(workers: KubernetesWorkers) -> None:
    """Call until the server refuses: it remembers accounts and rights for a while."""
    await eventually(lambda: is_refused(workers), within_seconds=PATIENCE_SECONDS, every_seconds=0.2)
    await workers.scale()


async def is_refused(workers: KubernetesWorkers) -> bool:
    return not await is_served(workers)


@asynccontextmanager
async def relayed(cluster: Cluster) -> AsyncIterator[Relay]:
    """Pass calls on to the API server, with the tokens that they carry."""
    text = await asyncio.to_thread(Path(cluster.kubeconfig).read_text)
    (known,) = (one["cluster"] for one in yaml.safe_load(text)["clusters"])
    authority = base64.b64decode(known["certificate-authority-data"]).decode()
    connector = TCPConnector(ssl=ssl.create_default_context(cadata=authority))
    relay = Relay()
    async with ClientSession(connector=connector) as session:

        async def passed_on(request: web.Request) -> web.StreamResponse:
            if relay.fault == "429":
                text = '{"kind": "Status", "code": 429, "message": "too many requests"}'
                return web.Response(status=429, text=text, headers={"Retry-After": "120"})
            if relay.fault == "html":
                return web.Response(text="<html>Sign in</html>", content_type="text/html")
            if relay.fault == "hang":
                await asyncio.Event().wait()
            headers = {
                name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers
            }
            body = await request.read()
            url = known["server"] + request.path_qs
            async with session.request(request.method, url, headers=headers, data=body) as answer:
                kind = answer.headers.get("Content-Type", "application/json").partition(";")[0]
                return web.Response(status=answer.status, body=await answer.read(), content_type=kind)

        app: Any = web.Application()
        app.router.add_route("*", "/{path:.*}", passed_on)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        relay.url = f"http://{host}:{port}"
        try:
            yield relay
        finally:
            await runner.cleanup()
