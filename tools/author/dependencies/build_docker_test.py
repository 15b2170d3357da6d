"""Builds on a real engine with real pip and npm. Their packages come from the test: none needs the internet."""

import asyncio
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import pytest

from libs.docker_runner.settings import IMAGES
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.servers.package_index import package_index, wheel
from tools.author.dependencies.build import Builder, BuildFailed, tool_of_this_machine
from tools.author.dependencies.environment import BuildEnvironment, build_environment
from tools.author.dependencies.plan import Step
from tools.author.dependencies.prepare import prepared
from tools.bots.folder import read_folder
from tools.bots.package import Package
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(600)

IMAGE = IMAGES["python3.11"]
SOURCE = "exports.price = 42;\n"


needs_pip = pytest.mark.skipif(
    tool_of_this_machine("pip") is None, reason="neither a stand-in image nor this Python has pip"
)
needs_npm = pytest.mark.skipif(
    tool_of_this_machine("npm") is None, reason="a stand-in image has no npm, and this machine neither"
)


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the mirrors, proxies and certificates of this machine, and its cache of builds."""
    for name in build_environment().variables:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNTIME_CACHE_DIR", str(tmp_path / "cache"))


def node_bot(folder: Path, lock: Mapping[str, Any]) -> Path:
    """Write a bot that needs the module `price-feed`, which has this entry in its lockfile."""
    needed = {"name": "bot", "version": "1.0.0", "dependencies": {"price-feed": "1.0.0"}}
    locked = {"lockfileVersion": 3, "packages": {"": needed, "node_modules/price-feed": lock}}
    folder.mkdir()
    (folder / "main.js").write_text("module.exports.main = () => require('price-feed').price;\n")
    (folder / "package.json").write_text(json.dumps(needed))
    (folder / "package-lock.json").write_text(json.dumps({"name": "bot", "version": "1.0.0", **locked}))
    return folder


def python_bot(folder: Path) -> Path:
    """Write a bot that needs the package `price-feed`."""
    folder.mkdir()
    (folder / "main.py").write_text("def main(id, config): pass\n")
    (folder / "requirements.txt").write_text("price-feed==1.0\n")
    return folder


def content(package: Package) -> Mapping[str, bytes]:
    """Return the files of a package by name."""
    with zipfile.ZipFile(io.BytesIO(package.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@needs_pip
async def test_requirements_are_installed_once_in_the_image_from_a_folder_of_wheels(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "price_feed-1.0-py3-none-any.whl").write_bytes(wheel("price_feed", "PRICE = 42\n"))
    bot = python_bot(tmp_path / "bot")
    (bot / "vendor").mkdir()
    (bot / "vendor" / "stale.py").write_text("")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    lines: list[str] = []

    _, first = await prepared(read_folder(bot), IMAGES, lines.append)
    said = list(lines)
    _, again = await prepared(read_folder(bot), IMAGES, lines.append)
    _, as_it_is = await prepared(read_folder(bot), IMAGES, lines.append, build=False)

    assert said[0] == f"building vendor from requirements.txt in {IMAGE}"
    assert (first.digest, lines) == (again.digest, said)
    assert "DEPRECATION" not in "".join(said)
    assert "vendor/price_feed.py" in content(first)
    assert "vendor/stale.py" not in content(first)
    assert "vendor/stale.py" in content(as_it_is)


@needs_npm
async def test_lockfile_is_installed_once_from_the_registry_that_the_environment_names(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    async with package_index() as index:
        bot = node_bot(tmp_path / "bot", index.add_module("price-feed", SOURCE))
        (bot / "node_modules" / "stale").mkdir(parents=True)
        (bot / "node_modules" / "stale" / "index.js").write_text("")
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", index.address)

        _, first = await prepared(read_folder(bot), IMAGES, lines.append)
        requested = list(index.requested)
        _, again = await prepared(read_folder(bot), IMAGES, lines.append)

    assert lines[0] == f"building node_modules from package-lock.json in {IMAGES['nodejs20']}"
    assert content(first)["node_modules/price-feed/index.js"].decode() == SOURCE
    assert "node_modules/stale/index.js" not in content(first)
    assert (first.digest, requested) == (again.digest, index.requested)


@needs_npm
async def test_module_that_is_not_what_the_lockfile_names_is_refused(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    async with package_index() as index:
        bot = node_bot(tmp_path / "bot", index.add_module("price-feed", SOURCE))
        index.add_module("price-feed", "steal();")
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", index.address)
        monkeypatch.setenv("NPM_CONFIG_FETCH_RETRIES", "0")

        with pytest.raises(BuildFailed, match=r"^node_modules from .* cannot be built"):
            await prepared(read_folder(bot), IMAGES, lines.append)

    assert "EINTEGRITY" in "".join(lines)


@needs_npm
async def test_npm_trusts_the_authors_certificate(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Authority(tmp_path / "tls").issue("index", addresses=["127.0.0.1"])
    certificate.authority.chmod(0o600)
    async with package_index(certificate) as index:
        bot = node_bot(tmp_path / "bot", index.add_module("price-feed", SOURCE))
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", index.address)
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(certificate.authority))

        _, package = await prepared(read_folder(bot), IMAGES, lambda line: None)

    assert "node_modules/price-feed/index.js" in content(package)


@needs_pip
async def test_pip_trusts_the_authors_certificate(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Authority(tmp_path / "tls").issue("index", addresses=["127.0.0.1"])
    certificate.authority.chmod(0o600)
    async with package_index(certificate) as index:
        index.add_wheel("price_feed", "PRICE = 42\n")
        monkeypatch.setenv("PIP_INDEX_URL", f"{index.address}/simple")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.authority))

        _, package = await prepared(read_folder(python_bot(tmp_path / "bot")), IMAGES, lambda line: None)

    assert "vendor/price_feed.py" in content(package)


@needs_npm
async def test_npm_reaches_the_registry_through_the_authors_proxy(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with package_index() as index:
        entry = index.add_module("price-feed", SOURCE)
        monkeypatch.setenv("http_proxy", index.address)
        entry["resolved"] = entry["resolved"].replace(index.address, "http://registry.invalid")

        _, package = await prepared(read_folder(node_bot(tmp_path / "bot", entry)), IMAGES, lambda line: None)

    assert "node_modules/price-feed/index.js" in content(package)
    assert {host for _, host in index.requested} == {"registry.invalid"}


@needs_pip
async def test_pip_reaches_the_index_through_the_authors_proxy(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with package_index() as index:
        index.add_wheel("price_feed", "PRICE = 42\n")
        monkeypatch.setenv("http_proxy", index.address)
        monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
        monkeypatch.setenv("PIP_TRUSTED_HOST", "index.invalid")

        _, package = await prepared(read_folder(python_bot(tmp_path / "bot")), IMAGES, lambda line: None)

    assert "vendor/price_feed.py" in content(package)
    assert {host for _, host in index.requested} == {"index.invalid"}


async def test_failed_build_shows_its_output_and_the_remedy_and_is_not_cached(
    tmp_path: Path, docker_engine: Engine
) -> None:
    lines: list[str] = []
    environment = BuildEnvironment({"PIP_NO_INDEX": "yes"})
    builder = Builder(docker_engine.url, IMAGE, tmp_path / "cache", environment, lines.append)
    script = "cd /tmp/src\nid -u >&2\necho $PIP_NO_INDEX $(cat in/a) >&2\ntouch /tmp/out/half\nexit 3"
    step = Step("x", "", script, {"in/a": b"A"}, "wait")

    for _ in range(2):
        with pytest.raises(BuildFailed, match=r"^x cannot be built \(exit code 3, the lines above show why\); wait$"):
            await builder.output(step)

    assert lines == [f"building x in {IMAGE}", "  30000", "  yes A"] * 2
    assert list((tmp_path / "cache").iterdir()) == []


async def test_build_that_is_given_up_leaves_no_container(tmp_path: Path, docker_engine: Engine) -> None:
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(line: str) -> None:
        if "working as" in line:
            loop.call_soon_threadsafe(began.set)

    builder = Builder(docker_engine.url, IMAGE, tmp_path / "cache", BuildEnvironment({}), note, label=tmp_path.name)
    step = Step("nothing", "", "echo working as $(id -u) >&2\nsleep 600", {"a": b""}, "wait")
    building = asyncio.create_task(builder.output(step))
    await asyncio.wait_for(began.wait(), 240)

    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building

    def nothing_is_left() -> bool:
        client = docker.APIClient(base_url=docker_engine.url)
        try:
            return not client.containers(all=True, filters={"label": f"the0.build={tmp_path.name}"})
        finally:
            client.close()

    await eventually(nothing_is_left, 120)
    assert list((tmp_path / "cache").iterdir()) == []
