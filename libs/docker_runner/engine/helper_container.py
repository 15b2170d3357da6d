"""Short-lived helper containers that inspect or configure the engine's host.

Their label excludes them from the room of bots, and lets every worker of the engine remove the helpers of a dead
worker (:mod:`~libs.docker_runner.containers.host_garbage`).
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from libs.core.observability.log import get_logger
from libs.core.room import MIB
from libs.docker_runner.containers.container import Label
from libs.docker_runner.engine.client import Engine, NameTaken, NoSuchImage
from libs.docker_runner.engine.http import EngineFailed, EngineRefused
from libs.docker_runner.errors import EngineUnavailable

log = get_logger(__name__)

GUARD_SERVICE = "guard"
HELPER_SECONDS = 60.0
"""Time limit of a helper."""


@asynccontextmanager
async def ended_helper(engine: Engine, image: str, body: Mapping[str, Any]) -> AsyncIterator[str]:
    """Run a helper and yield its name once it has ended; it is always removed after the block.

    Args:
        image: an image with ``python3``.
        body: the rest of the create request.

    Raises:
        NoSuchImage, EngineRefused: it cannot be created or started.
        EngineUnavailable: outcome unknown.
    """
    name = f"the0-guard-{secrets.token_hex(6)}"
    described = {
        "Image": image,
        "Cmd": [],
        "Labels": {Label.MANAGED: "true", Label.SERVICE: GUARD_SERVICE},
        **body,
    }
    # By its name: one whose creation was interrupted may still appear.
    may_exist = True
    try:
        try:
            await engine.create(name, described)
        except EngineFailed:
            raise
        except (EngineRefused, NoSuchImage, NameTaken):
            may_exist = False
            raise
        await engine.start(name)
        await engine.wait(name, HELPER_SECONDS)
        yield name
    finally:
        if may_exist:
            await asyncio.shield(_take_away(engine, name))


def locked_up() -> dict[str, Any]:
    """Return the host configuration shared by all helpers."""
    options: Sequence[str] = ["no-new-privileges:true"]
    return {
        "CapDrop": ["ALL"],
        "SecurityOpt": options,
        "ReadonlyRootfs": True,
        "Memory": 64 * MIB,
        "PidsLimit": 16,
    }


async def _take_away(engine: Engine, name: str) -> None:
    try:
        await engine.remove(name)
    except (EngineUnavailable, EngineRefused) as error:
        log.warning("a helper container was not removed", container=name, reason=str(error))
