"""The services' images, built by the recipe that `./pants package ::` uses, run as a deployment runs them.

The build puts the PEX files into the working directory. The images are made here and not before, since on a new
machine the engine that makes them is started by the tests.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from libs.core.process.service import BOT_RUNNER, SERVICES, ServiceDefinition
from tests.support.eventually import eventually
from tests.support.fakes.fake_kubernetes import FakeKubernetes
from tests.support.rigs.platform import platform, zipped
from tests.support.rigs.service_images import build_service_images
from tools.dev.http import get_json
from tools.engine.ensure import Engine
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer
from tools.stack.ports import free_port
from tools.stack.s3 import S3Server

pytestmark = pytest.mark.timeout(300)

USER = "10001:10001"
# The largest are the SDKs of Kubernetes (24 MB), gRPC (19), and Crypto (11), which MinIO's needs; PyNaCl has 4.
MAX_ADDED_BYTES = 126_000_000
MAX_START_SECONDS = 2.0
# Of a container that does nothing, which takes a third of a second on an idle machine: on a busy one both are slower.
MAX_START_RATIO = 6.0
START_ATTEMPTS = 6
BASE = "python:3.11-slim"
BOT = 'import time\n\ndef main(id, config):\n    print("hello from", id, flush=True)\n    time.sleep(600)\n'

LIST_PACKAGES = (
    "echo PACKAGES; dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\\n';"
    " find / -xdev -name '*.dist-info' -o -xdev -name '*.egg-info' -o -xdev -name '*.whl'"
)

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)


@pytest.fixture(scope="module")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[MongoServer, NatsServer, S3Server]]:
    """Servers of these tests' own: the images use the fixed names of databases, streams and buckets."""
    folder = tmp_path_factory.mktemp("servers")
    async with (
        MongoServer.start(folder / "mongod") as mongod,
        NatsServer.start(folder / "nats") as nats,
        S3Server.start(folder / "s3") as s3,
    ):
        yield mongod, nats, s3


@pytest.fixture
def settings(servers: tuple[MongoServer, NatsServer, S3Server], tmp_path: Path) -> dict[str, str]:
    """What both roles are given. The work folder has one path for the worker and for the engine."""
    mongod, nats, s3 = servers
    work = tmp_path / "work"
    work.mkdir()
    work.chmod(0o777)
    return {
        "MONGO_URI": mongod.uri,
        "NATS_URL": nats.url,
        "MINIO_ENDPOINT": s3.endpoint,
        "MINIO_ACCESS_KEY_ID": s3.access_key,
        "MINIO_SECRET_ACCESS_KEY": s3.secret_key,
        "MASTER_SERVICE": "127.0.0.1",
        "GRPC_PORT": str(free_port()),
        "TEMP_DIR": str(work),
    }


@pytest.fixture(scope="module")
def client(docker_engine: Engine) -> Iterator[docker.DockerClient]:
    engine_client = docker.DockerClient(base_url=docker_engine.url, timeout=600)
    yield engine_client
    engine_client.close()


@pytest.fixture(scope="module", autouse=True)
def images(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The images of all services, under the names that deployments use."""
    build_service_images(client, tmp_path_factory.mktemp("context"))


class Runner:
    """Starts images with the limits that deployments give them, and removes what it started."""

    def __init__(self, client: docker.DockerClient, socket: str, settings: dict[str, str]) -> None:
        self._client = client
        self._socket = socket
        self._settings = settings
        self.started: list[Container] = []

    def start(self, service: ServiceDefinition, role: str) -> tuple[Container, int]:
        """Start a process; returns its container and its HTTP port."""
        port = free_port()
        work = self._settings["TEMP_DIR"]
        found = self._client.containers.create(
            f"the0/{service.name}:latest",
            [role],
            environment=self._settings | {"HTTP_PORT": str(port), "DOCKER_HOST": f"unix://{self._socket}"},
            network_mode="host",
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            group_add=[os.stat(self._socket).st_gid] if role == "worker" else [],
            volumes=[f"{self._socket}:{self._socket}", f"{work}:{work}"] if role == "worker" else [],
        )
        self.started.append(found)
        found.start()
        return found, port

    def remove_all(self) -> None:
        for found in self.started:
            found.remove(force=True, v=True)


@pytest.fixture
def runner(client: docker.DockerClient, docker_engine: Engine, settings: dict[str, str]) -> Iterator[Runner]:
    found = Runner(client, docker_engine.url.removeprefix("unix://"), settings)
    yield found
    found.remove_all()


@each_service
def test_an_image_adds_little_to_its_base_and_builds_on_it(
    client: docker.DockerClient, service: ServiceDefinition
) -> None:
    image, base = client.images.get(f"the0/{service.name}:latest"), client.images.get(BASE)
    layers, base_layers = image.attrs["RootFS"]["Layers"], base.attrs["RootFS"]["Layers"]

    assert layers[: len(base_layers)] == base_layers
    assert image.attrs["Size"] - base.attrs["Size"] <= MAX_ADDED_BYTES


def test_images_share_the_layer_of_third_party_code(client: docker.DockerClient) -> None:
    layers = [client.images.get(f"the0/{service.name}:latest").attrs["RootFS"]["Layers"] for service in SERVICES]

    shared = set(layers[0]).intersection(*layers[1:])
    assert all(len(set(own) - shared) == 1 for own in layers), "only the layer of our own code differs"


@each_service
def test_image_runs_as_an_unprivileged_user_without_build_tools(
    client: docker.DockerClient, service: ServiceDefinition
) -> None:
    image = client.images.get(f"the0/{service.name}:latest")
    search = "ls /app/bin | grep -cE '^(pip|cc|gcc|ld)'; command -v gcc cc ld make; true"
    output = client.containers.run(image, ["-c", search], entrypoint="sh", remove=True)

    assert image.attrs["Config"]["User"] == USER
    assert output.split() == [b"0"]


@each_service
def test_bill_of_materials_lists_exactly_the_wheels_and_debian_packages_of_the_image(
    client: docker.DockerClient, service: ServiceDefinition
) -> None:
    image = client.images.get(f"the0/{service.name}:latest")
    path = image.labels["the0.sbom"]
    answer = client.containers.run(
        image, ["-c", f"cat {path} && {LIST_PACKAGES}"], entrypoint="sh", user="0", remove=True
    )
    text, _, packages = answer.decode().partition("PACKAGES\n")
    bill = json.loads(text)

    listed = {
        (component["purl"].split("/")[0], component["name"], component["version"]) for component in bill["components"]
    }
    found = packages_of(packages)
    assert {name for _, name, _ in found} > {"aiohttp", "grpcio", "kubernetes", "pymongo", "libc6", "dpkg"}
    assert {one for one in listed if one[0] != "pkg:generic"} == found
    assert bill["metadata"]["component"]["name"] == f"the0/{service.name}"


def packages_of(listed: str) -> set[tuple[str, ...]]:
    """The packages, by kind, name and version, in the output of :data:`LIST_PACKAGES`."""
    lines = listed.splitlines()
    wheels = {("pkg:pypi", *wheel) for wheel in map(wheel_of, lines) if wheel is not None}
    return wheels | {("pkg:deb", *line.split()[1:]) for line in lines if line.startswith("installed ")}


def wheel_of(path: str) -> tuple[str, str] | None:
    """Name and version of the wheel that a path belongs to; None when it is no wheel's."""
    found = re.search(r"/([^/-]+)-([^/-]+)(?:(?:-py[\d.]+)?\.(?:dist|egg)-info|-[^/]+\.whl)$", path)
    return None if found is None else (re.sub(r"[-_.]+", "-", found[1]).lower(), found[2])


def test_image_has_parts_of_kubernetes_sdk_that_autoscaler_uses(client: docker.DockerClient, tmp_path: Path) -> None:
    kubeconfig = FakeKubernetes(replicas=1).kubeconfig(tmp_path / "kubeconfig", {"server": "http://127.0.0.1:1"})
    tmp_path.chmod(0o755)
    call = "asyncio.run(KubernetesWorkers('n', 'd', {'KUBECONFIG': '/kubeconfig'}).scale())"
    code = f"""
import asyncio
from libs.core.kubernetes.errors import ClusterUnavailable
from libs.autoscaler.kubernetes import KubernetesWorkers
try:
    {call}
except ClusterUnavailable as error:
    print("called", error)
"""
    output = client.containers.run(
        f"the0/{BOT_RUNNER.name}:latest",
        ["-P", "-c", code],
        entrypoint="/app/bin/python",
        volumes=[f"{kubeconfig}:/kubeconfig:ro"],
        remove=True,
    )

    assert b"called http://127.0.0.1:1 does not answer" in output


@each_service
async def test_master_leads_within_two_seconds_and_ends_on_sigterm(
    runner: Runner, client: docker.DockerClient, service: ServiceDefinition
) -> None:
    took: list[tuple[float, float]] = []
    while not any(is_soon(seconds, nothing) for seconds, nothing in took) and len(took) < START_ATTEMPTS:
        # On both sides of the start, since a machine is not equally busy all the time.
        before = await asyncio.to_thread(seconds_of_nothing, client)
        seconds = await seconds_until_ready(runner, service)
        took.append((seconds, max(before, await asyncio.to_thread(seconds_of_nothing, client))))

    assert is_soon(*took[-1]), took


def is_soon(seconds: float, of_nothing: float) -> bool:
    return seconds <= max(MAX_START_SECONDS, MAX_START_RATIO * of_nothing)


def seconds_of_nothing(client: docker.DockerClient) -> float:
    begun = time.monotonic()
    client.containers.run(BASE, ["python3", "-c", "pass"], remove=True)
    return time.monotonic() - begun


async def seconds_until_ready(runner: Runner, service: ServiceDefinition) -> float:
    begun = time.monotonic()
    container, port = await asyncio.to_thread(runner.start, service, "master")
    await ready(container, port)
    seconds = time.monotonic() - begun
    await asyncio.to_thread(container.stop, timeout=60)
    assert (await asyncio.to_thread(container.wait))["StatusCode"] == 0, container.logs().decode()
    return seconds


@each_service
async def test_master_and_worker_of_one_image_find_each_other(runner: Runner, service: ServiceDefinition) -> None:
    for role in ("master", "worker"):
        container, port = await asyncio.to_thread(runner.start, service, role)
        await ready(container, port)


async def test_a_bot_runs_beside_a_worker_that_runs_in_a_container(
    runner: Runner,
    client: docker.DockerClient,
    servers: tuple[MongoServer, NatsServer, S3Server],
    tmp_path: Path,
) -> None:
    _, nats, s3 = servers
    bot_id = f"image-test-{tmp_path.name}-{os.getpid()}"
    for role in ("master", "worker"):
        container, port = await asyncio.to_thread(runner.start, BOT_RUNNER, role)
        await ready(container, port)

    def bots() -> list[Any]:
        return list(client.containers.list(filters={"label": f"runtime.id={bot_id}"}))

    async with platform(nats, s3) as api:
        api.upload(bot_id, zipped({"main.py": BOT}))
        await api.create_bot(bot_id, {}, key=bot_id)
        await eventually(lambda: asyncio.to_thread(says_hello, bots), within_seconds=90)
        await api.delete_bot(bot_id)
        await eventually(lambda: asyncio.to_thread(lambda: not bots()), within_seconds=90)


def says_hello(bots: Any) -> bool:
    return any(b"hello from" in container.logs() for container in bots())


async def ready(container: Container, port: int) -> None:
    """Return when the process can do its work; a failure shows what it wrote."""

    async def answers() -> bool:
        answer = await get_json(port, "/readyz")
        return answer is not None and answer[0] == 200

    try:
        await eventually(answers, within_seconds=90, every_seconds=0.02)
    except AssertionError as error:
        raise AssertionError((await asyncio.to_thread(container.logs)).decode()[-3000:]) from error
