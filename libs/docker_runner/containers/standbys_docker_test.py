"""A standby runs nothing of its bot until it has become the only container of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio

from libs.core.leases.boot_clock import boot_seconds
from libs.docker_runner.containers.container import ContainerState, EndReason, ManagedContainer
from libs.docker_runner.containers.keepalive import KeepaliveFile
from libs.docker_runner.engine.events import EventKind
from libs.docker_runner.errors import AlreadyRunning
from libs.docker_runner.executable import Executable, Network
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers, watched
from tools.engine.ensure import Engine

pytestmark = pytest.mark.timeout(300)

SOURCE = "import time\nprint('loaded', flush=True)\ndef main(id, config):\n    time.sleep(600)\n"
NEW = SOURCE.replace("loaded", "new version loaded")


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as made:
        yield made


def all_of(engine: Engine, scope: str) -> dict[str, str]:
    """The names and states of all containers of *scope*, as the engine has them."""
    client = docker.DockerClient(base_url=engine.url, timeout=60)
    try:
        found: Sequence[Any] = client.api.containers(all=True, filters={"label": f"runtime.scope={scope}"})
        return {one["Names"][0].lstrip("/"): one["State"] for one in found}
    finally:
        client.close()


def processes_of(engine: Engine, name: str) -> int:
    client = docker.DockerClient(base_url=engine.url, timeout=60)
    try:
        return len(client.api.top(name)["Processes"])
    finally:
        client.close()


async def has_printed(bots: BotContainers, container: ManagedContainer, text: str) -> bool:
    return any([text.encode() in line.data async for line in bots.runner.logs(container)])


async def old_and_standby(bots: BotContainers, **more: Any) -> tuple[ManagedContainer, Executable]:
    """A running bot, and the executable of its new version, for which a standby waits."""
    old = await bots.runner.start(bots.executable(SOURCE, run_id="old", epoch=3, **more))
    await eventually(lambda: has_printed(bots, old, "loaded"))
    new = bots.executable(NEW, run_id="new", epoch=3, **more)
    await bots.runner.stand_by(new)
    return old, new


async def test_standby_runs_nothing_and_is_listed_nowhere_until_its_start(
    bots: BotContainers, scope: str, docker_engine: Engine
) -> None:
    old, new = await old_and_standby(bots)
    assert all_of(docker_engine, scope) == {old.name: "running", f"{old.name}-standby": "running"}
    assert [one.run_id for one in await bots.list()] == ["old"]
    await asyncio.sleep(0.5)
    # The init alone.
    assert processes_of(docker_engine, f"{old.name}-standby") == 1

    await bots.runner.stop(old, 0.0)
    await bots.runner.remove(old)
    assert await bots.list() == []
    assert processes_of(docker_engine, f"{old.name}-standby") == 1

    started = await bots.runner.start(new)

    assert all_of(docker_engine, scope) == {old.name: "running"}
    assert (started.name, started.run_id, started.is_standby) == (old.name, "new", False)
    await eventually(lambda: has_printed(bots, started, "new version loaded"))
    [listed] = await bots.list()
    assert (listed.container_id, listed.state) == (started.container_id, ContainerState.RUNNING)
    assert (await bots.runner.start(new)).container_id == started.container_id


async def test_run_of_a_standby_begins_when_it_was_let_go(bots: BotContainers) -> None:
    old, new = await old_and_standby(bots)
    await asyncio.sleep(1.5)
    await bots.runner.stop(old, 0.0)
    await bots.runner.remove(old)
    started = await bots.runner.start(new)

    async with asyncio.timeout(60):
        ended = await bots.runner.stop(started, 0.0)

    seen = await bots.runner.inspect(started)
    assert seen is not None
    assert seen.started_at is not None
    assert ended.started_at is not None
    assert started.started_at is not None
    assert abs((ended.started_at - started.started_at).total_seconds()) < 0.5
    assert ended.duration_seconds is not None
    assert ended.reason is EndReason.STOPPED


async def test_start_beside_the_old_container_uses_no_standby_and_leaves_none(
    bots: BotContainers, scope: str, docker_engine: Engine
) -> None:
    old, new = await old_and_standby(bots)

    with pytest.raises(AlreadyRunning):
        await bots.runner.start(new)

    assert all_of(docker_engine, scope) == {old.name: "running"}
    [running] = await bots.list()
    assert running.run_id == "old"


async def test_start_after_the_standby_has_ended_makes_another_container(
    bots: BotContainers, scope: str, docker_engine: Engine
) -> None:
    old, new = await old_and_standby(bots)
    await bots.runner.stop(old, 0.0)
    await bots.runner.remove(old)
    removed(docker_engine, f"{old.name}-standby")

    started = await bots.runner.start(new)

    await eventually(lambda: has_printed(bots, started, "new version loaded"))
    assert all_of(docker_engine, scope) == {old.name: "running"}


def removed(engine: Engine, name: str) -> None:
    client = docker.DockerClient(base_url=engine.url, timeout=60)
    try:
        client.api.remove_container(name, force=True)
    finally:
        client.close()


async def test_second_standby_replaces_the_first(bots: BotContainers, scope: str, docker_engine: Engine) -> None:
    old, _ = await old_and_standby(bots)
    newer = bots.executable(NEW, run_id="newer", epoch=3)

    await bots.runner.stand_by(newer)
    await bots.runner.stop(old, 0.0)
    await bots.runner.remove(old)
    started = await bots.runner.start(newer)

    assert started.run_id == "newer"
    assert all_of(docker_engine, scope) == {old.name: "running"}


async def test_dropped_standby_leaves_neither_container_nor_files(
    bots: BotContainers, scope: str, docker_engine: Engine, tmp_path: Path
) -> None:
    old, new = await old_and_standby(bots)
    before = len(list((tmp_path / "runtime" / "runs").glob("*/*/*")))

    await bots.runner.drop_standby(new)
    await bots.runner.drop_standby(new)

    assert all_of(docker_engine, scope) == {old.name: "running"}
    assert (before, len(list((tmp_path / "runtime" / "runs").glob("*/*/*")))) == (2, 1)
    assert len(bots.code.held) == 1


async def test_later_owner_removes_the_standbys_of_earlier_ones(
    bots: BotContainers, scope: str, docker_engine: Engine
) -> None:
    old, _ = await old_and_standby(bots)

    await bots.runner.remove_standbys("bot-runner", scope, 1, before_epoch=3)
    assert len(all_of(docker_engine, scope)) == 2
    await bots.runner.remove_standbys("bot-runner", scope, 2, before_epoch=4)
    assert len(all_of(docker_engine, scope)) == 2

    await bots.runner.remove_standbys("bot-runner", scope, 1, before_epoch=4)
    assert all_of(docker_engine, scope) == {old.name: "running"}


async def test_standby_with_the_name_of_its_bot_that_was_not_let_go_counts_as_never_started(
    bots: BotContainers, scope: str, docker_engine: Engine
) -> None:
    """As when the worker dies after the rename."""
    old, _ = await old_and_standby(bots)
    await bots.runner.stop(old, 0.0)
    await bots.runner.remove(old)
    renamed(docker_engine, f"{old.name}-standby", old.name)

    [found] = await bots.list()
    assert (found.run_id, found.state) == ("new", ContainerState.CREATED)

    ended = await bots.runner.exit_info(found)
    assert ended is not None
    # Nothing that counts as a failure of the bot.
    assert ended.reason is EndReason.STOPPED
    assert all_of(docker_engine, scope) == {}


async def test_start_replaces_a_standby_that_has_its_name_and_was_not_let_go(
    bots: BotContainers, scope: str, docker_engine: Engine
) -> None:
    old, new = await old_and_standby(bots)
    await bots.runner.stop(old, 0.0)
    await bots.runner.remove(old)
    renamed(docker_engine, f"{old.name}-standby", old.name)

    started = await bots.runner.start(replace(new, run_id="later"))

    assert started.run_id == "later"
    await eventually(lambda: has_printed(bots, started, "new version loaded"))
    assert all_of(docker_engine, scope) == {old.name: "running"}


def renamed(engine: Engine, name: str, to: str) -> None:
    client = docker.DockerClient(base_url=engine.url, timeout=60)
    try:
        client.api.rename(name, to)
    finally:
        client.close()


async def test_standby_ends_with_the_keepalive_of_its_segment(
    bots: BotContainers, scope: str, docker_engine: Engine, tmp_path: Path
) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive" / "1", 60.0)
    keepalive.refresh(boot_seconds() + 60)
    old, new = await old_and_standby(bots, keepalive=keepalive.folder)

    async with watched(bots) as events:
        keepalive.expire()
        await eventually(lambda: [event.kind for event in events].count(EventKind.DIED) == 2)

    await bots.runner.remove(old)
    keepalive.refresh(boot_seconds() + 60)
    started = await bots.runner.start(new)
    await eventually(lambda: has_printed(bots, started, "new version loaded"))
    assert all_of(docker_engine, scope) == {old.name: "running"}
