"""The entry point of the library: start, watch and stop containers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from collections.abc import Collection as Ids
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from libs.core.aio.threads import Threads
from libs.core.errors import UserError
from libs.core.observability.log import get_logger
from libs.core.observability.metrics import observe
from libs.core.process.isolation import isolated
from libs.core.secrets.resolver import SecretResolver
from libs.docker_runner.code.source import CodeSource
from libs.docker_runner.containers.container import (
    ContainerState,
    Ended,
    EndReason,
    Label,
    ManagedContainer,
    RunOutcome,
)
from libs.docker_runner.containers.host_garbage import Cleared, HostGarbageCollector
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.containers.secret_masks import SecretMasks
from libs.docker_runner.containers.starting import Starter
from libs.docker_runner.containers.state_cache import ContainerStateCache
from libs.docker_runner.containers.stopping import Stopper
from libs.docker_runner.data.source import CodeWithData, DataSource, NoData
from libs.docker_runner.engine.admission import Admission
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.container_watch import ContainerWatch
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.engine.exec_channel import ExecChannel
from libs.docker_runner.engine.images import Images
from libs.docker_runner.engine.lock import EngineLock
from libs.docker_runner.engine.room_view import EngineRoom
from libs.docker_runner.errors import AlreadyRunning, DockerRunnerError, NoRoom
from libs.docker_runner.executable import Executable, Network
from libs.docker_runner.logs.followed_output import FollowedOutput
from libs.docker_runner.logs.masking import masked_pieces
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.runs.collection import Collection, Collector
from libs.docker_runner.sandbox.container_spec import GUARD_RUNTIME, relay_command
from libs.docker_runner.sandbox.narrowed_hosts import NarrowedHosts, resolved
from libs.docker_runner.sandbox.network import BotNetwork
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.state.keeper import StateKeeper
from libs.docker_runner.usage.stats import Stats
from libs.docker_runner.usage.totals import Usage, UsageTally

__all__ = ["ContainerState", "DockerRunner", "EndReason", "Ended", "ManagedContainer", "RunOutcome"]

log = get_logger(__name__)

LOCK = "admission.lock"
"""The file below TEMP_DIR with which the workers of an engine reserve its room."""


class DockerRunner:
    """Starts, watches and stops containers on one engine. Its methods may be called from many tasks at once.

    Every method may raise EngineUnavailable: the outcome is unknown, and the call may be repeated.

    Args:
        data: the source of data sets; without one, none can be mounted.
        states: restores and saves the state of bots; None: it is empty at each start.
        resolve: returns the addresses of a host that bots may reach; blocks; raises OSError.
    """

    def __init__(
        self,
        engine: Engine,
        code: CodeSource,
        settings: RunnerSettings,
        resolve: Callable[[str], list[str]] = resolved,
        data: DataSource | None = None,
        states: StateKeeper | None = None,
    ) -> None:
        data = data or NoData()
        code = CodeWithData(code, data)
        self._engine = engine
        self._settings = settings
        self._threads = Threads("docker-runner", 4)
        self.room = EngineRoom(engine, settings.room, settings.limits.need)
        """The room that all containers on the engine leave free."""
        self.usage = UsageTally()
        """The usage of the containers that were started, ended or tallied here."""
        self._states = ContainerStateCache()
        self._folders = RunFolders(settings.temp_dir, settings.spec_dir)
        self._state_keeper = states
        if states is not None:
            states.open(self._folders)
        secrets = SecretResolver(settings.secrets.providers, settings.secrets.key_file)
        self._masks = SecretMasks(self._folders, secrets, self._threads)
        self.followed = FollowedOutput(engine, self._states, self._masks.of)
        """The source of output for followers, which keeps the last lines for the container's end."""
        self._admission = Admission(self.room, EngineLock(settings.temp_dir / LOCK, self._threads), settings.users)
        self._images = Images(engine, settings.registry, settings.pull_timeout_seconds)
        self._network = BotNetwork(
            engine,
            settings.images[GUARD_RUNTIME],
            guard=settings.metadata_guard,
            allowed=settings.egress_allow,
            limits=settings.network_limits,
            default_bridge=settings.default_bridge,
            renew_seconds=settings.walls_seconds,
        )
        self._narrowed = NarrowedHosts(
            engine,
            self._network,
            settings.temp_dir / "egress",
            self._folders.hosts_file,
            threads=self._threads,
            resolve=resolve,
        )
        self.watch = ContainerWatch(
            engine, listeners=(self._states.note, self._forget_output, self.room.note), on_gap=self._network.forget
        )
        """The events of the engine's containers. Its run() is optional: while it runs, deaths are known at once."""
        self._starter = Starter(
            engine=engine,
            states=self._states,
            code=code,
            data=data,
            images=self._images,
            network=self._network,
            admission=self._admission,
            folders=self._folders,
            threads=self._threads,
            settings=settings,
            secrets=secrets,
            masks=self._masks,
            narrowed=self._narrowed,
            state_keeper=states,
        )
        self._standbys = self._starter.standbys
        self._stopper = Stopper(
            engine=engine,
            states=self._states,
            followed=self.followed,
            code=code,
            folders=self._folders,
            threads=self._threads,
            masks=self._masks,
            standbys=self._standbys,
            state_keeper=states,
        )
        self._collector = Collector(
            engine=engine,
            stopper=self._stopper,
            folders=self._folders,
            threads=self._threads,
            masks=self._masks,
            output_bytes=settings.output_spool_bytes,
            removed=self._removed,
        )
        self._samples: dict[str, Stats] = {}
        self._garbage = HostGarbageCollector(
            engine=engine,
            code=code,
            folders=self._folders,
            threads=self._threads,
            stopper=self._stopper,
            standbys=self._standbys,
        )

    async def open(self) -> None:
        """Create the folders. Call it first; needs no engine; may be repeated."""
        await self._threads.run(self._folders.prepare)

    def entrypoints(self) -> Path:
        """Return the folder of the copied entrypoints, after :meth:`open`."""
        return self._folders.entrypoints

    async def prepare(self) -> dict[str, str]:
        """Pull the images, then set up the network; return missing images with the reason.

        A start does the missing steps itself.

        Raises:
            SandboxUnavailable: the bots' network cannot be secured.
        """
        missing = await self.pull_images()
        await self.prepare_network()
        return missing

    async def pull_images(self) -> dict[str, str]:
        """Pull the images of bots, so that no start waits for them; return missing images with the reason.

        Call it periodically.
        """
        return await self._images.ensure_all(self._settings.images.values())

    async def prepare_network(self) -> str | None:
        """Set up the network of bots, so that no start waits for it. No image is pulled for it.

        Call it periodically: removed firewall rules are restored.

        Returns:
            The image that its helpers need and that is missing; None when the network is ready.

        Raises:
            SandboxUnavailable: the bots' network cannot be secured.
            EngineUnavailable: unknown.
        """
        image = self._settings.images[GUARD_RUNTIME]
        if self._settings.network is not Network.BRIDGE:
            return None
        if not await self._images.has(image):
            return image
        await self._network.renew(self._folders.entrypoints)
        await self._narrowed.renew(self._folders.entrypoints)
        return None

    async def absent_images(self) -> list[str]:
        """Return the images of bots that are not on the engine, without pulling them.

        Raises:
            EngineUnavailable: unknown.
        """
        return await self._images.absent(self._settings.images.values())

    async def close(self) -> None:
        """Close the connections; containers keep running. May be repeated."""
        await self._admission.close()
        await self._images.close()
        await self._engine.close()
        self._narrowed.close()
        self._threads.close()

    # --- start, run, stop

    async def start(self, executable: Executable) -> ManagedContainer:
        """Return the running container of *executable*. May be repeated: an equal running one is returned unchanged.

        After :meth:`stand_by` of the same run, its standby becomes that container.

        There is never a second one, even after failures: an entity has one container name, and the engine gives
        a name to one container only. A dead one of that name is removed.

        Raises:
            CodeMissing, ArchiveRejected, EntrypointMissing, DataMissing, DataRejected: the owner must correct it.
            CodeUnavailable, DataUnavailable, ImageUnavailable, SandboxUnavailable, StartFailed: retry later.
            NoRoom: other containers' limits use up the engine; nothing was created. Wait for :attr:`room`.
            AlreadyRunning: another version of it runs; stop that first.
        """
        with observe("containers", "start", refused=_is_refusal):
            container = await self._starter.start(executable)
        if (container.run_id, container.epoch) == (executable.run_id, executable.epoch):
            self.usage.started(container)
        return container

    async def stand_by(self, executable: Executable) -> None:
        """Create and start a container that runs *executable* only when :meth:`start` is called with it.

        Meanwhile another container may run the same entity. The standby counts in the engine's room. It ends by itself
        after a minute, and when its keepalive expires. An earlier standby of the entity is removed.

        Raises:
            UserError, Retryable: as :meth:`start`, except AlreadyRunning; a standby may be left, which ends by itself.
        """
        with observe("containers", "stand by", refused=_is_refusal):
            await self._starter.stand_by(executable)

    async def drop_standby(self, executable: Executable) -> None:
        """Remove the standby of *executable* that was made here, if there is one. May be repeated."""
        await self._starter.drop_standby(executable)

    async def remove_standbys(self, service: str, scope: str, segment: int, before_epoch: int) -> None:
        """Remove the standbys that earlier owners of a segment made, which will never be let go. May be repeated."""
        labels = {**_labels(service, scope, segment), Label.STANDBY: None}
        for container in await self._engine.list(labels):
            if container.is_standby and container.epoch < before_epoch:
                await self._standbys.remove(container)

    async def check(self, executable: Executable) -> str:
        """Fetch and check everything that a start of *executable* needs, so that the start itself is short.

        Returns:
            The version of the code object that was checked.

        Raises:
            UserError, Retryable: as :meth:`start`, except those about containers.
        """
        with observe("containers", "check", refused=_is_refusal):
            return await self._starter.check(executable)

    @asynccontextmanager
    async def collecting(
        self,
        container: ManagedContainer,
        result_bytes: int,
        timeout_seconds: float,
        is_handed_over: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[Collection]:
        """Collect the output of *container* during the block, and its result at its end, which also removes it.

        A block that fails or is cancelled kills and removes the container.

        Args:
            result_bytes: the maximum size of the result of ``main``.
            timeout_seconds: its time limit, for the failure of one that exceeded it.
            is_handed_over: whether a cancelled block leaves the container to another worker of the engine.
        """
        collecting = self._collector.collecting(container, result_bytes, timeout_seconds, is_handed_over)
        with observe("containers", "run"):
            async with collecting as collection:
                yield collection

    async def stop(
        self, container: ManagedContainer, grace_seconds: float = 30.0, reason: EndReason = EndReason.STOPPED
    ) -> Ended:
        """Send SIGTERM, then SIGKILL after *grace_seconds* (at once below 1); return when it is dead. May be repeated.

        The container stays until :meth:`remove`, so that its output can be read to the end.

        Args:
            reason: why it ended, unless it has ended by itself: STOPPED, or TIMEOUT.

        Raises:
            StopFailed: it could not be confirmed as dead.
        """
        with observe("containers", "stop"):
            if reason is EndReason.TIMEOUT and (sample := await self._last_sample(container)) is not None:
                self._samples[container.container_id] = sample
            ended = await self._stopper.stop(container, grace_seconds, reason)
        self.usage.ended(ended, removed=False)
        return ended

    async def exit_info(self, container: ManagedContainer) -> Ended | None:
        """Return how *container* ended; None while it runs. May be repeated, even after :meth:`remove`.

        A container that was created and never started is removed, so that a concurrent start fails.
        """
        with observe("containers", "exit info"):
            ended = await self._stopper.exit_info(container)
        if ended is not None:
            self.usage.ended(ended, removed=False)
        return ended

    async def remove(self, container: ManagedContainer) -> Ended:
        """Remove *container* with its folder, and return why it ended. A running one is killed. May be repeated.

        Raises:
            StopFailed: it could not be confirmed as dead.
        """
        with observe("containers", "remove"):
            ended, _ = await self._stopper.reap(container)
        return self._removed(ended)

    def _removed(self, ended: Ended) -> Ended:
        ended = _completed(ended, self._samples.pop(ended.container.container_id, None))
        self.usage.ended(ended, removed=True)
        return ended

    # --- queries

    async def relay(self, container: ManagedContainer) -> ExecChannel:
        """Start the relay of queries in *container*, which must run and have a user for queries.

        Raises:
            EngineRefused: it does not run.
        """
        return await self._engine.execute(container.container_id, relay_command(container.query_runtime))

    async def ended(self, container: ManagedContainer, timeout_seconds: float) -> None:
        """Return when *container* does not run any more."""
        await self._engine.wait(container.container_id, timeout_seconds)

    async def masked_answer(self, container: ManagedContainer, body: bytes) -> bytes:
        """Return the JSON *body* without the values of the container's secrets."""
        masker = await self._masks.of(container)
        return masker.masked_json(body) if masker is not None else body

    async def masked_text(self, container: ManagedContainer, text: str) -> str:
        """Return *text* without the values of the container's secrets."""
        masker = await self._masks.of(container)
        return masker.masked_text(text) if masker is not None else text

    # --- state

    async def list(self, service: str, scope: str, segment: int | None = None) -> list[ManagedContainer]:
        """Return the containers of *service* in *scope*, running or not, of one segment or of all; without standbys.

        A container whose death :meth:`watch` has read counts as ended: the engine's own list shows that slightly later.
        """
        containers = await self._engine.list(_labels(service, scope, segment))
        containers = [container for container in containers if not container.is_standby]
        # Together: on a stuck disk each may take half a second.
        were = await asyncio.gather(*(self._standbys.seen(one) for one in containers if one.was_standby))
        seen = {container.container_id: container for container in were}
        return [self._as_known(seen.get(container.container_id, container)) for container in containers]

    def _as_known(self, container: ManagedContainer) -> ManagedContainer:
        """Return a listed container with this process's own knowledge added."""
        if self._states.is_over(container.container_id):
            container = replace(container, state=ContainerState.EXITED)
        network = self._network if container.egress is None else self._narrowed
        refused = network.refused(container.token)
        problem = self._state_keeper.problem(container) if self._state_keeper is not None else ""
        return replace(container, refused=refused, state_problem=problem) if refused or problem else container

    async def inspect(self, container: ManagedContainer) -> ManagedContainer | None:
        """Return *container*'s current state with its times; None when it is gone."""
        found = await self._stopper.inspect(container)
        return found.container if found is not None else None

    async def logs(
        self,
        container: ManagedContainer,
        since: datetime | None = None,
        follow: bool = False,
        tail: int | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        """Yield its output from *since* on, inclusive, or its last *tail* lines; with *follow* until it ends.

        The values of its secrets are masked.

        Raises:
            DockerRunnerError: the container is gone.
        """
        masker = await self._masks.of(container)
        pieces = self._engine.logs(container.container_id, since=since, follow=follow, tail=tail)
        async with aclosing(masked_pieces(pieces, masker)) as masked:
            async for piece in masked:
                yield piece

    async def stats(self, container: ManagedContainer) -> Stats | None:
        """Return its usage; None when it does not run. Some seconds old; the engine is asked only without a note."""
        noted = await self._threads.run(self._folders.read_stats, container)
        return noted or await self._engine.stats(container.container_id)

    async def noted(self, containers: Sequence[ManagedContainer]) -> dict[str, Usage]:
        """Return the recently noted usage of *containers*, by the engine's ids, without a request to the engine."""
        return await self._threads.run(lambda: dict(self._noted(containers)))

    def _noted(self, containers: Sequence[ManagedContainer]) -> Iterator[tuple[str, Usage]]:
        for container in containers:
            # A container's malformed note must not hide the usage of the others.
            with isolated("read usage"):
                if (seen := self._folders.read_stats(container)) is not None:
                    yield container.container_id, Usage(container, seen)

    async def clear(
        self,
        service: str,
        scope: str,
        kept_segments: Ids[int] = (),
        moved_segments: Ids[int] = (),
        older_than_seconds: float = 60.0,
        *,
        before_removal: Callable[[Ended], Awaitable[object]],
    ) -> Cleared:
        """Remove the dead containers of workers that left this host.

        Args:
            kept_segments: segments whose owner removes their containers.
            moved_segments: segments with an owner on another host, so that only this call removes their containers.
            older_than_seconds: younger dead containers of other segments are left to their worker.
            before_removal: records how one ended. When it raises Retryable, that one and the others stay; after any
                other error only that one does.
        """
        with observe("containers", "clear"):
            # By the known deaths, which the engine's own list shows slightly later.
            containers = await self.list(service, scope)
            return await self._garbage.clear(
                containers, kept_segments, moved_segments, older_than_seconds, before_removal
            )

    async def clean(self, service: str, scope: str) -> None:
        """Remove folders and pins of code that containers of *service* left on this host, and ended helpers."""
        with observe("containers", "clean"):
            await self._garbage.clean(service, scope)

    async def remove_dead_specs(self, service: str, scope: str) -> None:
        """Remove the specs with secrets of containers that have ended. Without such specs it needs no engine."""
        if await self._threads.run(self._folders.specs, scope):
            containers = await self._engine.list(_labels(service, scope))
            await self._garbage.remove_dead_specs(service, scope, [self._as_known(one) for one in containers])

    # --- inside

    def _forget_output(self, event: ContainerEvent) -> None:
        if event.kind is EventKind.REMOVED:
            self.followed.forget(event.container_id)

    async def _last_sample(self, container: ManagedContainer) -> Stats | None:
        try:
            async with asyncio.timeout(2.0):
                return await self._engine.stats(container.container_id)
        except (DockerRunnerError, TimeoutError) as error:
            log.info("no last sample of a run", container=container.name, reason=str(error))
            return None


def _labels(service: str, scope: str, segment: int | None = None) -> dict[str, str | None]:
    """Return the labels of the containers of *service* in *scope*, of one segment or of all."""
    labels: dict[str, str | None] = {Label.MANAGED: "true", Label.SERVICE: service, Label.SCOPE: scope}
    return labels if segment is None else {**labels, Label.SEGMENT: str(segment)}


def _is_refusal(error: Exception) -> bool:
    """Whether the bot's owner must correct it, or the caller must stop an earlier run or wait for room."""
    return isinstance(error, UserError | AlreadyRunning | NoRoom)


def _completed(ended: Ended, sample: Stats | None) -> Ended:
    """Return *ended*, with the usage of the last sample if a killed init could not sum up."""
    if sample is None or ended.reason is not EndReason.TIMEOUT:
        return ended
    peak = max(sample.memory_bytes, sample.peak_memory_bytes or 0, ended.peak_memory_bytes or 0)
    return replace(ended, cpu_seconds=sample.cpu_seconds, peak_memory_bytes=peak)
