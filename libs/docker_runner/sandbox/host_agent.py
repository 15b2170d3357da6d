"""Keep one host agent running on the engine: the second wall, see ``entrypoints/agent``.

It works without the engine and without any worker, and restarts itself. The workers of an engine only check that it
exists, is not older than they are, and is alive; the newest version stays. It ends some time after the last worker,
once no container is left to watch.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.core.observability.log import get_logger
from libs.core.observability.metrics import Declared
from libs.core.process.isolation import repeat
from libs.docker_runner.containers.container import ContainerState, Label, ManagedContainer
from libs.docker_runner.engine.client import Engine, NameTaken, NoSuchImage
from libs.docker_runner.engine.helper_container import GUARD_SERVICE, locked_up
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.entrypoints.agent import VERSION

log = get_logger(__name__)

UP = Declared(
    "runtime_host_agent_up",
    "gauge",
    "Whether the host agent of this worker's engine is alive; absent with HOST_AGENT=false.",
)
WATCHED = Declared(
    "runtime_host_agent_watched_containers", "gauge", "Containers that the host agent of this worker's engine watches."
)
KILLED = Declared(
    "runtime_host_agent_killed_total",
    "counter",
    "Containers that the host agent of this worker's engine killed since it started, as they outlived their keepalive.",
)

NAME = "the0-host-agent"
SIGN = ".host-agent"
"""The file with which a worker shows the agent that it is wanted."""
_SIGN_SECONDS = 5.0
_LOOK_SECONDS = 30.0
_AGAIN_SECONDS = 3.0
# It writes a line every 20 s.
_SILENT_SECONDS = 75.0
_LAST_LINES = 5
_LINE_BYTES = 4096


@dataclass(frozen=True)
class Report:
    """What the agent says about itself: containers watched now, killed since it started, and not to be watched."""

    watched: int
    killed: int
    unreadable: int


class HostAgent(Collector):
    """The host agent of one engine, as one of its workers sees it.

    Args:
        image: an image with ``python3``. It is not pulled for this.
        entrypoints: returns the folder of the copied entrypoints.
        keepalives: the folder of all keepalives; the sign is there.
    """

    def __init__(
        self,
        engine: Engine,
        image: str,
        entrypoints: Callable[[], Path],
        keepalives: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._image = image
        self._entrypoints = entrypoints
        self._keepalives = keepalives
        self._monotonic = monotonic
        self._last = ""
        self._heard_at = monotonic()
        self._report: Report | None = None
        self._complaint = ""

    @property
    def complaint(self) -> str:
        """Why containers that outlive their keepalive may not be killed; empty if they are, or nothing is known yet."""
        return self._complaint

    async def run(self) -> None:
        """Keep it running forever."""
        async with asyncio.TaskGroup() as tasks:
            sign = repeat("require the host agent", self.want_once, _SIGN_SECONDS)
            tasks.create_task(sign, name="require the host agent")
            keep = repeat("keep the host agent", self.keep_once, _LOOK_SECONDS)
            tasks.create_task(keep, name="keep the host agent")

    async def want_once(self) -> None:
        """Show that it is wanted; it ends 20 s after the last time, if it has no container to watch."""
        try:
            await asyncio.to_thread(self._touch)
        except OSError as error:
            # No bot can be kept alive there either, which is reported.
            log.debug("the host agent is not shown that it is wanted", reason=str(error))

    def _touch(self) -> None:
        self._keepalives.mkdir(parents=True, exist_ok=True)
        (self._keepalives / SIGN).touch()

    async def keep_once(self) -> float:
        """Start it unless it runs, and note whether it is alive; return when to look again, in seconds.

        Raises:
            Retryable: the engine is unavailable.
        """
        try:
            if not await self._keep():
                return _AGAIN_SECONDS
            await self._listen()
        except NoSuchImage:
            self._complain(f"the host agent needs the image {self._image}, which is not on the engine")
            return _AGAIN_SECONDS
        except EngineRefused as error:
            self._complain(f"the host agent cannot be started: {error.message}")
            return _LOOK_SECONDS
        if self._report is not None:
            unreadable = self._report.unreadable
            self._complain(f"it cannot read {unreadable} keepalives; see docker logs {NAME}" if unreadable else "")
        return _LOOK_SECONDS if self._report is not None else _AGAIN_SECONDS

    async def _keep(self) -> bool:
        """Start it if it does not run, is too old or does nothing; return whether it runs."""
        found = await self._engine.inspect(NAME)
        container = found.container if found is not None else None
        if self._is_silent():
            self._complain(f"the host agent says nothing; see docker logs {NAME}")
        if container is not None and self._must_go(container):
            await self._engine.remove(NAME)
            container = None
        if container is None:
            # The agent mounts the folder of the sign.
            await self.want_once()
            try:
                await self._engine.create(NAME, agent_body(self._image, self._entrypoints(), self._keepalives))
            except NameTaken:
                # Another worker is faster, or the engine still removes the last one.
                return False
        if container is None or container.state is ContainerState.CREATED:
            await self._engine.start(NAME)
            self._report, self._heard_at = None, self._monotonic()
            log.info("host agent started", container=NAME, version=VERSION)
        return True

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        for declared in (UP, WATCHED, KILLED):
            yield declared.of(None)

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as of the last look; without a value while nothing is known."""
        report = self._report if not self._complaint else None
        is_known = bool(self._complaint) or report is not None
        yield UP.of((0 if self._complaint else 1) if is_known else None)
        yield WATCHED.of(report.watched if report is not None else None)
        yield KILLED.of(report.killed if report is not None else None)

    def _must_go(self, container: ManagedContainer) -> bool:
        is_dead = container.state is ContainerState.EXITED
        return is_dead or container.revision < VERSION or self._is_silent()

    def _is_silent(self) -> bool:
        return self._monotonic() - self._heard_at > _SILENT_SECONDS

    async def _listen(self) -> None:
        """Note its last report, if there is a new one."""
        last, report = "", None
        async for piece in self._engine.logs(NAME, tail=_LAST_LINES):
            if (found := report_of(piece.data)) is not None:
                last, report = piece.timestamp, found
        if report is not None and last != self._last:
            self._last, self._report, self._heard_at = last, report, self._monotonic()

    def _complain(self, complaint: str) -> None:
        if complaint and complaint != self._complaint:
            log.warning("containers that outlive their keepalive may not be killed", reason=complaint)
        elif self._complaint and not complaint:
            log.info("host agent is alive")
        self._complaint = complaint


def report_of(line: bytes) -> Report | None:
    """Return what a line of the agent says about itself; None if it says something else."""
    if len(line) > _LINE_BYTES:
        return None
    try:
        said = json.loads(line)
        return Report(int(said["watched"]), int(said["killed"]), int(said["unreadable"]))
    except (ValueError, LookupError, TypeError):
        return None


def agent_body(image: str, entrypoints: Path, keepalives: Path) -> dict[str, Any]:
    """Return the create request of the agent. Pure."""
    code = {"Type": "bind", "Source": str(entrypoints / "agent"), "Target": "/agent", "ReadOnly": True}
    signs = {"Type": "bind", "Source": str(keepalives), "Target": "/workers", "ReadOnly": True}
    groups = {"Type": "bind", "Source": "/sys/fs/cgroup", "Target": "/sys/fs/cgroup"}
    return {
        "Image": image,
        "Entrypoint": ["python3", "-I", "-S", "-B", "/agent/host_agent.py"],
        "Cmd": [],
        "User": "0:0",
        # It is no bot, and outlives the workers: without the label of managed containers.
        "Labels": {Label.SERVICE: GUARD_SERVICE, Label.REVISION: str(VERSION)},
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": True,
        "HostConfig": {
            **locked_up(),
            # It reads the mounts of other processes (SYS_PTRACE), of any user, and ends them (KILL).
            "CapAdd": ["KILL", "SYS_PTRACE"],
            # Docker's profile closes other processes to it.
            "SecurityOpt": ["no-new-privileges:true", "apparmor=unconfined"],
            "NetworkMode": "none",
            "PidMode": "host",
            "CgroupnsMode": "host",
            "UsernsMode": "host",
            "Mounts": [code, signs, groups],
            "AutoRemove": True,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
        },
    }
