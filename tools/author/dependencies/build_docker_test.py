"""Builds on a real engine, from a folder of wheels: no test needs a package index."""

import asyncio
import io
import zipfile
from pathlib import Path

import docker
import pytest

from libs.docker_runner.settings import IMAGES
from tests.support.eventually import eventually
from tools.author.dependencies.build import Builder, BuildFailed, tool_of_this_machine
from tools.author.dependencies.environment import BuildEnvironment
from tools.author.dependencies.plan import Step
from tools.author.dependencies.prepare import prepared
from tools.bots.folder import read_folder
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(600)

IMAGE = IMAGES["python3.11"]


def make_wheel(folder: Path, name: str) -> None:
    info = f"{name}-1.0.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "PRICE = 42\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.mark.skipif(tool_of_this_machine("pip") is None, reason="neither a stand-in image nor this Python has pip")
async def test_requirements_are_installed_once_in_the_image_from_a_folder_of_wheels(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path / "wheels", "price_feed")
    bot = tmp_path / "bot"
    (bot / "vendor").mkdir(parents=True)
    (bot / "vendor" / "stale.py").write_text("")
    (bot / "main.py").write_text("def main(id, config): pass\n")
    (bot / "requirements.txt").write_text("price-feed==1.0\n")
    monkeypatch.setenv("RUNTIME_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    lines: list[str] = []

    _, first = await prepared(read_folder(bot), IMAGES, lines.append)
    said = list(lines)
    _, again = await prepared(read_folder(bot), IMAGES, lines.append)
    _, as_it_is = await prepared(read_folder(bot), IMAGES, lines.append, build=False)

    assert said[0] == f"building vendor from requirements.txt in {IMAGE}"
    assert (first.digest, lines) == (again.digest, said)
    names = zipfile.ZipFile(io.BytesIO(first.content)).namelist()
    assert "vendor/price_feed.py" in names
    assert "vendor/stale.py" not in names
    assert "vendor/stale.py" in zipfile.ZipFile(io.BytesIO(as_it_is.content)).namelist()


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
