"""A full or damaged work folder: bots keep running, the kill switch works, and blocked starts have a reason."""

import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.store.client import Mongo
from libs.core.store.holds import HoldStore, HoldTarget
from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

BOT = """
import time

def main(id, config):
    while True:
        print("up", flush=True)
        time.sleep(0.2)
"""
LEASE_SECONDS = 5.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB, which a test may fill."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest_asyncio.fixture(loop_scope="session")
async def runner(tmp_path: Path, small_disk: Path, docker_engine: Engine) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, docker_engine, settings={"TEMP_DIR": str(small_disk / "temp")}) as made:
        made.platform.upload("bot.zip", zipped({"main.py": BOT}))
        yield made


async def running(runner: Deployment, bot_id: str) -> str:
    """The container of a bot, once it runs."""
    container = await eventually(lambda: runner.running_with(bot_id, "up"))
    assert container is not None
    return str(container["Id"])


async def is_down(runner: Deployment, bot_id: str) -> bool:
    return await runner.containers(bot_id) == []


async def hold_everything(runner: Deployment) -> None:
    """Pull the kill switch for all bots; the next scan sees it."""
    mongo = Mongo(runner.mongod.uri)
    try:
        await HoldStore(mongo.database(runner.service.database)).hold(HoldTarget.everything())
    finally:
        await mongo.close()


def fill(disk: Path) -> Path:
    """Leave no free byte on the disk."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return path


def files(folder: Path) -> list[str]:
    """What there is below a worker's TEMP_DIR that a start makes."""
    parts = ("runs/*/*/*", "code/holds/*/*", "code/work/*", "code/refs/*", "entrypoints/.*", "outputs/*/*")
    return sorted(str(path.relative_to(folder)) for part in parts for path in folder.glob(part))


async def detail(runner: Deployment, bot_id: str) -> str:
    document = await runner.document(bot_id)
    return str((document or {}).get("status", {}).get("detail", ""))


async def test_full_disk_keeps_bots_running_and_blocked_starts_have_reason(
    runner: Deployment, small_disk: Path
) -> None:
    await runner.start(workers=1, SCAN_INTERVAL_SECONDS="1")
    await runner.platform.create_bot("b1", {}, key="bot.zip")
    before = await running(runner, "b1")
    filler = fill(small_disk)
    filled_at = time.monotonic()
    there = files(small_disk / "temp")

    await runner.platform.create_bot("b2", {}, key="bot.zip")
    assert "No space left" in await eventually(lambda: detail(runner, "b2"))
    await eventually(lambda: time.monotonic() - filled_at > 2.5 * LEASE_SECONDS)
    assert await running(runner, "b1") == before
    assert await runner.state("b2") in ("backing-off", "starting")
    await eventually(lambda: files(small_disk / "temp") == there)

    filler.unlink()
    await running(runner, "b2")
    assert await running(runner, "b1") == before


async def test_the_kill_switch_ends_bots_on_a_full_disk(runner: Deployment, small_disk: Path) -> None:
    await runner.start(workers=1, SCAN_INTERVAL_SECONDS="1")
    for bot_id in ("b1", "b2"):
        await runner.platform.create_bot(bot_id, {}, key="bot.zip")
        await running(runner, bot_id)
    fill(small_disk)

    await hold_everything(runner)

    await eventually(lambda: is_down(runner, "b1"))
    await eventually(lambda: is_down(runner, "b2"))
    await eventually(lambda: runner.in_state("b1", "killed"))
    await eventually(lambda: runner.in_state("b2", "killed"))


async def test_the_kill_switch_ends_all_bots_when_the_folder_of_one_is_no_folder(
    runner: Deployment, small_disk: Path
) -> None:
    await runner.start(workers=1, SCAN_INTERVAL_SECONDS="1")
    for bot_id in ("b1", "b2", "b3"):
        await runner.platform.create_bot(bot_id, {}, key="bot.zip")
        await running(runner, bot_id)
    [container] = await runner.containers("b2")
    name = container["Names"][0].lstrip("/")
    [folder] = (small_disk / "temp" / "runs").glob(f"*/{name}/*")
    folder.rename(small_disk / "taken")
    folder.write_text("no folder")

    await hold_everything(runner)

    for bot_id in ("b1", "b2", "b3"):
        await eventually(lambda of=bot_id: is_down(runner, of))  # type: ignore[misc]
    await eventually(lambda: runner.in_state("b1", "killed"))
    await eventually(lambda: runner.in_state("b3", "killed"))
