"""Images of a private registry: a real one that requires a password."""

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest
import pytest_asyncio
from pydantic import SecretStr

from libs.core.config.container_settings import ContainerSettings, MaximaSettings
from libs.core.config.image_settings import ImageSettings
from libs.core.config.secret_settings import SecretSettings
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.images import Images
from libs.docker_runner.errors import ImageUnavailable
from libs.docker_runner.executable import Network
from libs.docker_runner.settings import Registry
from libs.docker_runner.worker.from_settings import runner_settings
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import bot_containers
from tests.support.servers.own_engine import OwnEngine
from tools.debian.packages import ensure_unpacked

SERVER = "127.0.0.1:5000"
IMAGE = f"{SERVER}/bots/tiny:1"
USER, PASSWORD = "reader", "right-passw0rd"
# The password as `htpasswd -B` writes it; the registry reads no other kind.
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuubtOoRAFX3xSUlY2RJvZym0Q7sf229Ty\n"
CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/images}}}}
http: {{addr: "{server}"}}
auth: {{htpasswd: {{realm: bots, path: {folder}/htpasswd}}}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def registry(tmp_path_factory: pytest.TempPathFactory, private_engine: OwnEngine) -> AsyncIterator[OwnEngine]:
    """The engine beside whose registry has :data:`IMAGE`, and which has it no more itself."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "htpasswd").write_text(HTPASSWD)
    (folder / "config.yml").write_text(CONFIG.format(folder=folder, server=SERVER))
    program = await ensure_unpacked("docker-registry", "docker-registry")
    async with private_engine.beside(str(program), "serve", str(folder / "config.yml")):
        await eventually(lambda: asyncio.to_thread(push, private_engine.url))
        yield private_engine


def push(url: str) -> bool:
    client = docker.APIClient(base_url=url)
    try:
        client.import_image_from_data(an_archive(), repository=IMAGE.removesuffix(":1"), tag="1")
        said = client.push(IMAGE, auth_config={"username": USER, "password": PASSWORD})
        assert "error" not in said, said
        client.remove_image(IMAGE)
    finally:
        client.close()
    return True


def an_archive() -> bytes:
    """A file system with one file that no other image has."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        content = os.urandom(16)
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def of_settings(**registry: object) -> Registry | None:
    images = ImageSettings(**registry)  # type: ignore[arg-type]
    return runner_settings(ContainerSettings(), MaximaSettings(), images, SecretSettings()).registry


async def pulled(engine: OwnEngine, registry: Registry | None) -> str | None:
    client = Engine(engine.url)
    images = Images(client, registry, 240.0)
    try:
        await images.ensure(IMAGE)
        return await client.image_id(IMAGE)
    finally:
        await images.close()
        await client.close()


@pytest.mark.parametrize(
    ("user", "password"), [(None, None), (USER, "wrong"), ("nobody", PASSWORD)], ids=["none", "password", "user"]
)
async def test_wrong_password_fails_pull_and_message_names_settings(
    registry: OwnEngine, user: str | None, password: str | None
) -> None:
    secret = SecretStr(password) if password is not None else None
    credentials = of_settings(registry_server=SERVER, registry_username=user, registry_password=secret)
    with pytest.raises(ImageUnavailable, match=r"bots/tiny:1.*REGISTRY_SERVER.*REGISTRY_PASSWORD") as raised:
        await pulled(registry, credentials)
    assert password is None or password not in str(raised.value)


async def test_a_password_for_another_registry_is_not_used(registry: OwnEngine) -> None:
    credentials = of_settings(
        registry_server="registry.example.com", registry_username=USER, registry_password=SecretStr(PASSWORD)
    )
    with pytest.raises(ImageUnavailable):
        await pulled(registry, credentials)


async def test_with_the_right_password_the_image_comes(registry: OwnEngine) -> None:
    credentials = of_settings(registry_server=SERVER, registry_username=USER, registry_password=SecretStr(PASSWORD))
    assert await pulled(registry, credentials)


async def test_bots_start_from_an_image_that_is_there_while_its_registry_is_away(
    tmp_path: Path, scope: str, private_engine: OwnEngine
) -> None:
    image = "127.0.0.1:1/bots/python:3.11"

    def tag() -> None:
        client = docker.APIClient(base_url=private_engine.url)
        try:
            client.tag("python:3.11-slim", "127.0.0.1:1/bots/python", "3.11")
        finally:
            client.close()

    await asyncio.to_thread(tag)
    images = {"python3.11": image, "nodejs20": "127.0.0.1:1/bots/node:20"}
    async with bot_containers(tmp_path, scope, private_engine.url, images=images, network=Network.NONE) as bots:
        assert list(await bots.runner.prepare()) == ["127.0.0.1:1/bots/node:20"]
        outcome, _ = await bots.run("def main(id, config): return 'ran'")
    assert outcome.result == "ran"
