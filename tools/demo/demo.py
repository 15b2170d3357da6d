"""The demonstration: deploy bots, a backtest and a schedule from their folders, and show their runs."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, SERVICES, ServiceDefinition
from libs.core.run_record import RunRecord
from tools import samples
from tools.backtests.findings import Findings
from tools.bots.deploying import Upload, announce, upload
from tools.bots.folder import read_folder
from tools.bots.package import pack
from tools.cli.connections import Connections, Target, connected
from tools.cli.interrupts import uninterrupted, while_running
from tools.demo.bots import BotsPart
from tools.demo.jobs import Jobs
from tools.demo.run_rows import RunRow, run_rows
from tools.demo.screen import Screen
from tools.demo.watch import OutputWatch
from tools.dev.containers import Containers
from tools.dev.stack import Stack
from tools.engine.ensure import Engine, ensure_engine
from tools.images.ensure import ensure_images

_SAMPLES = Path(samples.__file__).parent
# One bot per segment, so that both workers run one.
_SETTINGS = {"MAX_BOTS_PER_PARTITION": "1"}
_SCHEDULED_RUNS = 2
_SHUTDOWN_SECONDS = 10.0


@dataclass(frozen=True)
class Shown:
    """The result of the demonstration: the list of runs, the backtest's result, and the schedule's runs."""

    rows: Sequence[RunRow]
    backtest: Findings
    scheduled: Sequence[RunRecord]

    def as_json(self) -> Mapping[str, Any]:
        """Return the same as JSON."""
        return {"runs": [asdict(row) for row in self.rows], "metrics": dict(self.backtest.metrics)}


class Demo:
    """One demonstration in *directory*, which is emptied first."""

    def __init__(self, directory: Path, screen: Screen) -> None:
        self._directory = directory
        self._screen = screen
        self._engine: Engine | None = None
        self._ticker = read_folder(_SAMPLES / "price_ticker")
        self._average = read_folder(_SAMPLES / "moving_average")
        self._crossover = read_folder(_SAMPLES / "moving_average_crossover", kind="backtest")
        self._rebalance = read_folder(_SAMPLES / "rebalance")

    async def run(self) -> Shown:
        """Run the demonstration, and always remove its containers and processes."""
        stack = Stack(self._directory, tethered=True, settings=_SETTINGS)
        try:
            await self._clean(stack)
            stack.reserve_ports()
            where = Target({**_SETTINGS, **stack.environment}, f"the demo in {self._directory}")
            async with connected(where) as servers:
                uploads = await self._begin(stack, servers)
                return await self._play(stack, servers, uploads)
        finally:
            await uninterrupted(self._end(stack))

    # --- before and after

    async def _clean(self, stack: Stack) -> None:
        """Remove the containers that a killed demo has left; its bots have ended by themselves."""
        if not stack.state.scopes:
            return
        engine = await ensure_engine()
        async with Containers(engine.url, stack.state.scopes, stack.directory) as containers:
            await containers.remove_all()
        for part in stack.state.parts:
            await part.process.stop(grace_seconds=5)
        stack.purge()

    async def _begin(self, stack: Stack, servers: Connections) -> list[tuple[ServiceDefinition, Upload]]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._start_servers(stack), name="servers")
            await self._prepare_engine()
            # They wait for the servers themselves; loading their code takes most of the time.
            stack.launch_services()
        async with asyncio.TaskGroup() as tasks:
            uploading = tasks.create_task(self._upload(servers), name="upload")
            for service in SERVICES:
                tasks.create_task(self._await_service(stack, service), name=f"wait for {service.name}")
        return uploading.result()

    async def _prepare_engine(self) -> None:
        with self._screen.step("Docker engine") as report:
            self._engine = await ensure_engine(report)
        with self._screen.step("images for Python and Node bots") as report:
            await ensure_images(self._engine, report)

    async def _start_servers(self, stack: Stack) -> None:
        with self._screen.step("MongoDB, NATS with JetStream, and an S3 server"):
            await stack.start_servers()

    async def _await_service(self, stack: Stack, service: ServiceDefinition) -> None:
        workers = "two workers" if service is BOT_RUNNER else "a worker"
        with self._screen.step(f"{service.name}: a master and {workers}, each a process of its own"):
            await stack.wait_ready(service)

    async def _upload(self, servers: Connections) -> list[tuple[ServiceDefinition, Upload]]:
        """Announce everything; the schedule first, since it has to wait until it is due."""
        folders = [
            (BOT_SCHEDULER, self._rebalance),
            (BOT_RUNNER, self._ticker),
            (BOT_RUNNER, self._average),
            (BACKTEST_RUNNER, self._crossover),
        ]
        uploads = []
        for service, folder in folders:
            package = await asyncio.to_thread(pack, folder.path)
            uploads.append((service, await upload(servers, service, folder, folder.name, package)))
        await servers.jetstream()
        return uploads

    async def _end(self, stack: Stack) -> None:
        with self._screen.step("stopping everything"):
            await stack.stop(self._engine, grace_seconds=_SHUTDOWN_SECONDS)

    # --- the steps

    async def _play(
        self, stack: Stack, servers: Connections, uploads: Sequence[tuple[ServiceDefinition, Upload]]
    ) -> Shown:
        assert self._engine is not None
        self._screen.heading(
            "Two bots, a schedule and a backtest are announced on NATS (the0.bot.created and its like). They print:"
        )
        for service, uploaded in uploads:
            await announce(servers, service, await servers.entities(service), uploaded, uploaded.folder.config)
        async with Containers(self._engine.url, stack.state.scopes) as containers:
            watch = OutputWatch(containers, self._show_line)
            return await while_running(watch.run(), self._acts(servers, watch))

    async def _acts(self, servers: Connections, watch: OutputWatch) -> Shown:
        logs = self._directory / "logs"
        jobs = Jobs(servers, logs)
        bots = BotsPart(servers, watch, self._screen, ticker=self._ticker, average=self._average, logs=logs)
        async with asyncio.TaskGroup() as tasks:
            found = tasks.create_task(jobs.backtest(self._crossover.name), name="backtest")
            runs = tasks.create_task(jobs.schedule(self._rebalance.name, _SCHEDULED_RUNS), name="schedule")
            tasks.create_task(bots.play(), name="bots")
        return Shown(await run_rows(servers), found.result(), runs.result())

    def _show_line(self, entity_id: str, line: str) -> None:
        # The backtest's many trades would hide the rest, and its result is shown separately.
        if entity_id != self._crossover.name and not line.startswith("{"):
            self._screen.line(entity_id, line)
