"""Whether a worker's Docker engine can run bots now: it answers, sees the folders, and has images and network."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from libs.core.aio.backoff import Backoff
from libs.core.aio.wake import Wake
from libs.core.errors import Retryable, RuntimeFault
from libs.core.http.health import Readiness
from libs.core.observability.log import get_logger
from libs.core.process.isolation import repeat
from libs.docker_runner.engine.answers import EngineInfo
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.engine.folder_sight import KEEPALIVE_DIR, SPEC_DIR, TEMP_DIR, FolderSight
from libs.docker_runner.engine.group_sight import GroupSight
from libs.docker_runner.engine.http import STALLED_SECONDS
from libs.docker_runner.runner import DockerRunner
from libs.docker_runner.sandbox.container_spec import GUARD_RUNTIME
from libs.docker_runner.sandbox.host_agent import HostAgent
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.worker.image_wait import ImageWait
from libs.docker_runner.worker.network_wait import NetworkWait

log = get_logger(__name__)

ENGINE = "docker"
"""The name under which readiness shows the engine."""

_POLL_SECONDS = 2.0
_PREPARE_SECONDS = 5.0
_ANSWER_SECONDS = 2.5
# A slower engine is checked later, and the worker is ready meanwhile.
_FIRST_SIGHT_SECONDS = 2.0
# A loaded engine may not answer for some seconds.
_LOST_SECONDS = STALLED_SECONDS


class Questions:
    """The questions to an engine that it has not answered. Pure; times are seconds of one clock."""

    def __init__(self) -> None:
        self._unanswered_since: float | None = None

    def asked(self, now: float) -> None:
        """Note that a question is sent."""
        if self._unanswered_since is None:
            self._unanswered_since = now

    def answered(self) -> None:
        """Note that the last one was answered."""
        self._unanswered_since = None

    def lost(self, now: float) -> bool:
        """Whether one, and all after it, have been unanswered for so long that the segments should move."""
        return self._unanswered_since is not None and now - self._unanswered_since > _LOST_SECONDS


class EngineHealth:
    """The state of one engine for the containers of one worker.

    Args:
        continues: returns whether containers run on the engine that this worker may continue.

    Attributes:
        sight, groups, agent: checks with loops of their own.
    """

    def __init__(
        self,
        runner: DockerRunner,
        engine: Engine,
        settings: RunnerSettings,
        engine_id: str,
        keepalives: Path,
        continues: Callable[[], Awaitable[bool]],
    ) -> None:
        self._runner = runner
        self._engine = engine
        self._fault = ""
        self._answered_by = engine_id
        self._unprepared = ""
        self._images = ImageWait(required=settings.pod_uid is not None)
        self._network = NetworkWait()
        self._continues = continues
        self._prepare = Wake()
        self._questions = Questions()
        named = {TEMP_DIR: settings.temp_dir}
        if not keepalives.is_relative_to(settings.temp_dir):
            named[KEEPALIVE_DIR] = keepalives
        if settings.spec_dir is not None and not settings.spec_dir.is_relative_to(settings.temp_dir):
            named[SPEC_DIR] = settings.spec_dir
        image = settings.images[GUARD_RUNTIME]
        self.sight = FolderSight(engine, named, image)
        self.groups = GroupSight(engine, settings.pod_uid, image, self._note)
        self.agent = HostAgent(engine, image, runner.entrypoints, keepalives)
        self._events_begun = False
        self._noted = self.impediment()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever the impediment has changed."""
        self._listeners.append(listener)

    def _note(self) -> None:
        if (impediment := self.impediment()) != self._noted:
            self._noted = impediment
            for listener in self._listeners:
                listener()

    async def check_first(self) -> None:
        """Look at the containers, the folders and the images before the worker is ready, within a few seconds."""
        with suppress(TimeoutError, Retryable):
            async with asyncio.timeout(_FIRST_SIGHT_SECONDS):
                await self._look_at_containers()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_SIGHT_SECONDS):
                await self.sight.check_by_mounts()
        with suppress(TimeoutError, Retryable):
            async with asyncio.timeout(_FIRST_SIGHT_SECONDS):
                self._images.looked(await self._runner.absent_images())

    def impediment(self) -> str:
        """Why no bot can be started here now; empty when one can."""
        complaints = (
            self._fault,
            self.sight.complaint,
            self._unprepared,
            self._images.complaint,
            self.groups.complaint,
            self._network.complaint,
        )
        return next(filter(None, complaints), "")

    def can_adopt(self) -> bool:
        """Whether containers that other workers of the engine started can be continued: it sees the keepalives."""
        return not self.sight.complaint

    def lost(self) -> bool:
        """Whether the engine has left a question unanswered for some seconds, and all after it."""
        return self._questions.lost(time.monotonic())

    async def watch(self, readiness: Readiness) -> None:
        """Check the engine periodically."""

        async def one_round() -> None:
            self._questions.asked(time.monotonic())
            try:
                info = await self._info(readiness)
            except RuntimeFault as error:
                self._fault = str(error)
            else:
                self._runner.room.has(info.capacity)
                self._questions.answered()
                self._fault = ""
                if info.id != self._answered_by:
                    self._answered_by = info.id
                    self.sight.doubt()
                    self.groups.doubt()
            self.report(readiness)
            self._note()

        await repeat("watch the docker engine", one_round, _POLL_SECONDS)

    async def _info(self, readiness: Readiness) -> EngineInfo:
        """Return the engine's answer; report that it is slow when it takes long."""
        asking = asyncio.create_task(self._engine.info(), name="ask the docker engine")
        try:
            done, _ = await asyncio.wait([asking], timeout=_ANSWER_SECONDS)
            if not done:
                self._fault = f"the Docker engine has not answered within {_ANSWER_SECONDS:g} s"
                self.report(readiness)
            return await asking
        finally:
            asking.cancel()

    def note_gap(self, event: ContainerEvent) -> None:
        """Check the folders again after a gap in the events: a restarted engine may see other ones."""
        if event.kind is EventKind.RESYNC:
            if self._events_begun:
                self.sight.doubt()
                self.groups.doubt()
            self._events_begun = True

    async def _look_at_containers(self) -> None:
        if self._network.complaint and await self._continues():
            self._network.continues()
            self._note()

    async def pull_for_ever(self) -> None:
        """Pull the images before the first bot needs them, and again when they are missing."""

        async def one_round() -> None:
            self._images.prepared(await self._runner.pull_images())
            if self.groups.complaint:
                self.groups.look()
            if self._network.complaint:
                self._prepare.set()
            self._note()

        await repeat("pull the images of bots", one_round, _PREPARE_SECONDS)

    async def prepare_for_ever(self) -> None:
        """Set up the network before the first bot needs it, and again when it is missing."""

        async def one_round() -> None:
            await self._look_at_containers()
            if not self.sight.complaint:
                # The firewall rules are built from files below TEMP_DIR, and no bot is started before.
                await self._prepare_network()
                self._note()

        await repeat("prepare the docker host", one_round, _PREPARE_SECONDS, wake=self._prepare)

    async def _prepare_network(self) -> None:
        before = self._unprepared
        try:
            lacking = await self._runner.prepare_network()
        except Exception as error:
            self._unprepared = str(error) or type(error).__name__
            self._note()
            if not isinstance(error, Retryable):
                raise
            if not before:
                log.warning("docker host cannot be prepared; trying again", reason=self._unprepared)
            return
        self._unprepared = ""
        if lacking is not None:
            self._network.lacks(lacking, self._images.warning)
            return
        self._network.secured()
        if before:
            log.info("docker host is prepared")

    def report(self, readiness: Readiness) -> None:
        """Show the impediment, or warnings, in *readiness*."""
        impediment = self.impediment()
        warnings = "; ".join(filter(None, [self._images.warning, self.agent.complaint]))
        readiness.report(ENGINE, not impediment, impediment or warnings)


async def wait_for_engine(engine: Engine, readiness: Readiness) -> EngineInfo:
    """Return the engine's info once it answers; until then *readiness* shows the reason."""
    backoff = Backoff(initial_seconds=0.2, cap_seconds=5.0)
    while True:
        try:
            info = await engine.info()
        except Retryable as error:
            readiness.report(ENGINE, False, str(error))
            log.warning("docker engine cannot be used", reason=str(error))
            await asyncio.sleep(backoff.next_seconds())
        else:
            readiness.report(ENGINE, True)
            return info
