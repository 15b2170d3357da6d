"""One run of a folder in the foreground: start its container, stream the output, stop it, remove it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from libs.core.errors import UserError
from libs.core.leases.boot_clock import boot_seconds
from libs.core.observability.log import get_logger
from libs.core.secrets.providers import ENVIRONMENT_PREFIX
from libs.core.secrets.sealing import ANY_OWNER
from libs.docker_runner.code.archives import extract
from libs.docker_runner.code.definition import CodeSources, ExecutableBuilder
from libs.docker_runner.containers.container import Ended, ManagedContainer, RunOutcome
from libs.docker_runner.containers.keepalive import KeepaliveFile
from libs.docker_runner.errors import DockerRunnerError, EngineUnavailable
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.logs.position import BEGINNING, Resumption, nanoseconds
from libs.docker_runner.runner import DockerRunner
from libs.docker_runner.settings import RunnerSettings
from tools.author.local.workplace import Workplace
from tools.bots.folder import BotFolder
from tools.bots.package import Package

log = get_logger(__name__)

STOP_SECONDS = 30.0
"""Between SIGTERM and SIGKILL, as in production."""

# Longer than a lease's: no other worker waits for this bot, and a busy machine must not end it.
_KEEPALIVE_SECONDS = 15.0
_REFRESH_SECONDS = 1.0
_POLL_SECONDS = 0.1
_QUEUED_PIECES = 4096
_CLEAN_UP_SECONDS = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class LocalPlace:
    """The location of code that is in no bucket."""

    bucket: str | None = None
    key: str = "local"
    sha256: str | None = None


@dataclass(frozen=True)
class LocalBot:
    """What is run: *folder*, whose config is that of the run. *environment* is that of its process."""

    id: str
    folder: BotFolder
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    revision = 0
    restart = ""
    trace: Mapping[str, str] = field(default_factory=dict)

    @property
    def bot(self) -> Mapping[str, Any]:
        """The description."""
        return self.folder.description

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the run."""
        return self.folder.config

    @property
    def version(self) -> str:
        """The author's version."""
        return self.folder.version

    @property
    def code(self) -> LocalPlace:
        """A place that needs no storage."""
        return LocalPlace()

    def owner(self, field: str) -> str:
        """The author, for every field."""
        return str(self.bot.get("author") or "")


@dataclass(frozen=True)
class LocalCode:
    """The unpacked package: the only code that there is."""

    path: Path
    etag: str

    async def fetch(self, ref: CodeRef, holder: str | None = None, *, etag: str | None = None) -> "LocalCode":
        """Return it."""
        return self

    async def release(self, holder: str) -> None:
        """Keep it."""

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Keep it."""
        return 0


def unpacked(package: Package, place: Workplace) -> LocalCode:
    """Unpack *package* in the folder of the run, as a worker would. Blocks."""
    archive = place.folder / "bot.zip"
    archive.write_bytes(package.content)
    extract(archive, place.folder / "code", "the folder")
    return LocalCode(place.folder / "code", package.digest)


def keepalive_of(place: Workplace) -> Path:
    """The folder of the keepalive file, which the container mounts."""
    return place.memory / "keepalive"


def settings_for(settings: RunnerSettings, place: Workplace, secrets: Mapping[str, str]) -> RunnerSettings:
    """Return *settings* with all files in *place*, and with *secrets* (variables), which the bot run here may use."""
    sources = settings.secrets
    environment = {**sources.environment, **secrets}
    names = [name.removeprefix(ENVIRONMENT_PREFIX) for name in environment]
    allowed = {**sources.allowed, **{name: frozenset({ANY_OWNER}) for name in names}}
    return replace(
        settings,
        temp_dir=place.folder,
        keepalive_dir=None,
        spec_dir=place.memory / "specs",
        secrets=replace(sources, environment=environment, allowed=allowed),
    )


def executable_of(
    bot: LocalBot, settings: RunnerSettings, place: Workplace, service: str, entrypoint: Entrypoint
) -> Executable:
    """Return what a worker would run for *bot*.

    Raises:
        UserError: a field of the description or of the config is wrong.
    """
    builder = ExecutableBuilder(
        settings=settings,
        service=service,
        scope=place.scope,
        entrypoint=entrypoint,
        code=CodeSources("local"),
        segment=0,
        epoch=0,
        worker="",
        keepalive=keepalive_of(place),
    )
    return replace(builder.build(bot), environment=bot.environment)


class LocalRun:
    """Runs *executable* by *runner*; *write* is given its output, and may block.

    Attributes:
        outcome: the result of a collected run, whose files are the caller's.
    """

    def __init__(
        self,
        runner: DockerRunner,
        executable: Executable,
        place: Workplace,
        write: Callable[[LogLine], None],
        report: Callable[[str], None],
        *,
        walls_seconds: float,
    ) -> None:
        self._runner = runner
        self._executable = executable
        self._place = place
        self._write = write
        self._report = report
        self._walls_seconds = walls_seconds
        self._signals = 0
        self._keepalive = KeepaliveFile(keepalive_of(place), _KEEPALIVE_SECONDS)
        self._container: ManagedContainer | None = None
        self._stopping: list[asyncio.Task[None]] = []
        self._starting: asyncio.Task[Any] | None = None
        self.outcome: RunOutcome | None = None

    async def carry_out(self, *, collect: bool = False) -> Ended:
        """Run it to its end. The first signal stops it, the second kills it.

        Args:
            collect: keep its output and its result, for :attr:`outcome`.

        Raises:
            asyncio.CancelledError: a signal came before it ran.
        """
        with _signals(self._on_signal):
            async with self._kept_alive():
                if self._signals:
                    raise asyncio.CancelledError
                self._place.is_vacant = False
                container = await self._started()
                try:
                    ended = await (self._collected(container) if collect else self._streamed(container))
                    if not collect:
                        await self._runner.remove(container)
                except BaseException:
                    await asyncio.shield(self._abandon(container))
                    raise
                else:
                    self._place.is_vacant = True
                    return ended
                finally:
                    for task in self._stopping:
                        task.cancel()
                    await asyncio.gather(*self._stopping, return_exceptions=True)

    async def _started(self) -> ManagedContainer:
        self._starting = asyncio.create_task(self._runner.start(self._executable), name="start")
        try:
            self._container = await self._starting
        except (DockerRunnerError, UserError) as error:
            self._place.is_vacant = not isinstance(error, EngineUnavailable)
            raise
        return self._container

    async def _collected(self, container: ManagedContainer) -> Ended:
        limit = self._executable.limits.result_bytes
        async with self._runner.collecting(container, limit, 0.0) as collection:
            await collection.during(self._streamed(container))
            self.outcome = await collection.take()
        return self.outcome.ended

    async def _streamed(self, container: ManagedContainer) -> Ended:
        """Write the output until the end, and return that. Reading and writing do not wait for each other."""
        pieces: asyncio.Queue[LogLine | None] = asyncio.Queue(_QUEUED_PIECES)
        writing = asyncio.create_task(self._written(pieces), name="write output")
        reading = asyncio.create_task(self._read(container, pieces), name="read output")
        try:
            await asyncio.wait((writing, reading), return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                # Its end before that of the output is a failure: the terminal is gone.
                writing.result()
            ended = await reading
            await writing
            return ended
        finally:
            for task in (writing, reading):
                task.cancel()
            await asyncio.gather(writing, reading, return_exceptions=True)

    async def _read(self, container: ManagedContainer, pieces: "asyncio.Queue[LogLine | None]") -> Ended:
        """Read the output until the end, and return that; None in *pieces* is the last one."""
        position = BEGINNING
        while True:
            ended = await self._runner.exit_info(container)
            resumption = Resumption(position)
            found = self._runner.logs(container, since=position.since, follow=ended is None)
            async with aclosing(found):
                async for piece in found:
                    if resumption.is_new(nanoseconds(piece.timestamp)):
                        await pieces.put(piece)
            position = resumption.position
            if ended is not None:
                await pieces.put(None)
                return ended
            await asyncio.sleep(_POLL_SECONDS)

    async def _written(self, pieces: "asyncio.Queue[LogLine | None]") -> None:
        """Write *pieces* in a thread, as many at a time as there are."""
        piece = await pieces.get()
        while piece is not None:
            batch = []
            while piece is not None:
                batch.append(piece)
                if pieces.empty():
                    break
                piece = pieces.get_nowait()
            await asyncio.to_thread(self._write_all, batch)
            if piece is not None:
                piece = await pieces.get()

    def _write_all(self, pieces: Sequence[LogLine]) -> None:
        for piece in pieces:
            self._write(piece)

    def _on_signal(self) -> None:
        self._signals += 1
        if self._container is None:
            if self._starting is not None:
                self._starting.cancel()
            return
        grace_seconds = STOP_SECONDS if self._signals == 1 else 0.0
        if self._signals == 1:
            self._report(f"stopping; it has {STOP_SECONDS:g} s, and another Ctrl-C kills it")
        if self._signals <= 2:
            stop = self._stop(self._container, grace_seconds)
            self._stopping.append(asyncio.create_task(stop, name=f"stop within {grace_seconds:g} s"))

    async def _stop(self, container: ManagedContainer, grace_seconds: float) -> None:
        try:
            await self._runner.stop(container, grace_seconds)
        except DockerRunnerError as error:
            self._report(f"it could not be stopped: {error}")

    async def _abandon(self, container: ManagedContainer) -> None:
        """Remove it after a failure; if that fails too, the janitor removes it."""
        try:
            async with asyncio.timeout(_CLEAN_UP_SECONDS):
                await self._runner.remove(container)
                self._place.is_vacant = True
        except (DockerRunnerError, TimeoutError) as error:
            log.warning("a run is left to its janitor", container=container.name, reason=str(error))

    @asynccontextmanager
    async def _kept_alive(self) -> AsyncIterator[None]:
        await asyncio.to_thread(self._refresh)
        tasks = [
            asyncio.create_task(self._refresh_always(), name="keepalive"),
            asyncio.create_task(self._renew_walls(), name="walls"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew_walls(self) -> None:
        """Restore the firewall's rules, and follow the addresses of the hosts that the bot may reach."""
        while True:
            await asyncio.sleep(self._walls_seconds)
            try:
                await self._runner.prepare()
            except DockerRunnerError as error:
                log.warning("the network of the run could not be renewed", reason=str(error))

    async def _refresh_always(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._refresh)
            except OSError as error:
                log.warning("the keepalive could not be refreshed", reason=str(error))
            await asyncio.sleep(_REFRESH_SECONDS)

    def _refresh(self) -> None:
        self._keepalive.refresh(boot_seconds() + _KEEPALIVE_SECONDS)


@contextmanager
def _signals(handle: Callable[[], None]) -> Iterator[None]:
    """Call *handle* for each signal of the terminal during the block."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
