"""`runtime worker drain`: move the segments of workers to other workers, and wait for it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from libs.core.process.service import ServiceDefinition
from libs.core.store.cordons import CordonStore
from tools.cli import interrupts
from tools.cli.connections import Connections, connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.known_workers import KnownWorker, ids_argument, known_workers, service_option, services_of
from tools.cli.output import cell, output_option, show
from tools.cli.worker_cordon import reason_option, wake_masters

_POLL_SECONDS = 0.2
_TIMEOUT_SECONDS = 120.0
# Longer than the pause of engines between moves.
_STAYS_SECONDS = 15.0


@dataclass(frozen=True)
class Progress:
    """The progress of one worker's drain.

    Attributes:
        owned: the segments that it still owns.
        stays: those that no other worker can take now, with the reason.
        is_heeded: whether the leading master has decided with the drain.
    """

    owned: Sequence[int]
    stays: Mapping[int, str]
    is_heeded: bool

    @property
    def is_over(self) -> bool:
        """Whether the worker owns and is assigned nothing."""
        return self.is_heeded and not self.owned and not self.stays

    @property
    def is_stuck(self) -> bool:
        """Whether none of the remaining segments can move now."""
        return self.is_heeded and bool(self.owned) and set(self.owned) <= self.stays.keys()


@click.command()
@ids_argument
@service_option
@click.option(
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0.0),
    help=f"Seconds to wait until the workers own no segment. [default: {_TIMEOUT_SECONDS:g}; "
    f"{_STAYS_SECONDS:g} if no other worker can take the rest]",
)
@reason_option
@output_option
def drain(
    worker_ids: tuple[str, ...], service: str | None, timeout_seconds: float | None, reason: str, output: str
) -> None:
    """Cordon workers and move their segments, each as a whole, to other workers; return when they own nothing.

    Bots end gracefully and start on their new worker at once. A segment that no other worker can take stays, and its
    bots keep running; it moves as soon as possible. Exit code 5 when segments remain, 4 when there is no such worker.
    `runtime worker uncordon` undoes it.
    """
    data = interrupts.run(_drain(worker_ids, services_of(service), timeout_seconds, reason))
    lines = [f"{cell(one['worker'])} ({one['service']}) is drained and owns nothing." for one in data]
    show(output, data, lambda: click.echo("\n".join(lines)))


async def _drain(
    worker_ids: Sequence[str], services: Sequence[ServiceDefinition], timeout_seconds: float | None, reason: str
) -> list[dict[str, Any]]:
    async with connected() as servers:
        workers = await known_workers(servers, services, worker_ids)
        for worker in workers:
            await CordonStore(await servers.database(worker.service)).cordon(
                worker.worker_id, drain=True, reason=reason
            )
        for service in {worker.service.name: worker.service for worker in workers}.values():
            await wake_masters(servers, service)
        await _until_empty(servers, workers, timeout_seconds)
        return [
            {"service": worker.service.name, "worker": worker.worker_id, "drained": True, "segments": []}
            for worker in workers
        ]


async def _until_empty(servers: Connections, workers: Sequence[KnownWorker], timeout_seconds: float | None) -> None:
    now = asyncio.get_running_loop().time
    deadline = now() + (_TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds)
    reported: dict[KnownWorker, Mapping[int, str]] = {}
    stuck_since: float | None = None
    while True:
        progress = {worker: await _progress(servers, worker) for worker in workers}
        left = {worker: one for worker, one in progress.items() if not one.is_over}
        if not left:
            return
        for worker, one in left.items():
            if one.stays != reported.get(worker, {}):
                _report_staying(worker, one)
            reported[worker] = one.stays
        is_stuck = all(one.is_stuck for one in left.values())
        stuck_since = (stuck_since or now()) if is_stuck else None
        gives_up = timeout_seconds is None and stuck_since is not None and now() - stuck_since > _STAYS_SECONDS
        if gives_up or now() >= deadline:
            raise Failure("; ".join(_left(worker, one) for worker, one in left.items()), ExitCode.TIMEOUT)
        await asyncio.sleep(_POLL_SECONDS)


async def _progress(servers: Connections, worker: KnownWorker) -> Progress:
    wish = (await CordonStore(await servers.database(worker.service)).current()).get(worker.worker_id)
    if wish is None or not wish.drain:
        raise Failure(f"the drain of {worker} was undone by another command")
    leases = await (await servers.leases(worker.service)).live()
    owned = [lease.segment_id for lease in leases if lease.holder.worker_id == worker.worker_id]
    return Progress(owned, wish.stays, wish.heeded)


def _report_staying(worker: KnownWorker, progress: Progress) -> None:
    for segment_id, why in progress.stays.items():
        click.echo(f"segment {segment_id} stays on {cell(worker)} for now: {cell(why)}", err=True)


def _left(worker: KnownWorker, progress: Progress) -> str:
    if not progress.is_heeded:
        return f"{worker} is cordoned, but no master has started its drain; check `runtime status` for a leader"
    parts = [f"segment {one}: {progress.stays.get(one, 'it is being moved')}" for one in progress.owned]
    kept = "; ".join(parts) or "nothing, but is about to take over a segment"
    return f"{worker} is cordoned and still owns {kept}"
