"""The folders that a real engine sees: with its own mounts, without the image, and when it does not answer."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.folder_sight import KEEPALIVE_DIR, TEMP_DIR, FolderSight, Proofs, _reader, read_by
from libs.docker_runner.engine.helper_container import ended_helper
from tests.support.eventually import eventually
from tests.support.faults.engine_relay import EngineRelay, engine_relay
from tests.support.servers.own_engine import OwnEngine

IMAGE = "python:3.11-slim"
SILENT_SECONDS = 2.0


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    found = {TEMP_DIR: tmp_path / "work", KEEPALIVE_DIR: tmp_path / "keepalive"}
    for folder in found.values():
        folder.mkdir()
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def engine(private_engine: OwnEngine) -> AsyncIterator[Engine]:
    await private_engine.remove_containers()
    engine = Engine(private_engine.url)
    yield engine
    await engine.close()
    assert await private_engine.containers() == []


@pytest_asyncio.fixture(loop_scope="session")
async def relay(tmp_path: Path, private_engine: OwnEngine) -> AsyncIterator[EngineRelay]:
    async with engine_relay(tmp_path, private_engine.url) as relay:
        yield relay


def left(folders: dict[str, Path]) -> list[Path]:
    return [path for folder in folders.values() for path in folder.iterdir()]


async def test_folders_that_the_engine_sees_are_proven_and_nothing_is_left(
    engine: Engine, folders: dict[str, Path]
) -> None:
    sight = FolderSight(engine, folders, IMAGE)

    await sight.check()

    assert (sight.complaint, sight.proven) == ("", True)
    assert left(folders) == []


@pytest.mark.parametrize("hidden", [TEMP_DIR, KEEPALIVE_DIR])
async def test_folder_under_a_file_system_of_the_engines_own_is_not_seen_until_that_has_gone(
    engine: Engine, private_engine: OwnEngine, folders: dict[str, Path], hidden: str
) -> None:
    sight = FolderSight(engine, folders, IMAGE)
    async with private_engine.hiding(folders[hidden]):
        with capture_logs() as lines:
            await sight.check()
            await sight.check()
        assert f"does not see {hidden}={folders[hidden]}: mount" in sight.complaint
        assert left(folders) == []
        errors = [line for line in lines if line["log_level"] == "error"]
        assert [line["reason"] for line in errors] == [sight.complaint]

    await sight.check()

    assert (sight.complaint, sight.proven) == ("", True)


async def test_image_that_is_not_there_yet_is_no_reason_to_complain_and_hides_no_reason(
    engine: Engine, private_engine: OwnEngine, folders: dict[str, Path]
) -> None:
    sight = FolderSight(engine, folders, "nowhere.invalid/none:1")

    await sight.check()
    assert (sight.complaint, sight.proven) == ("", False)

    async with private_engine.hiding(folders[TEMP_DIR]):
        await sight.check()
        assert "TEMP_DIR=" in sight.complaint
    await sight.check()
    assert (sight.complaint, sight.proven) == ("", False)


async def test_container_that_reads_another_content_does_not_see_the_folder(
    engine: Engine, folders: dict[str, Path]
) -> None:
    for name, content in ((TEMP_DIR, "token"), (KEEPALIVE_DIR, "another")):
        (folders[name] / "proof").write_text(content)
        folders[name].chmod(0o755)

    async with ended_helper(engine, IMAGE, _reader(Proofs(list(folders.values()), "token"))) as helper:
        ended = await engine.inspect(helper)

    assert ended is not None
    assert read_by(ended.container.exit_code, list(folders)).unseen == {KEEPALIVE_DIR}


@pytest.mark.parametrize("silent_from", [b"/containers/create", b"/start ", b"/wait", b"/info"])
async def test_engine_that_falls_silent_takes_nothing_back_that_was_shown(
    private_engine: OwnEngine, relay: EngineRelay, engine: Engine, folders: dict[str, Path], silent_from: bytes
) -> None:
    hasty = Engine(relay.url, timeout_seconds=SILENT_SECONDS)
    sight = FolderSight(hasty, folders, IMAGE)
    try:
        await eventually(lambda: proven(sight))
        sight.doubt()
        relay.no_answers_from = silent_from
        with suppress(TimeoutError):
            async with asyncio.timeout(4 * SILENT_SECONDS):
                await sight.check()

        assert sight.complaint == ""
        assert left(folders) == []
    finally:
        await hasty.close()
        await private_engine.remove_containers()


async def proven(sight: FolderSight) -> bool:
    await sight.check()
    return sight.proven


async def test_engine_that_is_away_does_not_end_a_complaint(
    private_engine: OwnEngine, relay: EngineRelay, engine: Engine, folders: dict[str, Path]
) -> None:
    away = Engine(relay.url)
    sight = FolderSight(away, folders, IMAGE)
    try:
        async with private_engine.hiding(folders[TEMP_DIR]):
            await sight.check()
        await relay.close()

        await sight.check()

        assert "TEMP_DIR=" in sight.complaint
    finally:
        await away.close()


async def test_folder_that_cannot_be_written_shows_nothing(engine: Engine, folders: dict[str, Path]) -> None:
    shutil.rmtree(folders[TEMP_DIR])
    folders[TEMP_DIR].write_text("a file")
    sight = FolderSight(engine, folders, IMAGE)

    await sight.check()

    assert (sight.complaint, sight.proven) == ("", False)


async def test_doubt_has_a_running_sight_look_again(
    engine: Engine, private_engine: OwnEngine, folders: dict[str, Path]
) -> None:
    sight = FolderSight(engine, folders, IMAGE)
    running = asyncio.create_task(sight.run())
    try:
        await eventually(lambda: sight.proven)
        async with private_engine.hiding(folders[TEMP_DIR]):
            sight.doubt()
            await eventually(lambda: sight.complaint)
        await eventually(lambda: sight.proven and not sight.complaint)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
