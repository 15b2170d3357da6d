"""Start an Executable as a container; repeated or concurrent starts create at most one."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from libs.core.aio.key_locks import KeyLocks
from libs.core.aio.threads import Threads
from libs.core.observability.log import get_logger
from libs.core.observability.tracing import span, traceparent
from libs.core.process.isolation import isolated
from libs.core.secrets.references import references_in
from libs.core.secrets.resolver import SecretResolver
from libs.docker_runner.code.result_link import link_result
from libs.docker_runner.code.source import CodeSource, FetchedCode
from libs.docker_runner.containers.container import ContainerState, ManagedContainer, from_labels
from libs.docker_runner.containers.names import new_token, standby_name
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.containers.secret_label import label_of
from libs.docker_runner.containers.secret_masks import SecretMasks
from libs.docker_runner.containers.standbys import Standby, Standbys
from libs.docker_runner.containers.state_cache import ContainerStateCache
from libs.docker_runner.data.source import DataSource
from libs.docker_runner.engine.admission import Admission
from libs.docker_runner.engine.client import Engine, NameTaken, NoSuchImage
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.engine.images import Images
from libs.docker_runner.errors import (
    AlreadyRunning,
    DiskUnavailable,
    EngineUnavailable,
    EntrypointMissing,
    StartFailed,
)
from libs.docker_runner.executable import Executable, Network, script_files
from libs.docker_runner.sandbox import container_spec as sandbox
from libs.docker_runner.sandbox.narrowed_hosts import NarrowedHosts
from libs.docker_runner.sandbox.network import Attachment, BotNetwork
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.state.beginnings import Beginning
from libs.docker_runner.state.keeper import StateKeeper

log = get_logger(__name__)

_ROUNDS = 4


@dataclass(frozen=True)
class _Attempt:
    """One attempt, whose files carry a token that no other attempt has.

    Attributes:
        claim: of the state; None for a standby, which gets its state when it is let go.
    """

    executable: Executable
    name: str
    token: str
    code: FetchedCode
    data: Mapping[str, Path]
    claim: "asyncio.Task[Beginning | None] | None"

    @property
    def is_standby(self) -> bool:
        """Whether the container waits until it is let go."""
        return self.claim is None

    @property
    def engine_name(self) -> str:
        """The name under which the engine creates the container."""
        return standby_name(self.name) if self.is_standby else self.name


class Starter:
    """Starts containers on one engine; see :meth:`DockerRunner.start`."""

    def __init__(
        self,
        *,
        engine: Engine,
        states: ContainerStateCache,
        code: CodeSource,
        data: DataSource,
        images: Images,
        network: BotNetwork,
        admission: Admission,
        folders: RunFolders,
        threads: Threads,
        settings: RunnerSettings,
        secrets: SecretResolver,
        masks: SecretMasks,
        narrowed: NarrowedHosts,
        state_keeper: StateKeeper | None,
    ) -> None:
        self._engine = engine
        self._code = code
        self._data = data
        self._images = images
        self._network = network
        self._admission = admission
        self._folders = folders
        self._threads = threads
        self._settings = settings
        self._secrets = secrets
        self._masks = masks
        self._narrowed = narrowed
        self._state_keeper = state_keeper
        self._parallel = asyncio.Semaphore(settings.parallel_starts)
        # The second start of a name must see the container of the first one.
        self._names = KeyLocks()
        self.standbys = Standbys(engine, states, folders, threads, self._give_back)
        self._waiting: dict[str, Standby] = {}

    async def start(self, executable: Executable) -> ManagedContainer:
        """Return the running container of *executable*."""
        about = {
            "runtime.id": executable.id,
            "runtime.run_id": executable.run_id,
            "container.image.name": executable.placement.image,
        }
        with span("start container", attributes=about):
            return await self._start(executable, executable.name)

    async def check(self, executable: Executable) -> str:
        """Do the part of a start of *executable* that can be done beforehand; return the version of its code."""
        with span("check version"):
            await self._images.ensure(executable.placement.image)
            code = await self._code.fetch(executable.code, etag=executable.code_etag)
            await self._threads.run(check_script, code.path, executable.script, executable.runtime)
            await self._data.fetch(executable.data)
            await self._threads.run(self._secrets.resolve, executable.config, executable.owner)
            return code.etag

    async def stand_by(self, executable: Executable) -> None:
        """Create and start a standby for *executable*; see :meth:`DockerRunner.stand_by`."""
        with span("start standby"):
            async with self._names.of(standby_name(executable.name)):
                await self._created(executable, executable.name, None)

    async def drop_standby(self, executable: Executable) -> None:
        """Remove the standby of *executable*, if one waits."""
        standby = self._waiting.pop(executable.run_id, None)
        if standby is not None:
            await self.standbys.remove(standby.container)

    async def _start(self, executable: Executable, name: str) -> ManagedContainer:
        async with self._names.of(name), self._claimed(executable) as claim:
            standby = self._waiting.pop(executable.run_id, None)
            if standby is not None:

                async def lay_state(paths: sandbox.Paths) -> None:
                    await self._restored(executable, paths, claim)

                with span("let standby go"):
                    container = await self.standbys.let_go(standby, lay_state)
                if container is not None:
                    return container
            return await self._created(executable, name, claim)

    async def _created(
        self, executable: Executable, name: str, claim: "asyncio.Task[Beginning | None] | None"
    ) -> ManagedContainer:
        with span("find image"):
            await self._images.ensure(executable.placement.image)
        token = new_token()
        holder = holder_of(name, token)
        with span("fetch code"):
            code = await self._code.fetch(executable.code, holder, etag=executable.code_etag)
        used = False
        try:
            await self._threads.run(check_script, code.path, executable.script, executable.runtime)
            with _files_of_start():
                await self._threads.run(link_result, code.path)
            with span("fetch data"):
                data = await self._data.fetch(executable.data, holder)
            async with self._parallel:
                container = await self._made(_Attempt(executable, name, token, code, data, claim))
            used = container.token == token
        except (EngineUnavailable, asyncio.CancelledError):
            # It may be running or start later: its files stay until it was checked.
            used = True
            raise
        finally:
            if not used:
                await asyncio.shield(self._give_back(executable.scope, name, token))
        return container

    async def _made(self, attempt: _Attempt) -> ManagedContainer:
        executable = attempt.executable
        paths, attachment, secrets = await self._prepared(attempt)
        for _ in range(_ROUNDS):
            try:
                # Only until it is created: then it counts by itself, and others need not wait for its start.
                with span("create container"):
                    count = 1 if executable.query is None else 2
                    request = replace(executable.room, name=attempt.engine_name)
                    async with self._admission.admitted(request, count) as (user, *others):
                        query_user = others[0] if others else None
                        await self._told(paths, executable, user, query_user)
                        body = sandbox.container_body(
                            executable,
                            paths=paths,
                            code_etag=attempt.code.etag,
                            token=attempt.token,
                            user=user,
                            query_user=query_user,
                            attachment=attachment,
                            settings=self._settings,
                            secrets=secrets,
                        )
                        container_id = await self._engine.create(attempt.engine_name, body)
                return await self._started(attempt, paths, container_id, body["Labels"])
            except NameTaken:
                alive = await self._resolved(attempt)
                if alive is not None:
                    return alive
            except NoSuchImage:
                self._images.forget(executable.placement.image)
                await self._images.ensure(executable.placement.image)
            except EngineRefused as error:
                raise StartFailed(attempt.name, error.message) from error
        raise StartFailed(attempt.name, f"its name was taken again {_ROUNDS} times")

    async def _prepared(self, attempt: _Attempt) -> tuple[sandbox.Paths, Attachment | None, str]:
        """Return the files of a start, its attachment to the network, and its label about secrets."""
        executable = attempt.executable
        # Before anything is created: an unknown secret leaves nothing behind.
        resolved = await self._threads.run(self._secrets.resolve, executable.config, executable.owner)
        attachment = None
        if executable.placement.network is Network.BRIDGE:
            attachment = await self._network.ensure(self._folders.entrypoints)
        with _files_of_start():
            paths = await self._threads.run(
                self._folders.create,
                executable,
                attempt.name,
                attempt.token,
                attempt.code.path,
                # The bot's span is a child of its start. The event's span is used by callers without a span.
                traceparent() or executable.traceparent,
                resolved if resolved.values else None,
                is_standby=attempt.is_standby,
            )
        paths = replace(paths, data=attempt.data)
        if attempt.claim is not None:
            await self._restored(executable, paths, attempt.claim)
        secrets = ""
        if resolved.values:
            references = references_in(executable.config)
            secrets = await self._threads.run(label_of, references, executable.owner, resolved.values, attempt.token)
        self._masks.remember(attempt.token, resolved.values)
        if executable.egress is not None and paths.hosts is not None:
            with span("open hosts"), _files_of_start():
                await self._narrowed.admit(executable.egress, attempt.token, paths.hosts, self._folders.entrypoints)
        return paths, attachment, secrets

    async def _restored(
        self, executable: Executable, paths: sandbox.Paths, claim: "asyncio.Task[Beginning | None]"
    ) -> None:
        begins = await claim
        if self._state_keeper is not None and paths.state is not None:
            await self._state_keeper.beginnings.restore(executable, begins, paths.state)

    async def _told(self, paths: sandbox.Paths, executable: Executable, user: int, query_user: int | None) -> None:
        state_bytes = self._settings.state_bytes
        with _files_of_start():
            await self._threads.run(self._folders.tell_init, paths, executable, user, state_bytes, query_user)

    async def _started(
        self, attempt: _Attempt, paths: sandbox.Paths, container_id: str, labels: dict[str, str]
    ) -> ManagedContainer:
        try:
            with span("run container"):
                await self._engine.start(container_id)
        except EngineRefused as error:
            await self._engine.remove(container_id)
            # The network may have been removed, or the engine replaced.
            self._network.forget()
            raise StartFailed(attempt.name, error.message) from error
        container = from_labels(
            labels,
            container_id=container_id,
            name=attempt.engine_name,
            state=ContainerState.RUNNING,
            started_at=datetime.now(UTC),
        )
        if attempt.is_standby:
            self._waiting[container.run_id] = Standby(container, paths)
        return container

    async def _resolved(self, attempt: _Attempt) -> ManagedContainer | None:
        """Return the existing container of that name, if it has the same spec; None when the name is free again."""
        found = await self._engine.inspect(attempt.engine_name)
        if found is None:
            return None
        container = found.container
        if container.was_standby:
            container = await self.standbys.seen(container)
        if container.state is not ContainerState.RUNNING or container.is_standby:
            await self._engine.remove(container.container_id)
            await self._give_back(container.scope, container.name, container.token)
            return None
        if self._state_keeper is not None and container.run_id != attempt.executable.run_id:
            await self._state_keeper.claim_again(container)
        same_code = container.code_etag == attempt.code.etag
        if container.spec_hash == attempt.executable.spec_hash() and same_code:
            return container
        raise AlreadyRunning(attempt.name, container.run_id)

    @asynccontextmanager
    async def _claimed(self, executable: Executable) -> AsyncIterator["asyncio.Task[Beginning | None]"]:
        """Claim the state of *executable*, while its image and its code are looked for."""

        async def claim() -> Beginning | None:
            return await self._state_keeper.beginnings.claim(executable) if self._state_keeper is not None else None

        claiming = asyncio.create_task(claim(), name=f"claim the state of {executable.id}")
        try:
            yield claiming
        finally:
            claiming.cancel()
            await asyncio.gather(claiming, return_exceptions=True)

    async def _give_back(self, scope: str, name: str, token: str) -> None:
        if token:
            await self._threads.run(self._folders.remove, scope, name, token)
            # A pin that stays is dropped later, when no container has its name.
            with isolated("release code"):
                await self._code.release(holder_of(name, token))


def holder_of(name: str, token: str) -> str:
    """Return the name under which one start of the container *name* pins its code."""
    return f"{name}.{token}"


def check_script(code: Path, script: str, runtime: str) -> None:
    """Return the path of *script*, a file inside *code*; for Node the suffix is optional.

    Raises:
        EntrypointMissing: there is no such file.
    """
    if "\0" in script or os.path.isabs(script):
        raise EntrypointMissing(script, "must be a path inside the bot's archive")
    root = os.path.realpath(code)
    for file in script_files(script, runtime):
        path = os.path.realpath(os.path.join(root, file))
        if not path.startswith(root + os.sep):
            raise EntrypointMissing(script, "must be a path inside the bot's archive")
        if os.path.isfile(path):
            return
    raise EntrypointMissing(script, "is not in the bot's archive")


@contextmanager
def _files_of_start() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskUnavailable("the files of a start", error) from error
