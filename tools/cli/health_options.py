"""Options of commands that deploy a new version of a bot: the health window and the rollback."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from libs.core.process.service import BOT_RUNNER
from libs.core.store.releases import ROLLBACK_FIELD
from libs.core.store.runs import RunStore
from tools.bots.outcome import HealthWatch, Settled
from tools.cli.bot_waiting import WAIT_SECONDS, in_time
from tools.cli.connections import Connections
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_SECONDS = 10.0


@dataclass(frozen=True)
class Health:
    """The time for which the new version is watched, and whether its end in that time triggers a rollback."""

    window_seconds: float
    rollback: bool

    @property
    def is_watched(self) -> bool:
        """Whether the command waits at all."""
        return self.window_seconds > 0

    @property
    def fields(self) -> dict[str, Any]:
        """The event's additional fields that request the rollback."""
        if not self.is_watched or not self.rollback:
            return {}
        return {ROLLBACK_FIELD: {"window_seconds": self.window_seconds}}

    async def watch(self, servers: Connections, bot_id: str, updated_at: str) -> dict[str, Any]:
        """Wait for the window to pass, and return the state then; empty when the command does not wait.

        Raises:
            BotNotRunning: the version does not run.
            Failure: it did not start in time.
        """
        if not self.is_watched:
            return {}
        try:
            watch = HealthWatch(
                await servers.entities(BOT_RUNNER),
                RunStore(await servers.database(BOT_RUNNER)),
                bot_id,
                updated_at,
                window_seconds=self.window_seconds,
                start_seconds=WAIT_SECONDS,
            )
            return _facts(await in_time(watch.until_healthy()))
        except asyncio.CancelledError:
            raise Failure(
                f"interrupted; the new version of {bot_id!r} was published, and the workers continue with it: "
                "`runtime bot ls` shows it",
                ExitCode.INTERRUPTED,
            ) from None


def health_options(command: F) -> F:
    """Add the options that :func:`health_of` reads."""
    command = click.option("--no-wait", is_flag=True, hidden=True, help="The same as --wait 0.")(command)
    command = click.option(
        "--no-rollback", is_flag=True, help="Keep the new version even if it fails while it is watched."
    )(command)
    return click.option(
        "--wait",
        "wait_seconds",
        type=click.FloatRange(0, 3600),
        default=_DEFAULT_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="Seconds that the new version must run before the command succeeds; 0 returns at once, never rolls back.",
    )(command)


def health_of(wait_seconds: float, no_wait: bool, no_rollback: bool) -> Health:
    """Return the values of the options."""
    return Health(0.0 if no_wait else wait_seconds, not no_rollback)


def health_text(data: dict[str, Any]) -> str:
    """Return the result as the end of a sentence; "" when the command did not wait."""
    if "state" not in data:
        return ""
    healthy = f", healthy for {data['healthy_seconds']:g} s" if data["healthy_seconds"] else ""
    where = f", on {data['worker']} (segment {data['segment']})" if data["worker"] else ""
    detail = f": {data['detail']}" if data["detail"] else ""
    return f"{data['state']}{healthy}{where}{detail}"


def _facts(settled: Settled) -> dict[str, Any]:
    return {
        "state": settled.state,
        "detail": settled.detail,
        "worker": settled.worker,
        "container": settled.container,
        "segment": settled.segment,
        "healthy_seconds": settled.healthy_seconds,
    }
