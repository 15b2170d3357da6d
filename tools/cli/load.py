"""`runtime load`: the load generator's command line."""

import secrets
import sys
import time

import click

from tools.bots.announce import Announcer, Deployment, deployment
from tools.bots.deploying import code_upload
from tools.bots.folder import read_folder
from tools.bots.load import BOT, Driver, Kind, Load, Progress
from tools.bots.package import pack
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.output import output_option, show

_REPORT_SECONDS = 1.0


@click.group()
def load() -> None:
    """Create and remove many small bots, backtests or schedules, to observe the autoscaler and the dashboards.

    Servers are selected as by `runtime bot`. Nothing else is changed, and every number has an upper bound.
    """


_kind = click.argument("kind", type=click.Choice([kind.value for kind in Kind]))
_count = click.option(
    "--count", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Total number of entities."
)
_per_second = click.option(
    "--per-second",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.01, 200),
    help="Entities created and removed per second.",
)


@load.command("run")
@_kind
@_count
@_per_second
@click.option(
    "--hold",
    "hold_seconds",
    default=120.0,
    show_default=True,
    type=click.FloatRange(0, 86_400),
    help="Seconds between the last creation and the first removal.",
)
@click.option(
    "--run-seconds",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, 3600),
    help="Duration of a backtest or of one run of a schedule, in seconds.",
)
@click.option("--schedule", default="@every 60s", show_default=True, help="Cron expression of the schedules.")
@output_option
def run(
    kind: str,
    count: int,
    per_second: float,
    hold_seconds: float,
    run_seconds: float,
    schedule: str,
    output: str,
) -> None:
    """Create COUNT entities of KIND at a constant rate, wait, and remove them likewise. Ctrl-C removes them at once."""
    planned = Load(Kind(kind), secrets.token_hex(4), count, per_second, hold_seconds, run_seconds, schedule)
    progress = interrupts.run(_run(planned))
    data = {"kind": kind, "run": planned.run, **progress.as_dict()}
    show(output, data, lambda: click.echo(_summary(planned, progress)))


@load.command("remove")
@_kind
@click.argument("run_name", metavar="RUN")
@_count
@output_option
def remove(kind: str, run_name: str, count: int, output: str) -> None:
    """Remove the entities of an earlier RUN that was killed or lost its connection."""
    left = Load(Kind(kind), run_name, count, per_second=1.0, hold_seconds=0.0)
    removed = interrupts.run(_remove(left))
    show(output, {"kind": kind, "run": run_name, "removed": removed}, lambda: click.echo(f"{removed} removed."))


async def _run(planned: Load) -> Progress:
    folder = read_folder(BOT)
    package = pack(BOT)
    async with connected() as servers:
        key = await (await code_upload(servers, planned.kind.service)).key_of(package)
        announcer = Announcer(await servers.jetstream(), planned.kind.service)

        def deploy(number: int) -> Deployment:
            return deployment(planned.id_of(number), folder, planned.config(), key, known=None)

        click.echo(f"run {planned.run}: {planned.count} {planned.kind} at {planned.per_second:g}/s", err=True)
        return await Driver(planned, announcer, deploy, Reporter()).run()


async def _remove(left: Load) -> int:
    async with connected() as servers:
        announcer = Announcer(await servers.jetstream(), left.kind.service)
        for number in range(left.count):
            await announcer.deleted(left.id_of(number), left.config())
    return left.count


class Reporter:
    """Writes a line to standard error at most once a second."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        """Report the progress."""
        if time.monotonic() - self._last >= _REPORT_SECONDS:
            self._last = time.monotonic()
            late = f", {progress.behind_seconds:.1f} s behind" if progress.behind_seconds >= _REPORT_SECONDS else ""
            sys.stderr.write(
                f"{progress.seconds:7.1f} s  {progress.created} made, {progress.removed} removed, "
                f"{progress.failed} failed{late}\n"
            )


def _summary(planned: Load, progress: Progress) -> str:
    return (
        f"{progress.created} {planned.kind} made, {progress.removed} removed, {progress.failed} failed "
        f"in {progress.seconds:.1f} s (run {planned.run})"
    )
