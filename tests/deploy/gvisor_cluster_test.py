"""The image of the engine with gVisor, built by its recipe on a base of this machine, and bots that its gVisor starts.

It needs no cluster, but three minutes of a processor and Go's module proxy, as the images that the tests of clusters
build.
"""

import asyncio
import json
import shutil
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest
import pytest_asyncio

from tests.deploy.image_docker_test import LIST_PACKAGES, packages_of
from tests.deploy.manifests import KUBERNETES
from tests.support.rigs.bot_containers import bot_containers
from tests.support.servers.own_engine import GVISOR_AS_DEPLOYED, own_engine, require_root
from tools.debian.packages import to_stderr
from tools.engine.ensure import Engine
from tools.images import sbom
from tools.toolchains.go import ensure_go

pytestmark = pytest.mark.timeout(850)

TAG, GO_TAG = "the0-test/engine-gvisor:latest", "the0-test/golang:latest"
# Any image does as the engine: the recipe adds one static program to it.
BASE = "python:3.11-slim"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# The kernel that a bot sees, and how connections to what the rules of its network interface close end.
PROBE = """
import socket
def tried(host):
    try:
        socket.create_connection((host, 9), timeout=2).close()
        return "reached"
    except OSError as error:
        return type(error).__name__
def main():
    return open("/proc/version").read(), [tried(host) for host in ("172.17.0.1", "10.77.0.9", "169.254.169.254")]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[docker.DockerClient]:
    """An engine that has the image, until the end of the tests."""
    go = await ensure_go(to_stderr)
    client = docker.DockerClient(docker_engine.url, timeout=1500)
    try:
        await asyncio.to_thread(build_go, client, go.resolve().parent.parent, tmp_path_factory.mktemp("go"))
        await asyncio.to_thread(build_engine, client, tmp_path_factory.mktemp("engine"))
        yield client
    finally:
        await asyncio.to_thread(remove_images, client)
        client.close()


def build_go(client: docker.DockerClient, go: Path, context: Path) -> None:
    """Build what the official image of Go is for the recipe."""
    shutil.copytree(go, context / "go", symlinks=True)
    path = "/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin"
    lines = [f"FROM {BASE}", "COPY go /usr/local/go", f"ENV PATH={path}"]
    if CERTIFICATES.exists():
        # Of the machine, whose network may have an authority of its own.
        shutil.copy(CERTIFICATES, context / "certificates")
        lines.append(f"COPY certificates {CERTIFICATES}")
    (context / "Dockerfile").write_text("\n".join(lines))
    client.images.build(path=str(context), tag=GO_TAG, rm=True)
    shutil.rmtree(context)


def build_engine(client: docker.DockerClient, context: Path) -> None:
    """Build the image by its recipe."""
    shutil.copy(sbom.__file__, context / "sbom.py")
    shutil.copy(KUBERNETES / "components" / "gvisor" / "Dockerfile", context)
    # The host's network: where modules are reached through it alone, containers of the bridge reach none.
    arguments = {"ENGINE": BASE, "GO": GO_TAG}
    client.images.build(path=str(context), tag=TAG, buildargs=arguments, network_mode="host", rm=True)


def remove_images(client: docker.DockerClient) -> None:
    """Remove both, with the stage in which Go ran."""
    if client.images.list(TAG):
        client.images.remove(TAG, force=True)
    if not client.images.list(GO_TAG):
        return
    layers = client.images.get(GO_TAG).attrs["RootFS"]["Layers"]
    for image in client.images.list(filters={"dangling": True}):
        if image.attrs["RootFS"]["Layers"][: len(layers)] == layers:
            client.images.remove(str(image.id), force=True)
    client.images.remove(GO_TAG, force=True)


@pytest.fixture(scope="module")
def runsc(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in the image."""
    folder = tmp_path_factory.mktemp("runsc")
    container = client.containers.create(TAG)
    try:
        pieces, _ = container.get_archive("/usr/local/bin/runsc")
        with (folder / "archive").open("wb") as archive:
            archive.writelines(pieces)
    finally:
        container.remove()
    with tarfile.open(folder / "archive") as archive:
        archive.extractall(folder, filter="tar")
    return folder / "runsc"


def test_engine_image_has_runsc_and_lists_its_modules_with_what_the_base_has(client: docker.DockerClient) -> None:
    image = client.images.get(TAG)
    command = f"runsc --version && cat {image.labels['the0.sbom']} && {LIST_PACKAGES}"

    answer = client.containers.run(image, ["-c", command], entrypoint="sh", user="0", remove=True).decode()

    version, _, rest = answer.partition("{")
    text, _, packages = rest.partition("PACKAGES\n")
    listed = {(one["purl"].split("/")[0], one["name"], one["version"]) for one in json.loads("{" + text)["components"]}
    modules = {one for one in listed if one[0] == "pkg:golang"}
    (gvisor,) = [one for one in modules if one[1] == "gvisor.dev/gvisor"]
    assert gvisor[2] in version
    assert {name for _, name, _ in modules} > {"std", "golang.org/x/sys", "github.com/opencontainers/runtime-spec"}
    assert listed - modules == packages_of(packages)


async def test_bot_on_the_images_gvisor_has_its_kernel_and_a_network_whose_rules_hold(
    docker_engine: Engine, runsc: Path, tmp_path: Path, scope: str
) -> None:
    require_root()
    async with (
        own_engine(docker_engine, images=(BASE,), gvisor=runsc) as engine,
        bot_containers(tmp_path, scope, engine.url, container_runtime=GVISOR_AS_DEPLOYED) as bots,
    ):
        outcome, output = await bots.run(PROBE)

    assert isinstance(outcome.result, list), output
    assert "gvisor" in outcome.result[0]
    # A host that no rule closes refuses the connection at once.
    assert outcome.result[1] == ["TimeoutError"] * 3
