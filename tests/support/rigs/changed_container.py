"""For tests: a bot in a container that is not quite as the runtime makes it, such as on another engine."""

import asyncio
from collections.abc import Callable
from typing import Any

from libs.core.room import MIB
from libs.docker_runner.containers.container import ContainerState, ManagedContainer
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.executable import Executable
from libs.docker_runner.sandbox.container_spec import container_body
from tests.support.rigs.bot_containers import BotContainers

TOKEN = "0123456789ab"


async def start_changed(
    bots: BotContainers, url: str, executable: Executable, change: Callable[[dict[str, Any]], object]
) -> ManagedContainer:
    """Start *executable*, which must need no network, after *change* of the engine's create request."""
    folders = RunFolders(bots.settings.temp_dir)
    await asyncio.to_thread(folders.prepare)
    code = bots.code.directory / executable.code.key
    paths = await asyncio.to_thread(folders.create, executable, "n", TOKEN, code)
    user = bots.settings.users.first
    await asyncio.to_thread(folders.tell_init, paths, executable, user, 64 * MIB)
    body = container_body(
        executable, paths=paths, code_etag="e", token=TOKEN, user=user, attachment=None, settings=bots.settings
    )
    change(body)
    client = Engine(url)
    try:
        await client.start(await client.create(f"the0-test-{bots.scope}", body))
    finally:
        await client.close()
    [container] = await bots.list()
    return container


async def is_over(bots: BotContainers) -> bool:
    """Whether the only container has ended."""
    return [one.state for one in await bots.list()] == [ContainerState.EXITED]
