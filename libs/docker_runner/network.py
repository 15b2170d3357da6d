"""The bots' own network: the internet and nothing else; no other container, no link-local address."""

import asyncio
import secrets
from pathlib import Path

from libs.core.log import get_logger
from libs.docker_runner.container import Label
from libs.docker_runner.engine import Engine, NameTaken, NoSuchImage
from libs.docker_runner.engine_http import EngineRefused
from libs.docker_runner.errors import EngineUnavailable, SandboxUnavailable
from libs.docker_runner.executable import MIB

log = get_logger(__name__)

# One for all services and deployments of an engine, since engines have few subnets. The bridge's name is fixed too:
# two networks cannot share one, so that of two workers who make it at once only one succeeds.
NAME = "the0-bots"
BRIDGE = "the0-bots"
GUARD_SERVICE = "guard"
_GUARD_SECONDS = 60.0


class BotNetwork:
    """The network on one engine.

    Args:
        guard_image: has ``python3``; the guard runs in it.
        guard: whether link-local addresses must be closed before a bot is started.
    """

    def __init__(self, engine: Engine, guard_image: str, guard: bool = True) -> None:
        self._engine = engine
        self._guard_image = guard_image
        self._guard = guard
        self._id: str | None = None
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        """The engine restarted, or the network is gone: make sure of it again at the next start."""
        self._id = None

    async def ensure(self, entrypoints: Path) -> str:
        """The network's id, with its walls up. May be repeated, and costs nothing when it is known.

        Raises:
            SandboxUnavailable: the link-local addresses stay open, so that no bot may run.
            EngineUnavailable: nothing is known.
        """
        async with self._lock:
            if self._id is None:
                found = await self._found_or_made()
                if self._guard:
                    await self._close_link_local(entrypoints)
                self._id = found
            return self._id

    async def _found_or_made(self) -> str:
        found = await self._engine.network_id(NAME)
        if found is not None:
            return found
        body = {
            "Name": NAME,
            "Driver": "bridge",
            "CheckDuplicate": True,
            "Options": {
                "com.docker.network.bridge.name": BRIDGE,
                "com.docker.network.bridge.enable_icc": "false",
            },
            "Labels": {Label.MANAGED: "true"},
        }
        try:
            return await self._engine.create_network(body)
        except EngineRefused as error:
            found = await self._engine.network_id(NAME)
            if found is None:
                raise SandboxUnavailable(f"the bots' network cannot be made: {error.message}") from error
            return found

    async def _close_link_local(self, entrypoints: Path) -> None:
        name = f"the0-guard-{secrets.token_hex(6)}"
        body = {
            "Image": self._guard_image,
            "Entrypoint": ["python3", "-I", "-S", "-B", "/guard/metadata_guard.py", BRIDGE],
            "Cmd": [],
            "User": "0:0",
            "Labels": {Label.MANAGED: "true", Label.SERVICE: GUARD_SERVICE},
            "HostConfig": {
                "NetworkMode": "host",
                "CapDrop": ["ALL"],
                "CapAdd": ["NET_ADMIN"],
                "SecurityOpt": ["no-new-privileges:true"],
                "ReadonlyRootfs": True,
                "Memory": 64 * MIB,
                "PidsLimit": 16,
                "Mounts": [
                    {"Type": "bind", "Source": str(entrypoints / "guard"), "Target": "/guard", "ReadOnly": True}
                ],
            },
        }
        try:
            container = await self._engine.create(name, body)
        except (EngineRefused, NoSuchImage, NameTaken) as error:
            raise SandboxUnavailable(f"the link-local addresses cannot be closed: {error}") from error
        try:
            await self._engine.start(container)
            await self._engine.wait(container, _GUARD_SECONDS)
            ended = await self._engine.inspect(container)
            if ended is None or ended.container.exit_code != 0:
                said = [line.data.decode(errors="replace") async for line in self._engine.logs(container, tail=5)]
                raise SandboxUnavailable(f"the link-local addresses cannot be closed: {''.join(said).strip()}")
        except EngineRefused as error:
            raise SandboxUnavailable(f"the link-local addresses cannot be closed: {error}") from error
        finally:
            await self._take_away(container)

    async def _take_away(self, container: str) -> None:
        try:
            await asyncio.shield(self._engine.remove(container))
        except (EngineUnavailable, EngineRefused) as error:
            log.warning("a helper container is left", container=container, reason=str(error))
