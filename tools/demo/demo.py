"""The demonstration: two bots from their folders to containers, changed, removed, and what was seen of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libs.core.errors import Permanent
from libs.core.run_record import RunRecord
from libs.core.service import BOT_RUNNER
from libs.core.store.entities import Entity
from libs.core.store.runs import RunFilter, RunStore
from tools import samples
from tools.bots.announce import Announcer, deployment, reconfigured
from tools.bots.folder import BotFolder, read_folder
from tools.bots.package import pack
from tools.cli.connections import Connections, Target, connected
from tools.cli.interrupts import uninterrupted
from tools.demo.screen import Screen
from tools.demo.watch import OutputWatch, while_running
from tools.dev.containers import Containers
from tools.dev.stack import Stack
from tools.engine.ensure import Engine, ensure_engine
from tools.images.ensure import ensure_images

_SAMPLES = Path(samples.__file__).parent
# One bot a segment, so that both workers have something to do.
_SETTINGS = {"MAX_BOTS_PER_PARTITION": "1"}
_START_SECONDS = 30.0
_LINES = 4
_SHUTDOWN_SECONDS = 10.0


class DemoFailed(Permanent):
    """Something did not happen as it should; the message says what and where to look."""


@dataclass(frozen=True)
class RunRow:
    """One run of one bot, for the table at the end. *restarts*: how many runs it had before this one."""

    bot: str
    runtime: str
    worker: str
    segment: int
    container: str
    seconds: float
    restarts: int
    status: str


class Demo:
    """One demonstration in *directory*, which is emptied first."""

    def __init__(self, directory: Path, screen: Screen) -> None:
        self._directory = directory
        self._screen = screen
        self._engine: Engine | None = None
        self._ticker = read_folder(_SAMPLES / "price_ticker")
        self._average = read_folder(_SAMPLES / "moving_average")

    async def run(self) -> list[RunRow]:
        """Show everything once, and leave neither container nor process behind, however it ends."""
        stack = Stack(self._directory, tethered=True, settings=_SETTINGS)
        try:
            await self._begin(stack)
            where = Target({**_SETTINGS, **stack.environment}, f"the demo in {self._directory}")
            async with connected(where) as servers:
                rows = await self._play(servers, stack)
        finally:
            await uninterrupted(self._end(stack))
        return rows

    # --- before and after

    async def _begin(self, stack: Stack) -> None:
        await self._clean(stack)
        stack.reserve_ports()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._start_servers(stack), name="servers")
            await self._prepare_engine()
            # They wait for the servers themselves; loading their code is what takes the time.
            stack.launch_services()
        with self._screen.step("bot-runner: one master and two workers, each a process of its own"):
            await stack.wait_ready()

    async def _clean(self, stack: Stack) -> None:
        """What a demo that was killed has left: its bots have ended by themselves, their containers are still there."""
        if not stack.state.scopes:
            return
        engine = await ensure_engine()
        async with Containers(engine.url, stack.state.scopes, stack.directory) as containers:
            await containers.remove_all()
        for part in stack.state.parts:
            await part.process.stop(grace_seconds=5)
        stack.purge()

    async def _prepare_engine(self) -> None:
        with self._screen.step("Docker engine") as report:
            self._engine = await ensure_engine(report)
        with self._screen.step("images for Python and Node bots") as report:
            await ensure_images(self._engine, report)

    async def _start_servers(self, stack: Stack) -> None:
        with self._screen.step("MongoDB, NATS with JetStream, and an S3 server"):
            await stack.start_servers()

    async def _end(self, stack: Stack) -> None:
        with self._screen.step("stopping everything"):
            await stack.stop(self._engine, grace_seconds=_SHUTDOWN_SECONDS)

    # --- the story

    async def _play(self, servers: Connections, stack: Stack) -> list[RunRow]:
        assert self._engine is not None
        async with Containers(self._engine.url, stack.state.scopes) as containers:
            watch = OutputWatch(containers, self._screen.line)
            await while_running(watch.run(), self._acts(servers, watch))
            return await self._rows(servers)

    async def _acts(self, servers: Connections, watch: OutputWatch) -> None:
        await self._deploy(servers, watch)
        await self._change(servers, watch)
        await self._remove(servers, watch)

    async def _deploy(self, servers: Connections, watch: OutputWatch) -> None:
        self._screen.heading("Two bots are uploaded and announced with the0.bot.created; this is what they print:")
        announcer = Announcer(await servers.jetstream(), BOT_RUNNER)
        storage, bucket = servers.storage(), servers.storage_settings().code_bucket
        await storage.ensure_bucket(bucket)
        for folder in (self._ticker, self._average):
            package = pack(folder.path)
            key = package.key(folder.name)
            await storage.put(bucket, key, package.content, "application/zip")
            await announcer.created(deployment(folder.name, folder, folder.config, key, None))
        await self._expect(
            watch,
            "both bots to print",
            lambda: all(len(watch.lines(folder.name)) >= _LINES for folder in (self._ticker, self._average)),
        )

    async def _change(self, servers: Connections, watch: OutputWatch) -> None:
        symbol = "SOL-USD"
        name = self._ticker.name
        self._screen.heading(f"{name} gets another config (the0.bot.updated): it restarts with symbol {symbol}:")
        known = await self._entity(servers, self._ticker)
        config = {**known.config, "symbol": symbol, "start_price": 150}
        await Announcer(await servers.jetstream(), BOT_RUNNER).updated(reconfigured(known, config))
        await self._expect(
            watch,
            f"{name} to print {symbol}",
            lambda: sum(symbol in line for line in watch.lines(name)) >= _LINES,
        )

    async def _remove(self, servers: Connections, watch: OutputWatch) -> None:
        name = self._average.name
        self._screen.heading(f"{name} is deleted (the0.bot.deleted): its container goes, the other bot runs on:")
        known = await self._entity(servers, self._average)
        await Announcer(await servers.jetstream(), BOT_RUNNER).deleted(name, known.config)
        printed = len(watch.lines(self._ticker.name))
        await self._expect(
            watch,
            f"the container of {name} to go",
            lambda: not watch.containers_of(name) and len(watch.lines(self._ticker.name)) > printed,
        )

    async def _expect(self, watch: OutputWatch, what: str, condition: Any) -> None:
        try:
            await watch.until(condition, _START_SECONDS)
        except TimeoutError:
            raise DemoFailed(
                f"waited {_START_SECONDS:g} s for {what}; the logs of the processes are in {self._directory / 'logs'}"
            ) from None

    async def _entity(self, servers: Connections, folder: BotFolder) -> Entity:
        known = await (await servers.entities(BOT_RUNNER)).get(folder.name)
        if known is None:
            raise DemoFailed(f"bot {folder.name!r} is not in MongoDB any more")
        return known

    async def _rows(self, servers: Connections) -> list[RunRow]:
        runs = RunStore(await servers.database(BOT_RUNNER))
        rows = []
        for folder in (self._ticker, self._average):
            found = sorted(await runs.list(RunFilter(entity_id=folder.name)), key=lambda run: run.started_at)
            rows += [_row(folder, run, restarts) for restarts, run in enumerate(found)]
        return rows


def as_json(rows: list[RunRow]) -> list[Mapping[str, Any]]:
    """The table for programs."""
    return [asdict(row) for row in rows]


def _row(folder: BotFolder, run: RunRecord, restarts: int) -> RunRow:
    return RunRow(
        bot=run.entity_id,
        runtime=str(folder.description["runtime"]),
        worker=run.worker_id,
        segment=run.segment_id,
        container=(run.container_id or "")[:12],
        seconds=((run.ended_at or datetime.now(UTC)) - run.started_at).total_seconds(),
        restarts=restarts,
        status="running" if run.ended_at is None else run.reason or "ended",
    )
