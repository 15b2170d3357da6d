"""The init of a pod as a plain process of this host, and a worker that speaks with it, for tests."""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from libs.docker_runner.pods.link import (
    End,
    OutcomePart,
    Output,
    Part,
    Phase,
    PodLink,
    Question,
    Record,
    Report,
    StartRefused,
    StatePart,
    Welcome,
    records_in,
)
from tests.support.eventually import eventually
from tests.support.rigs.bot_process import COMMANDS, BotProcess, init_program

_SECONDS = 30.0


@dataclass
class PodInit:
    """A running init, which waits for a worker."""

    bot: BotProcess
    process: asyncio.subprocess.Process
    port: int
    key: bytes
    links: list[PodLink] = field(default_factory=list)

    async def connect(self, *, epoch: int = 1, offset: int = 0, key: bytes | None = None) -> "FakeWorker":
        """Connect as a worker."""
        link, welcome = await PodLink.open("127.0.0.1", self.port, key or self.key, epoch=epoch, offset=offset)
        self.links.append(link)
        return FakeWorker(self, link, welcome)

    async def exit_code(self) -> int:
        """Return the exit code of the init, once it has ended."""
        async with asyncio.timeout(_SECONDS):
            return await self.process.wait()


@dataclass
class FakeWorker:
    """A worker that grants *lease_seconds* with each answer, or nothing while that is None."""

    init: PodInit
    link: PodLink
    welcome: Welcome
    lease_seconds: float | None = 5.0
    output: bytearray = field(default_factory=bytearray)
    output_begin: int = 0
    outcome: bytearray = field(default_factory=bytearray)
    state: bytearray = field(default_factory=bytearray)

    async def until(self, is_it: Callable[[Report], bool]) -> Report:
        """Return the first report that *is_it*, and serve the others meanwhile."""
        async with asyncio.timeout(_SECONDS):
            while True:
                report = await self.link.receive()
                await self._serve(report)
                if is_it(report):
                    return report

    async def start(self) -> Report:
        """Send the bot's code, have it started, and return the answer."""
        await self.until(lambda report: isinstance(report, Question))
        bot = self.init.bot
        await self.link.put_file(str(bot.code / "sent.txt"), b"sent" * 20_000)
        await self.link.start([*COMMANDS[bot.runtime], str(bot.base)])
        return await self.until(
            lambda report: isinstance(report, StartRefused)
            or (isinstance(report, Welcome) and report.phase is Phase.RUNNING)
        )

    async def until_printed(self, text: bytes) -> None:
        """Return when the output has *text*."""
        await self.until(lambda _: text in self.printed)

    async def until_end(self) -> End:
        """Return the end of the bot."""
        end = await self.until(lambda report: isinstance(report, End))
        assert isinstance(end, End)
        return end

    @property
    def records(self) -> list[Record]:
        return records_in(bytes(self.output))[0]

    @property
    def printed(self) -> bytes:
        return b"".join(record.data for record in self.records)

    async def _serve(self, report: Report) -> None:
        match report:
            case Question() if self.lease_seconds is not None:
                await self.link.grant(report, self.lease_seconds)
            case Output():
                if not self.output:
                    self.output_begin = report.offset
                assert report.offset == self.output_begin + len(self.output)
                self.output += report.data
            case OutcomePart():
                _put(self.outcome, report)
            case StatePart():
                _put(self.state, report)


def _put(whole: bytearray, part: Part) -> None:
    if part.offset == 0:
        whole.clear()
    assert len(whole) == part.offset
    whole += part.data


@asynccontextmanager
async def pod_init(directory: Path, source: str, *, state: bool = False) -> AsyncIterator[PodInit]:
    """Run the init of a pod whose bot is the Python *source*."""
    bot = BotProcess(directory, "python3.11", {"main.py": source}, "main.py")
    (bot.base / "private" / "outcome").unlink()
    if state:
        for folder in (directory / "state", bot.base / "private" / "state"):
            folder.mkdir()
        with (bot.base / "spec" / "init.conf").open("a") as file:
            file.write(f"state={directory / 'state'}\nstate_bytes=1000000\nstate_files=100\nstate_kept=1\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = secrets.token_bytes(32)
    process = await asyncio.create_subprocess_exec(
        str(init_program()),
        *("--pod", str(port), str(bot.base)),
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "THE0_LINK_KEY": key.hex()},
        cwd=bot.code,
    )
    init = PodInit(bot, process, port, key)
    try:
        await eventually(lambda: _listens(port), _SECONDS)
        yield init
    finally:
        for link in init.links:
            await link.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
