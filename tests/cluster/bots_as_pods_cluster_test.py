"""Bots as pods of a real cluster, in the namespace of deploy/kubernetes/bots with its policies and its standard."""

import asyncio
import io
import itertools
import secrets
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest
import pytest_asyncio

from libs.core.room import MIB
from libs.docker_runner.containers.container import EndReason, ManagedContainer
from libs.docker_runner.errors import StartFailed
from libs.docker_runner.executable import Limits
from tests.cluster.faults import kill_container, suspended_kubelet
from tests.cluster.layout import KUBECONFIG
from tests.cluster.load import load_images
from tests.cluster.network import in_cluster_network
from tests.deploy.manifests import KUBERNETES
from tests.support.eventually import eventually
from tests.support.rigs.bot_pods import PodWorker, pod_worker
from tests.support.rigs.bot_process import init_program
from tests.support.servers.cluster import Cluster
from tools.engine.ensure import Engine

INIT_IMAGE = "the0/init:latest"
NAMESPACE = "the0-bots"
TICKS = (
    "import time\ndef main(id, config):\n n = 0\n"
    " while True:\n  print(f'tick {n} {time.time()}', flush=True)\n  n += 1\n  time.sleep(0.1)"
)
HOG = "def main(id, config):\n held = bytearray(400 << 20)\n return len(held)"


@pytest_asyncio.fixture(loop_scope="session")
async def kubeconfig(cluster: Cluster, python_image: str, docker_engine: Engine, tmp_path: Path) -> AsyncIterator[Path]:
    """A KUBECONFIG file for this thread, which is in the cluster's network. The bots' namespace and images exist."""
    if cluster.kubeconfig != str(KUBECONFIG):
        pytest.skip("the addresses of this cluster's pods are not reachable")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "init.tar"
        await asyncio.to_thread(_save_init, docker_engine.url, archive)
        await load_images([archive])
    await cluster.kubectl("apply", "-k", str(KUBERNETES / "bots"))
    try:
        with in_cluster_network(tmp_path) as inside:
            yield inside
    finally:
        await cluster.kubectl("delete", "pods", "--all", f"--namespace={NAMESPACE}", "--grace-period=0", "--force")


async def test_bot_in_a_pod_is_adopted_and_every_end_has_its_reason(kubeconfig: Path, tmp_path: Path) -> None:
    scope = f"test-{secrets.token_hex(4)}"
    async with pod_worker(tmp_path / "one", scope, kubeconfig, namespace=NAMESPACE) as first:
        outcome, text = await first.bots.run("def main(id, config): return {'a': config['x'] + 1}", config={"x": 1})
        assert (outcome.result, text) == ({"a": 2}, '{"a": 2}\n')
        container = await first.bots.runner.start(first.bots.executable(TICKS, run_id="r1"))
        await eventually(lambda: _printed(first, container, "tick 10"))
    # Its lease is over when the next one connects.
    await asyncio.sleep(4.5)
    async with pod_worker(tmp_path / "two", scope, kubeconfig, namespace=NAMESPACE, epoch=2) as second:
        (adopted,) = await eventually(lambda: second.bots.list())
        await eventually(lambda: _printed(second, adopted, "tick 100"))
        lines = [line.split() for line in (await _output(second, adopted)).splitlines() if line.startswith("tick")]
        stopped = await second.bots.runner.stop(adopted, 10.0)
        await second.bots.runner.remove(adopted)
        hog, _ = await second.bots.run(HOG, id="hog", limits=Limits(256 * MIB))
        with pytest.raises(StartFailed, match="no node has room"):
            await second.bots.runner.start(second.bots.executable(TICKS, id="large", limits=Limits(1 << 50)))

    assert adopted.container_id == container.container_id
    assert [int(number) for _, number, _ in lines] == list(range(len(lines)))
    assert max(float(after[2]) - float(before[2]) for before, after in itertools.pairwise(lines)) < 2.0
    assert (stopped.reason, hog.ended.reason) == (EndReason.STOPPED, EndReason.OOM)


async def test_pod_whose_node_is_silent_is_lost_within_ten_seconds(kubeconfig: Path, tmp_path: Path) -> None:
    scope = f"test-{secrets.token_hex(4)}"
    async with pod_worker(tmp_path / "one", scope, kubeconfig, namespace=NAMESPACE) as worker:
        container = await worker.bots.runner.start(worker.bots.executable(TICKS, run_id="r1"))
        await eventually(lambda: _printed(worker, container, "tick 5"))
        node, process = await eventually(lambda: _process(Cluster(str(kubeconfig)), container.name))
        with suspended_kubelet(node):
            lost_at = time.monotonic()
            await kill_container(node, process)
            ended = await eventually(lambda: worker.bots.runner.exit_info(container))
            seconds = time.monotonic() - lost_at
            await worker.bots.runner.remove(container)

    assert ended is not None
    assert ended.reason is EndReason.NODE_LOST
    assert seconds < 10.0


async def _output(worker: PodWorker, container: ManagedContainer) -> str:
    return b"".join([piece.data async for piece in worker.bots.runner.logs(container)]).decode()


async def _printed(worker: PodWorker, container: ManagedContainer, text: str) -> bool:
    return text in await _output(worker, container)


async def _process(cluster: Cluster, pod: str) -> tuple[str, str]:
    """Return the pod's node, and the id of its container, once its node has reported it."""
    found = await cluster.read("pod", pod, f"--namespace={NAMESPACE}")
    return found["spec"]["nodeName"], found["status"]["containerStatuses"][0]["containerID"]


def _save_init(url: str, archive: Path) -> None:
    """Write an image with the init alone, as components/pods/Dockerfile builds it."""
    contents = {
        "the0-init": init_program().read_bytes(),
        "Dockerfile": b'FROM scratch\nCOPY the0-init /the0-init\nENTRYPOINT ["/the0-init"]\n',
    }
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as file:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            file.addfile(entry, io.BytesIO(content))
    context.seek(0)
    client = docker.DockerClient(base_url=url, timeout=300)
    try:
        client.images.build(fileobj=context, custom_context=True, tag=INIT_IMAGE)
        with archive.open("wb") as out:
            out.writelines(client.images.get(INIT_IMAGE).save(named=INIT_IMAGE))
    finally:
        client.close()
