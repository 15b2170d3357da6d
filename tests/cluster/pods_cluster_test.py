from typing import Any

import aiohttp
import pytest

from tests.support.eventually import eventually
from tests.support.servers.cluster import Cluster
from tests.support.servers.real_cluster import port_forward

_POD_SECONDS = 180
_RESOLVE = "import socket; print('resolved', socket.gethostbyname('kubernetes.default'))"
_ASK = """
import time, urllib.request
for _ in range(60):
    try:
        print(urllib.request.urlopen("http://server", timeout=5).status)
        break
    except OSError:
        time.sleep(1)
"""
_SERVE = "import http.server as h; h.HTTPServer(('127.0.0.1', 8000), h.SimpleHTTPRequestHandler).serve_forever()"


@pytest.mark.parametrize("index", [0, 1])
async def test_pod_on_each_node_resolves_the_api_server_and_ends(
    cluster: Cluster, namespace: str, python_image: str, index: int
) -> None:
    node = (await _ready_nodes(cluster))[index]
    service = await cluster.read("service", "kubernetes", "--namespace=default")

    await cluster.apply(_pod("pod", namespace, node, python_image, _RESOLVE))
    await eventually(lambda: _phase(cluster, namespace), _POD_SECONDS)

    output = await cluster.kubectl("logs", "pod", "--namespace", namespace)
    assert output.split() == ["resolved", service["spec"]["clusterIP"]]
    assert await _phase(cluster, namespace) == "Succeeded"


async def test_pod_is_reached_by_exec_and_port_forward(cluster: Cluster, namespace: str, python_image: str) -> None:
    node = (await _ready_nodes(cluster))[0]
    await cluster.apply(_pod("pod", namespace, node, python_image, _SERVE))
    await cluster.kubectl("wait", "--for=condition=Ready", "pod/pod", "--namespace", namespace, "--timeout=170s")

    assert (await cluster.kubectl("exec", "pod", "--namespace", namespace, "--", "hostname")).strip() == "pod"
    async with (
        port_forward(cluster.kubeconfig, namespace, "pod/pod", 8000) as port,
        aiohttp.ClientSession() as session,
    ):
        assert await eventually(lambda: _status(session, f"http://127.0.0.1:{port}")) == 200


async def test_pods_of_two_nodes_reach_each_other_through_a_service(
    cluster: Cluster, namespace: str, python_image: str
) -> None:
    first, second = await _ready_nodes(cluster)
    server = _pod("server", namespace, first, python_image, _SERVE.replace("127.0.0.1", "0.0.0.0"))
    server["metadata"]["labels"] = {"app": "server"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server", "namespace": namespace},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    await cluster.apply(server, service)
    await cluster.kubectl("wait", "--for=condition=Ready", "pod/server", "--namespace", namespace, "--timeout=170s")

    await cluster.apply(_pod("pod", namespace, second, python_image, _ASK))
    await eventually(lambda: _phase(cluster, namespace), _POD_SECONDS)

    assert (await cluster.kubectl("logs", "pod", "--namespace", namespace)).strip() == "200"


def _pod(name: str, namespace: str, node: str, image: str, script: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", script],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [container],
        },
    }


async def _ready_nodes(cluster: Cluster) -> list[str]:
    names = [
        node["metadata"]["name"]
        for node in (await cluster.read("nodes"))["items"]
        if {"type": "Ready", "status": "True"}.items()
        <= next(found for found in node["status"]["conditions"] if found["type"] == "Ready").items()
    ]
    assert len(names) >= 2, f"ready nodes: {names}"
    return names[:2]


async def _phase(cluster: Cluster, namespace: str) -> str | None:
    """Return how the pod has ended; None while it runs."""
    phase = (await cluster.read("pod", "pod", "--namespace", namespace))["status"]["phase"]
    return phase if phase in ("Succeeded", "Failed") else None


async def _status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as answer:
        return answer.status
