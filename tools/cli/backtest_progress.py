"""The progress of `runtime backtest run`: one updated line at a terminal, otherwise a line for each step."""

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING

import click

from libs.core.store.entities import Entity, EntityStore
from libs.core.store.ownership import OwnershipReader
from libs.core.store.shown_state import Shown
from tools.backtests.results import state_of

if TYPE_CHECKING:  # slow to import, and needed only at a terminal
    from rich.progress import Progress, TaskID

_POLL_SECONDS = 0.2


class RunProgress:
    """Shown on standard error during the block; with *quiet* not at all."""

    def __init__(self, backtest_id: str, *, quiet: bool) -> None:
        self._id = backtest_id
        self._quiet = quiet
        self._begun = time.monotonic()
        self._shown: tuple[Progress, TaskID] | None = None
        self._said = ""

    def __enter__(self) -> "RunProgress":
        # The updated line redirects standard output too, which must not happen to a file.
        if not self._quiet and sys.stderr.isatty() and sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._shown = progress, progress.add_task(self._id, total=None)
            progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown[0].stop()

    def step(self, text: str) -> None:
        """Set the current step."""
        if text == self._said:
            return
        self._said = text
        if self._shown is not None:
            progress, task = self._shown
            progress.update(task, description=f"{self._id}: {text}")
        elif not self._quiet:
            click.echo(
                click.style(f"· {self._id}: {text} ({time.monotonic() - self._begun:.1f} s)", dim=True), err=True
            )

    def leave(self, text: str) -> None:
        """Print *text* as the last line, also when quiet."""
        if self._shown is not None:
            self._shown[0].stop()
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo(text, err=True)

    async def watch(self, entities: EntityStore, owners: OwnershipReader) -> None:
        """Show the state of the backtest until it is completed."""
        while (entity := await entities.get(self._id)) is not None:
            owner = (await owners.of([entity.segment_id])).get(entity.segment_id)
            self.step(_described(entity, state_of(entity, owner)))
            await asyncio.sleep(_POLL_SECONDS)


def _described(entity: Entity, now: Shown) -> str:
    status = entity.status
    if now.state == "running":
        again = f", attempt {status['attempt']}" if status.get("attempt", 1) != 1 else ""
        return f"running on {status.get('worker')}{again}"
    words = {
        "waiting": "waiting for a worker",
        "completing": "storing the result",
        "killed": "held by a kill switch",
        "off": "switched off by its config",
    }
    return words.get(now.state, now.text)
