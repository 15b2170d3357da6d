"""The runner while the engine is away, slow, or does what it was asked without saying so."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, ManagedContainer
from libs.docker_runner.engine.client import Engine as EngineClient
from libs.docker_runner.engine.client import NoSuchImage
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import (
    AlreadyRunning,
    EngineUnavailable,
    EntrypointMissing,
    ImageUnavailable,
    StartFailed,
    UnknownRuntime,
)
from libs.docker_runner.executable import Network, Placement
from tests.support.eventually import eventually
from tests.support.faults.engine_relay import EngineRelay, engine_relay
from tests.support.rigs.bot_containers import BotContainers, bot_containers, watched
from tools.engine.ensure import Engine

FOREVER = "import time\ndef main(id, config):\n    print('up')\n    while True: time.sleep(1)"
UNTIL_TOLD = " while not os.path.exists('/bot/end'): time.sleep(0.02)"
# Neither the relay nor what it breaks has to do with networks, and without one a start is quicker.
FAST: dict[str, Any] = {"network": Network.NONE}


@pytest_asyncio.fixture(loop_scope="session")
async def relay(tmp_path: Path, docker_engine: Engine) -> AsyncIterator[EngineRelay]:
    async with engine_relay(tmp_path, docker_engine.url) as relay:
        yield relay


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, relay: EngineRelay) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, relay.url, **FAST) as bots:
        yield bots


async def running(bots: BotContainers) -> list[str]:
    return [one.container_id for one in await bots.list() if one.state is ContainerState.RUNNING]


@pytest.mark.parametrize("request_line", [b"/containers/create?", b"/start "], ids=["create", "start"])
async def test_a_start_whose_answer_is_lost_is_repeated_without_a_second_copy(
    bots: BotContainers, relay: EngineRelay, request_line: bytes
) -> None:
    executable = bots.executable(FOREVER)
    await bots.runner.prepare()
    relay.swallow_answers_to = request_line
    with pytest.raises(EngineUnavailable):
        await bots.runner.start(executable)
    container = await bots.runner.start(executable)
    assert await running(bots) == [container.container_id]
    assert len(await bots.list()) == 1


async def test_every_operation_reports_an_unreachable_engine(bots: BotContainers, relay: EngineRelay) -> None:
    container = await bots.runner.start(bots.executable(FOREVER))
    await relay.close()
    with pytest.raises(EngineUnavailable):
        await bots.runner.start(bots.executable(FOREVER, "b2"))
    with pytest.raises(EngineUnavailable):
        await bots.runner.stop(container)
    with pytest.raises(EngineUnavailable):
        await bots.list()
    await relay.open()
    assert (await bots.runner.stop(container, 0)).reason is EndReason.STOPPED


async def test_events_go_on_after_the_engine_was_away(bots: BotContainers, relay: EngineRelay) -> None:
    async with watched(bots) as events:
        assert kinds(events) == [EventKind.RESYNC]
        await relay.close()
        await relay.open()
        await eventually(lambda: kinds(events) == [EventKind.RESYNC] * 2)
        await bots.runner.start(bots.executable(FOREVER))
        await eventually(lambda: kinds(events)[2:] == [EventKind.STARTED])


def kinds(events: list[ContainerEvent]) -> list[EventKind]:
    return [event.kind for event in events]


@asynccontextmanager
async def followed(bots: BotContainers, container: ManagedContainer) -> AsyncIterator[list[ContainerEvent]]:
    """The events of all bots so far, while *container*'s output is followed, as a worker does it."""
    output: list[bytes] = []

    async def follow() -> None:
        async for line in bots.runner.followed.logs(container, follow=True):
            output.append(line.data)

    async with watched(bots) as events:
        following = asyncio.create_task(follow())
        try:
            await eventually(lambda: output)
            yield events
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_a_killed_bot_is_known_to_be_dead_though_the_engine_answers_nothing_about_it(
    bots: BotContainers, relay: EngineRelay
) -> None:
    container = await bots.runner.start(bots.executable(FOREVER))
    async with followed(bots, container):
        relay.no_answers_from = b"/kill"
        ended = await asyncio.wait_for(bots.runner.stop(container, 0), timeout=30)
    assert (ended.reason, ended.exit_code, ended.last_lines) == (EndReason.STOPPED, 137, ["up"])
    assert ended.duration_seconds is not None
    assert 0 < ended.duration_seconds < 60


async def test_why_a_bot_died_is_known_though_the_engine_answers_nothing_about_it(
    bots: BotContainers, relay: EngineRelay
) -> None:
    source = f"import os, time\ndef main(id, config):\n print('up')\n{UNTIL_TOLD}\n raise ValueError('no money')"
    executable = bots.executable(source)
    container = await bots.runner.start(executable)
    async with followed(bots, container) as events:
        # For each further request of the runner.
        relay.no_answers_from = b" /"
        (bots.code.directory / executable.code.key / "end").touch()
        await eventually(lambda: [event for event in events if event.kind is EventKind.DIED])
        ended = await asyncio.wait_for(bots.runner.stop(container, 0), timeout=30)
    assert (ended.reason, ended.exit_code) == (EndReason.ERROR, 1)
    assert "ValueError: no money" in ended.last_lines
    assert ended.container.state is ContainerState.EXITED


async def test_a_run_survives_an_engine_that_is_away_meanwhile(bots: BotContainers, relay: EngineRelay) -> None:
    source = "import time\ndef main(id, config):\n for n in range(30):\n  print(n)\n  time.sleep(0.1)\n return 'done'"
    lines: list[bytes] = []
    going = asyncio.create_task(
        bots.outcome(bots.executable(source), 240.0, on_output=lambda piece: lines.append(piece.data))
    )
    await eventually(lambda: len(lines) > 3)
    await relay.close()
    await relay.open()
    outcome = await going
    assert outcome.result == "done"
    output = outcome.output_path.read_text()
    outcome.discard()
    assert output.split() == [*(str(n) for n in range(30)), '"done"']


@pytest.mark.parametrize("config", [{}, {"new": 1}], ids=["same version", "another version"])
async def test_second_run_of_an_entity_ends_the_first_and_does_not_join_it(
    bots: BotContainers, config: dict[str, object]
) -> None:
    first = await bots.runner.start(bots.executable(FOREVER, run_id="r1"))
    outcome = await bots.outcome(bots.executable(FOREVER, run_id="r2", config=config), 5.0)
    outcome.discard()
    assert outcome.ended.reason is EndReason.TIMEOUT
    assert outcome.ended.container.run_id == "r2"
    assert outcome.ended.container.container_id != first.container_id
    assert await running(bots) == []


async def test_another_version_must_be_stopped_first(bots: BotContainers) -> None:
    first = await bots.runner.start(bots.executable(FOREVER))
    with pytest.raises(AlreadyRunning):
        await bots.runner.start(bots.executable(FOREVER, config={"new": 1}))
    assert await running(bots) == [first.container_id]
    assert len(bots.code.held) == 1


async def test_a_missing_entrypoint_leaves_nothing(bots: BotContainers) -> None:
    executable = replace(bots.executable(FOREVER), script="nope.py")
    with pytest.raises(EntrypointMissing, match=r"nope\.py"):
        await bots.runner.start(executable)
    assert await bots.list() == []
    assert bots.code.held == {}


async def test_only_a_missing_image_is_reported_as_missing(docker_engine: Engine) -> None:
    # An engine answers 404 for everything that is missing.
    engine = EngineClient(docker_engine.url)
    options = {"DriverConfig": {"Name": "no-image-driver"}}
    mount = {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": options}
    body = {"Image": "python:3.11-slim", "HostConfig": {"Mounts": [mount]}}
    try:
        with pytest.raises(NoSuchImage):
            await engine.create("the0-test-no-image", {"Image": "no/such:image"})
        with pytest.raises(EngineRefused, match="no-image-driver"):
            await engine.create("the0-test-no-driver", body)
    finally:
        await engine.close()


async def test_unavailable_image_is_reported(bots: BotContainers) -> None:
    placement = Placement("127.0.0.1:1/no/such:image", Network.NONE)
    with pytest.raises(ImageUnavailable, match="no/such"):
        await bots.runner.start(bots.executable(FOREVER, placement=placement))


async def test_a_start_that_the_engine_refuses_leaves_nothing(bots: BotContainers) -> None:
    placement = Placement("python:3.11-slim", Network.NONE, container_runtime="no-such-runtime")
    with pytest.raises(StartFailed, match="no-such-runtime"):
        await bots.runner.start(bots.executable(FOREVER, placement=placement))
    assert await bots.list() == []
    assert bots.code.held == {}
    assert list((bots.settings.temp_dir / "runs").rglob("*.json")) == []


async def test_unknown_runtime_is_reported_with_the_available_ones(bots: BotContainers) -> None:
    with pytest.raises(UnknownRuntime, match=r"nodejs20, python3\.11"):
        bots.settings.placement("cobol85")


async def test_start_sends_no_request_to_a_registry(bots: BotContainers, relay: EngineRelay) -> None:
    await bots.runner.start(bots.executable(FOREVER))
    assert any("/containers/create" in line for line in relay.requests)
    assert not [line for line in relay.requests if "/images/create" in line]


async def test_what_a_killed_worker_left_is_taken_away(bots: BotContainers) -> None:
    dead = await bots.runner.start(bots.executable("def main(id, config): return 1"))
    alive = await bots.runner.start(bots.executable(FOREVER, "b2"))
    kept = await bots.runner.start(bots.executable("def main(id, config): return 1", "b3", segment=9))
    stray = bots.settings.temp_dir / "runs"
    folder = next(stray.iterdir()) / "the0-bot-runner-gone" / "token"
    folder.mkdir(parents=True)
    os.utime(folder, (1.0, 1.0))
    await eventually(lambda: all_exited_but(bots, alive.container_id))
    recorded: list[Ended] = []

    async def record(ended: Ended) -> None:
        assert ended.container.container_id in {one.container_id for one in await bots.list()}
        recorded.append(ended)

    cleared = await bots.runner.clear("bot-runner", bots.scope, {9}, older_than_seconds=0.0, before_removal=record)
    await bots.runner.clean("bot-runner", bots.scope)
    assert [(one.container.container_id, one.reason) for one in cleared.ended] == [
        (dead.container_id, EndReason.FINISHED)
    ]
    assert [one.container.container_id for one in recorded] == [dead.container_id]
    assert {one.container_id for one in await bots.list()} == {alive.container_id, kept.container_id}
    assert not folder.parent.exists()
    assert len(list(stray.rglob("spec.json"))) == 2


async def all_exited_but(bots: BotContainers, alive: str) -> bool:
    return await running(bots) == [alive]
