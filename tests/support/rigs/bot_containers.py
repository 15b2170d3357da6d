"""A docker runner whose bots' code is written by the test into a folder."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libs.docker_runner.data.source import DataSource
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.engine.events import ContainerEvent
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Limits
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.runner import DockerRunner, ManagedContainer, RunOutcome
from libs.docker_runner.sandbox.narrowed_hosts import resolved
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.state.keeper import StateKeeper
from tests.support.eventually import eventually
from tests.support.rigs.single_run import SingleRun

SCRIPTS = {"python3.11": "main.py", "nodejs20": "main.js"}


@dataclass(frozen=True)
class Tree:
    """Code in a folder."""

    path: Path
    etag: str


@dataclass
class FolderCode:
    """A code source whose key is the name of a folder; records the holders of code."""

    directory: Path
    held: dict[str, str] = field(default_factory=dict)

    async def fetch(self, ref: CodeRef, holder: str | None = None, *, etag: str | None = None) -> Tree:
        """Return the folder *ref.key*."""
        if holder is not None:
            self.held[holder] = ref.key
        return Tree(self.directory / ref.key, f"etag-{ref.key}")

    async def release(self, holder: str) -> None:
        """Forget *holder*."""
        self.held.pop(holder, None)

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Keep all of them."""
        return 0


class BotContainers:
    """Bots of one scope on one engine."""

    def __init__(self, runner: DockerRunner, code: FolderCode, settings: RunnerSettings, scope: str) -> None:
        self.runner = runner
        self.code = code
        self.settings = settings
        self.scope = scope

    def executable(
        self,
        source: str,
        id: str = "b1",  # noqa: A002 - as the contract calls it
        *,
        runtime: str = "python3.11",
        files: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        **more: Any,
    ) -> Executable:
        """Return a bot whose entrypoint has the text *source*."""
        script = more.pop("script", SCRIPTS[runtime])
        contents = {script: source, **(files or {})}
        key = hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()[:16]
        for name, text in contents.items():
            path = self.code.directory / key / name
            # Not written again: a bot with the same code may be reading it.
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return Executable(
            id=id,
            service=more.pop("service", "bot-runner"),
            scope=self.scope,
            runtime=runtime,
            entrypoint=more.pop("entrypoint", Entrypoint.BOT),
            script=script,
            code=CodeRef("bots", key),
            placement=more.pop("placement", None) or self.settings.placement(runtime),
            limits=limits or self.settings.limits,
            segment=more.pop("segment", 1),
            **more,
        )

    async def run(self, source: str, *, timeout_seconds: float = 240.0, **more: Any) -> tuple[RunOutcome, str]:
        """Run such a bot to its end; return its result and output."""
        outcome = await self.outcome(self.executable(source, **more), timeout_seconds)
        output = outcome.output_path.read_text(errors="replace")
        outcome.discard()
        return outcome, output

    async def outcome(
        self,
        executable: Executable,
        timeout_seconds: float = 240.0,
        on_output: Callable[[LogLine], object] = lambda line: None,
    ) -> RunOutcome:
        """Run *executable* to its end; its files are the caller's."""
        return await SingleRun(self.runner, executable, timeout_seconds, on_output).outcome()

    async def list(self) -> list[ManagedContainer]:
        """All containers of the scope's bot-runner."""
        return await self.runner.list("bot-runner", self.scope)


@asynccontextmanager
async def bot_containers(
    directory: Path,
    scope: str,
    url: str,
    resolve: Callable[[str], list[str]] = resolved,
    data: DataSource | None = None,
    states: StateKeeper | None = None,
    **settings: Any,
) -> AsyncIterator[BotContainers]:
    """A runner with its folders in *directory*, for which *resolve* finds the addresses of hosts, *data* data sets."""
    chosen = RunnerSettings(temp_dir=directory / "runtime", **settings)
    code = FolderCode(directory / "code")
    runner = DockerRunner(Engine(url, chosen.engine_timeout_seconds), code, chosen, resolve, data, states)
    try:
        await runner.open()
        yield BotContainers(runner, code, chosen, scope)
    finally:
        await runner.close()


@asynccontextmanager
async def watched(bots: BotContainers) -> AsyncIterator[list[ContainerEvent]]:
    """The events of all bots so far, from the first RESYNC on."""
    events: list[ContainerEvent] = []

    with bots.runner.watch.listening(events.append, "bot-runner", bots.scope):
        watching = asyncio.create_task(bots.runner.watch.run())
        try:
            await eventually(lambda: events)
            yield events
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
