"""The bots' part of the demonstration: both run, one gets another config, the other one is deleted."""

from collections.abc import Callable
from pathlib import Path

from libs.core.process.service import BOT_RUNNER
from libs.core.store.entities import Entity
from tools.bots.announce import Announcer, reconfigured
from tools.bots.folder import BotFolder
from tools.cli.connections import Connections
from tools.demo.errors import DemoFailed
from tools.demo.screen import Screen
from tools.demo.watch import OutputWatch

_SECONDS = 120.0
_LINES = 3
_SYMBOL = "SOL-USD"


class BotsPart:
    """Changes *ticker* and deletes *average*, which are already announced.

    Args:
        logs: the folder that errors point to.
    """

    def __init__(
        self,
        servers: Connections,
        watch: OutputWatch,
        screen: Screen,
        *,
        ticker: BotFolder,
        average: BotFolder,
        logs: Path,
    ) -> None:
        self._servers = servers
        self._watch = watch
        self._screen = screen
        self._ticker = ticker
        self._average = average
        self._logs = logs

    async def play(self) -> None:
        """Raise DemoFailed when a step of a bot times out."""
        bots = (self._ticker, self._average)
        await self._expect(
            "both bots to print", lambda: all(len(self._watch.lines(folder.name)) >= _LINES for folder in bots)
        )
        await self._change()
        await self._remove()

    async def _change(self) -> None:
        name = self._ticker.name
        self._screen.heading(f"{name} gets another config (the0.bot.updated): it restarts with symbol {_SYMBOL}:")
        known = await self._entity(name)
        config = {**known.config, "symbol": _SYMBOL, "start_price": 150}
        await Announcer(await self._servers.jetstream(), BOT_RUNNER).updated(reconfigured(known, config))
        await self._expect(
            f"{name} to print {_SYMBOL}",
            lambda: sum(_SYMBOL in line for line in self._watch.lines(name)) >= _LINES,
        )

    async def _remove(self) -> None:
        name = self._average.name
        self._screen.heading(
            f"{name} is deleted (the0.bot.deleted): its container is removed, the other bot keeps running:"
        )
        known = await self._entity(name)
        await Announcer(await self._servers.jetstream(), BOT_RUNNER).deleted(name, known.config)
        printed = len(self._watch.lines(self._ticker.name))
        await self._expect(
            f"the container of {name} to go",
            lambda: not self._watch.containers_of(name) and len(self._watch.lines(self._ticker.name)) > printed,
        )

    async def _expect(self, what: str, condition: Callable[[], bool]) -> None:
        try:
            await self._watch.until(condition, _SECONDS)
        except TimeoutError:
            raise DemoFailed(
                f"waited {_SECONDS:g} s for {what}; the logs of the processes are in {self._logs}"
            ) from None

    async def _entity(self, bot_id: str) -> Entity:
        known = await (await self._servers.entities(BOT_RUNNER)).get(bot_id)
        if known is None:
            raise DemoFailed(f"bot {bot_id!r} is no longer in MongoDB")
        return known
