"""Digests are read from a real registry, and from a fake one where a real one does not lie or require a token."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.support.eventually import eventually
from tools.debian.packages import PackageMissingError, ensure_unpacked
from tools.images.pins import apply, fill, read
from tools.images.registry_api import RegistryError, RegistryReader
from tools.stack.ports import free_port

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/images}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
# The program ends with this process, however that ends (PR_SET_PDEATHSIG).
LAUNCH = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of a real registry, which has no image yet."""
    try:
        program = await ensure_unpacked("docker-registry", "docker-registry")
    except PackageMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    (folder / "config.yml").write_text(CONFIG.format(folder=folder, port=port))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LAUNCH, str(program), "serve", str(folder / "config.yml"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as session:

            async def answers() -> bool:
                try:
                    async with session.get(f"{address}/v2/") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await eventually(answers)
        yield address
    finally:
        process.kill()
        await process.wait()


async def push(address: str, path: str, tag: str, *, index: bool = False) -> bytes:
    """Push an image, or the *index* of one; return the manifest that its tag names."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "of": path}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [],
    }
    content = json.dumps(manifest).encode()
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with session.post(f"{address}/v2/{path}/blobs/uploads/") as begun:
            upload = begun.headers["Location"]
        async with session.put(f"{upload}&digest={digest_of(config)}", data=config):
            pass
        reference = digest_of(content) if index else tag
        await _put(session, f"{address}/v2/{path}/manifests/{reference}", content, MANIFEST)
        if index:
            platform = {"architecture": "amd64", "os": "linux"}
            one = {"mediaType": MANIFEST, "digest": digest_of(content), "size": len(content), "platform": platform}
            content = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [one]}).encode()
            await _put(session, f"{address}/v2/{path}/manifests/{tag}", content, INDEX)
    return content


async def _put(session: aiohttp.ClientSession, address: str, content: bytes, kind: str) -> None:
    async with session.put(address, data=content, headers={"Content-Type": kind}):
        pass


@pytest.mark.parametrize("index", [False, True])
async def test_digest_is_that_of_the_manifest_that_the_tag_names(registry: str, index: bool) -> None:
    path = f"library/one-{index}".lower()
    content = await push(registry, path, "1.0", index=index)

    async with RegistryReader(registry) as reader:
        digest = await reader.digest_of(f"{path.removeprefix('library/')}:1.0")

    assert digest == digest_of(content)


async def test_pins_are_filled_and_written_all_or_none(registry: str, tmp_path: Path) -> None:
    (tmp_path / "tools" / "images").mkdir(parents=True)
    pins = tmp_path / "tools" / "images" / "pins.json"
    pins.write_text(json.dumps({"a/filled:1.0": None, "filled:2.0": None, "missing:3.0": None}))
    (tmp_path / "Dockerfile.base").write_text("ARG BASE=filled:2.0\n")
    first, second = await push(registry, "a/filled", "1.0"), await push(registry, "library/filled", "2.0", index=True)
    before = pins.read_text()

    with pytest.raises(RegistryError, match=r"missing:3\.0"):
        await fill(tmp_path, registry)
    unchanged = pins.read_text()
    await fill(tmp_path, registry, ["a/filled:1.0", "filled:2.0"])
    apply(tmp_path)

    assert unchanged == before
    assert read(tmp_path) == {"a/filled:1.0": digest_of(first), "filled:2.0": digest_of(second), "missing:3.0": None}
    assert (tmp_path / "Dockerfile.base").read_text() == f"ARG BASE=filled:2.0@{digest_of(second)}\n"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def fake_registry(manifests: Handler, token: Handler | None = None) -> AsyncIterator[str]:
    """A registry that is none: it answers every request for a manifest by *manifests*."""
    app = web.Application()
    app.router.add_get("/v2/{path:.+}/manifests/{tag}", manifests)
    if token is not None:
        app.router.add_get("/token", token)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_token_that_the_registry_demands_is_fetched_for_the_images_path() -> None:
    asked: dict[str, str] = {}

    async def token(request: web.Request) -> web.Response:
        asked.update(request.query)
        return web.json_response({"token": "t0ken"})

    async def manifest(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") == "Bearer t0ken":
            return web.Response(body=b"{}", content_type=INDEX)
        challenge = f'Bearer realm="http://{request.host}/token",service="registry.example"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with fake_registry(manifest, token) as address, RegistryReader(address) as reader:
        assert await reader.digest_of("mongo:8.0.20") == digest_of(b"{}")
    assert asked == {"service": "registry.example", "scope": "repository:library/mongo:pull"}


@pytest.mark.parametrize(
    ("status", "kind", "headers", "reason"),
    [
        (200, INDEX, {"Docker-Content-Digest": f"sha256:{'0' * 64}"}, "states"),
        (200, "text/html", {}, "no manifest"),
        (200, "application/vnd.docker.distribution.manifest.v1+prettyjws", {}, "no manifest"),
        (404, INDEX, {}, "no such image"),
        (500, INDEX, {}, "status 500"),
        (401, INDEX, {"WWW-Authenticate": 'Basic realm="x"'}, "requires a password"),
    ],
)
async def test_answer_that_is_not_the_manifest_gives_no_digest(
    status: int, kind: str, headers: dict[str, str], reason: str
) -> None:
    async def manifest(request: web.Request) -> web.Response:
        return web.Response(status=status, body=b"{}", content_type=kind, headers=headers)

    async with fake_registry(manifest) as address, RegistryReader(address) as reader:
        with pytest.raises(RegistryError, match=reason):
            await reader.digest_of("mongo:8.0.20")


async def test_manifest_without_an_end_gives_no_digest() -> None:
    async def manifest(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": INDEX})
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b" " * 65536)
        except ConnectionError:
            return answer

    async with fake_registry(manifest) as address, RegistryReader(address) as reader:
        with pytest.raises(RegistryError, match="more than"):
            await reader.digest_of("mongo:8.0.20")
