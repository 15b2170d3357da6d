"""CONTAINER_RUNTIME=runsc: the same bots, the same promises, with gVisor's kernel between them and the host's."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest
import pytest_asyncio
from docker.errors import APIError

from libs.core.leases.boot_clock import boot_seconds
from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.containers.container import ContainerState, EndReason, ManagedContainer, RunOutcome
from libs.docker_runner.containers.keepalive import KeepaliveFile
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.executable import Executable
from libs.docker_runner.sandbox.host_agent import HostAgent
from libs.docker_runner.sandbox.sandbox_lease_docker_test import without_its_worker
from libs.docker_runner.sandbox.sandbox_state_docker_test import HOSTILE, READER, WRITER, Hosts, end
from tests.support.eventually import eventually
from tests.support.fakes.log_host import store_of
from tests.support.faults.init_attacks import REFUSED, TRY, outliving
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.servers.own_engine import GVISOR, GVISOR_IN_GROUPS, OwnEngine
from tools.stack.s3 import S3Server

SAMPLES = Path("tools/samples")
NAMES = ["price_ticker", "moving_average"]
LEASE_SECONDS = 4.0
# Longer than any start, so that it ends only when the test ends it.
LONG_LEASE_SECONDS = 600.0
# gVisor allows them and does nothing, or shows what the bot knows: names of the init's open files, its environment,
# which has no config, and where its code is.
WITHOUT_EFFECT = {"affinity", "nice", "fd", "environ", "maps"}


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, private_engine: OwnEngine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, private_engine.url, container_runtime=GVISOR) as bots:
        yield bots


def sample(bots: BotContainers, name: str, **more: Any) -> Executable:
    described = json.loads((SAMPLES / name / "bot.json").read_text())
    script = described["entrypoints"]["bot"]
    source = (SAMPLES / name / script).read_text()
    config = {**described["config"], "interval_seconds": 0.2}
    return bots.executable(source, name, runtime=described["runtime"], script=script, config=config, **more)


async def output(bots: BotContainers, container: ManagedContainer) -> str:
    return b"".join([piece.data async for piece in bots.runner.logs(container)]).decode()


async def prints(bots: BotContainers, container: ManagedContainer, text: str) -> None:
    async def printed() -> bool:
        return text in await output(bots, container)

    await eventually(printed, within_seconds=120)


async def test_state_of_a_bot_is_there_at_its_next_start_and_the_bot_does_not_end_what_saves_it(
    tmp_path: Path, scope: str, private_engine: OwnEngine, s3_server: S3Server, bucket_prefix: str
) -> None:
    objects = ObjectStore(store_of(s3_server).settings)
    await objects.ensure_bucket(bucket_prefix)
    hosts = Hosts(tmp_path, scope, private_engine.url, objects, bucket_prefix)
    async with hosts.host("one", container_runtime=GVISOR) as (bots, keeper):
        attacking = await bots.runner.start(bots.executable(HOSTILE, run_id="r1"))
        await eventually(lambda: hosts.is_saved(keeper, "good"), 120)
        await prints(bots, attacking, "PermissionError")
        await end(bots, attacking, 0)
        container = await bots.runner.start(bots.executable(WRITER, run_id="r2"))
        await prints(bots, container, "ready")
        await end(bots, container, 60)
        outcome, printed = await bots.run(READER, run_id="r3")
    await objects.close()

    assert isinstance(outcome.result, dict), printed
    assert outcome.result["/state/good"] == ["good", 4, "0o644", True]
    assert outcome.result["/state/last"] == ["written at the end", 18, "0o644", True]


@pytest.mark.parametrize("name", NAMES)
async def test_the_sample_bots_run_and_end_in_good_order(bots: BotContainers, name: str) -> None:
    container = await bots.runner.start(sample(bots, name))
    await prints(bots, container, "-USD ")
    ended = await bots.runner.stop(container, 120)
    assert (ended.reason, ended.exit_code) == (EndReason.STOPPED, 143)
    lines = (await output(bots, container)).splitlines()
    assert lines[0].startswith("watching ")
    assert lines[-1].startswith("stopping, ")
    await bots.runner.remove(container)


@pytest.mark.parametrize("runtime", ["python3.11", "nodejs20"])
async def test_the_kernel_is_gvisors_and_config_and_result_go_both_ways(bots: BotContainers, runtime: str) -> None:
    source = {
        "python3.11": "def main(id, config):\n print('hi')\n return [config['x'], open('/proc/version').read()]",
        "nodejs20": "exports.main = (id, config) => { console.log('hi');"
        " return [config.x, require('fs').readFileSync('/proc/version', 'utf8')] }",
    }[runtime]
    outcome, text = await bots.run(source, runtime=runtime, config={"x": "é"})
    assert outcome.succeeded, (outcome, text)
    assert isinstance(outcome.result, list)
    assert outcome.result[0] == "é"
    assert outcome.result[1].startswith("Linux version 4.4.0")
    assert text.startswith("hi\n")


async def test_bots_live_by_their_lease_though_they_cannot_compare_clocks(bots: BotContainers, tmp_path: Path) -> None:
    keepalive = KeepaliveFile(tmp_path / "keepalive", LEASE_SECONDS)

    async def renew() -> None:
        while True:
            keepalive.refresh(time.monotonic() + LEASE_SECONDS)
            await asyncio.sleep(0.5)

    renewing = asyncio.create_task(renew())
    try:
        await asyncio.sleep(0)
        executables = [sample(bots, name, keepalive=keepalive.folder) for name in NAMES]
        containers = await asyncio.gather(*(bots.runner.start(executable) for executable in executables))
        await asyncio.gather(*(prints(bots, container, "-USD ") for container in containers))
        # Longer than one lease: it was seen to be renewed.
        await asyncio.sleep(LEASE_SECONDS + 1.0)
        assert [one.state for one in await bots.list()] == [ContainerState.RUNNING] * 2
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
    renewed_last = time.time()

    async def dead() -> bool:
        return [one.state for one in await bots.list()] == [ContainerState.EXITED] * 2

    await eventually(dead)
    for ended in [await bots.runner.remove(container) for container in containers]:
        assert (ended.reason, ended.exit_code) == (EndReason.LEASE_LOST, 75)
        assert ended.finished_at is not None
        # How exactly is tested without gVisor, which takes its time on a busy machine.
        assert ended.finished_at.timestamp() - renewed_last < LEASE_SECONDS + 20.0


async def test_nothing_that_a_bot_can_ask_gvisor_for_touches_the_init(bots: BotContainers) -> None:
    outcome, output = await bots.run(TRY, config=REFUSED)

    assert isinstance(outcome.result, dict), output
    refused = (
        "PermissionError: [Errno 1]",
        "PermissionError: [Errno 13]",
        "OSError: [Errno 38]",
        "OSError: [Errno 22]",
    )
    allowed = {name: came for name, came in outcome.result.items() if not came.startswith(refused)}
    assert outcome.result.keys() == REFUSED.keys()
    assert allowed.keys() <= WITHOUT_EFFECT
    assert "CONFIG" not in allowed.get("environ", "")


async def test_bots_that_attack_the_init_on_gvisor_are_dead_when_their_lease_is_over(
    bots: BotContainers, tmp_path: Path
) -> None:
    attacks = ("signals", "all-attacks", "stopped", "forks-and-sessions")

    async def ended(name: str) -> tuple[RunOutcome, float]:
        keepalive = KeepaliveFile(tmp_path / name)
        running, until = await without_its_worker(bots, outliving(name), keepalive, id=name, config=REFUSED)
        return await running, until

    for outcome, until in await asyncio.gather(*map(ended, attacks)):
        assert (outcome.ended.reason, outcome.ended.exit_code) == (EndReason.LEASE_LOST, 75)
        assert outcome.ended.finished_at is not None
        assert -0.5 < outcome.ended.finished_at.timestamp() - until < 20.0


async def test_paused_container_of_gvisor_is_killed_by_the_host_agent(
    tmp_path: Path, scope: str, private_engine: OwnEngine
) -> None:
    engine = Engine(private_engine.url)
    client = docker.DockerClient(private_engine.url, timeout=120)
    keepalive = KeepaliveFile(tmp_path / "keepalive", LONG_LEASE_SECONDS)
    keepalive.refresh(boot_seconds() + LONG_LEASE_SECONDS)
    try:
        async with bot_containers(tmp_path, scope, private_engine.url, container_runtime=GVISOR_IN_GROUPS) as bots:
            agent = HostAgent(engine, "python:3.11-slim", bots.runner.entrypoints, tmp_path / "keepalives")
            await agent.want_once()
            await agent.keep_once()
            container = await bots.runner.start(sample(bots, "price_ticker", keepalive=keepalive.folder))
            await prints(bots, container, "-USD ")
            process = await private_engine.process(container.container_id)
            paused = await asyncio.to_thread(client.containers.get, container.container_id)
            await asyncio.to_thread(paused.pause)
            keepalive.expire()

            # Looking at all processes again, which finds what was overlooked, takes up to a minute.
            await eventually(lambda: not process.exists(), within_seconds=120)

            with pytest.raises(APIError):
                await asyncio.to_thread(paused.unpause)
            ended = await eventually(lambda: bots.runner.exit_info(container))
            assert ended is not None
            assert (ended.reason, ended.exit_code) == (EndReason.LEASE_LOST, 137)
    finally:
        client.close()
        await engine.close()
        await private_engine.remove_containers()
