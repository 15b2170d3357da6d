"""Secrets of bots on a real engine: who gets them, and where their values are."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.secrets.errors import SecretRefused
from libs.core.secrets.resolver import SecretSources
from libs.docker_runner.containers.container import ManagedContainer
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine

VALUE = "k3y-of-ann-0815"
PRINTER = """
import sys
def main(id, config):
    value = config["key"]
    print("plain", value, len(value), flush=True)
    return {"length": len(value)}
"""
WAITER = """
import time
def main(id, config):
    print("plain", config["key"], len(config["key"]), flush=True)
    while True:
        time.sleep(0.1)
"""
# The engine cuts long lines into pieces of 16 KiB.
SPLIT = """
import sys
def main(id, config):
    sys.stdout.write("x" * (16 * 1024 - 5) + config["key"] + "\\n")
    sys.stderr.write("y" * (16 * 1024 - 2) + config["key"] + "\\n")
"""
CONFIG = {"key": {"$secret": "key"}}


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    """Bots, of which those of `ann` have a secret."""
    (tmp_path / "secrets" / "ann").mkdir(parents=True)
    (tmp_path / "secrets" / "ann" / "key").write_text(VALUE)
    sources = SecretSources(tmp_path / "secrets")
    async with bot_containers(tmp_path, scope, docker_engine.url, secrets=sources) as bots:
        yield bots


def with_the_value(folder: Path) -> list[Path]:
    """The files below *folder* with the value."""
    files = [Path(directory) / name for directory, _, names in os.walk(folder) for name in names]
    return [file for file in files if VALUE.encode() in file.read_bytes()]


async def test_values_of_secrets_are_masked_and_leave_the_host_with_the_bot(bots: BotContainers) -> None:
    runner, folder = bots.runner, bots.settings.temp_dir
    container = await runner.start(bots.executable(PRINTER, config=CONFIG, owner="ann"))
    files = with_the_value(folder)
    lines = [piece.data async for piece in runner.logs(container, follow=True)]
    ended = await eventually(lambda: runner.exit_info(container))

    # Before the container is removed, as while its records cannot be written.
    await runner.remove_dead_specs("bot-runner", bots.scope)

    assert lines[0] == b"plain " + b"*" * len(VALUE) + b" 15\n"
    assert not any(VALUE.encode() in line for line in lines)
    assert VALUE not in repr(ended)
    assert all(file.is_relative_to(folder / "specs") for file in files)
    assert len(files) == 2
    assert (folder / "specs").stat().st_mode & 0o777 == 0o700
    assert with_the_value(folder) == []


async def test_value_of_a_secret_across_two_pieces_of_output_is_masked(bots: BotContainers) -> None:
    _, output = await bots.run(SPLIT, config=CONFIG, owner="ann")

    assert output.count("*" * len(VALUE)) == 2
    assert len(output) == 2 * (16 * 1024 + len(VALUE) + 1) - 7 + len("null\n")
    assert VALUE[:6] not in output


async def test_bot_with_the_secret_of_another_owner_does_not_start(bots: BotContainers) -> None:
    for owner in ("bob", ""):
        with pytest.raises(SecretRefused):
            await bots.runner.start(bots.executable(PRINTER, config=CONFIG, owner=owner))

    assert await bots.list() == []
    assert list((bots.settings.temp_dir / "runs").rglob("*.json")) == []


async def seen_from_elsewhere(bots: BotContainers, folder: Path, engine: Engine, secrets: SecretSources) -> list[bytes]:
    """The output of the only container, as a worker with folders of its own shows it."""
    (container,) = await bots.list()
    async with bot_containers(folder, bots.scope, engine.url, secrets=secrets) as others:
        return [piece.data async for piece in others.runner.logs(container)]


@pytest.mark.parametrize("ended", [False, True])
async def test_worker_with_another_work_folder_masks_the_values_that_it_resolves_again(
    bots: BotContainers, tmp_path: Path, docker_engine: Engine, ended: bool
) -> None:
    container = await bots.runner.start(bots.executable(PRINTER if ended else WAITER, config=CONFIG, owner="ann"))
    await eventually(lambda: printed(bots, container))
    if ended:
        await eventually(lambda: bots.runner.exit_info(container))

    lines = await seen_from_elsewhere(bots, tmp_path / "other", docker_engine, SecretSources(tmp_path / "secrets"))

    assert lines[0] == b"plain " + b"*" * len(VALUE) + b" 15\n"
    assert not any(VALUE.encode() in line for line in lines)


@pytest.mark.parametrize("changed", [None, "an0ther-value"])
async def test_worker_with_another_work_folder_hides_output_whose_values_it_does_not_know(
    bots: BotContainers, tmp_path: Path, docker_engine: Engine, changed: str | None
) -> None:
    container = await bots.runner.start(bots.executable(WAITER, config=CONFIG, owner="ann"))
    await eventually(lambda: printed(bots, container))
    if changed is None:
        sources = SecretSources(tmp_path / "no-secrets")
    else:
        (tmp_path / "secrets" / "ann" / "key").write_text(changed)
        sources = SecretSources(tmp_path / "secrets")

    lines = await seen_from_elsewhere(bots, tmp_path / "other", docker_engine, sources)

    assert lines == [b"*" * len(f"plain {VALUE} 15") + b"\n"]


async def test_output_of_a_bot_without_secrets_is_shown_from_elsewhere(
    bots: BotContainers, tmp_path: Path, docker_engine: Engine
) -> None:
    container = await bots.runner.start(bots.executable(WAITER, config={"key": "no-secret"}, owner="ann"))
    await eventually(lambda: printed(bots, container))

    lines = await seen_from_elsewhere(bots, tmp_path / "other", docker_engine, SecretSources(None))

    assert lines == [b"plain no-secret 9\n"]


async def printed(bots: BotContainers, container: ManagedContainer) -> bool:
    return [piece async for piece in bots.runner.logs(container)] != []
