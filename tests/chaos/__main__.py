"""Faults against a whole deployment, watched from outside.

    python -m tests.chaos [--minutes 10] [--seed 1] [--only FAULT]... [--patch NAME] [--output dist/chaos]
    python -m tests.chaos --list

Two private Docker engines, a replica set of three, NATS, S3, two masters and four workers of the bot-runner, masters
and workers of the other services, and a proxy before every link, under a steady flow of events. Faults happen one by
one in an order of the seed, then in random pairs until the time is over. `--only` names a fault, or several that
happen together with ` + ` between; it may be repeated. `--patch` runs a copy of the source with a known defect
(`tests/chaos/patches.py`), and fails unless the observer sees two live copies of a bot, or, for a defect that another
protection always masks, if it does.

The observer is a process of its own and trusts nothing of the system (`tests/chaos/observer.py`); the laws are in
`tests/chaos/checks.py`. The exit code is 1 when a law is broken. The report, the logs of all processes and the ticks
are in the output's folder. Needs root, Docker on this machine, and about 4 GB of memory.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from itertools import chain
from pathlib import Path

from tests.chaos.checks import RECOVERY_SECONDS
from tests.chaos.patches import PATCHES, patched
from tests.chaos.reading import Observations
from tests.chaos.report import Report, report_on
from tests.chaos.run import Run, observed
from tests.chaos.schedule import CLOCK, NAMES, SHORT, pairs, singles, together
from tests.chaos.world import LEASE_SECONDS, world

HOLD_LEASES = 3.0
"""How long a fault lasts, in lives of a lease."""
SHORT_HOLD_LEASES = 2.4
"""The same in the short form: a successor has started before the fault ends."""


async def chaos(
    rounds: Iterator[Sequence[str]],
    *,
    output: Path,
    seed: int,
    minutes: float,
    patch: str = "",
    lease_seconds: float,
    hold_seconds: float,
    limit_seconds: float = RECOVERY_SECONDS,
    settable_clocks: bool = False,
) -> Report:
    """Run the rounds, for *minutes* at most, and return the report, which is in *output* as well."""
    folder = Path(tempfile.mkdtemp(prefix="the0-chaos-"))
    try:
        source = patched(PATCHES[patch], folder / "source") if patch else ()
        ticks = folder / "ticks.jsonl"
        made_world = world(
            folder,
            lease_seconds=lease_seconds,
            source=source,
            settings=PATCHES[patch].settings if patch else {},
            settable_clocks=settable_clocks,
        )
        async with made_world as made, observed(made, ticks):
            run = Run(made, Observations(ticks), random.Random(seed), hold_seconds)
            timeline = await run.through(rounds, time.monotonic() + minutes * 60)
        report = report_on(
            timeline,
            seed=seed,
            patch=patch,
            load=max(run.loads, default=0.0),
            lease_seconds=lease_seconds,
            limit_seconds=limit_seconds,
        )
        report.write(output)
        return report
    finally:
        _keep(folder, output)
        shutil.rmtree(folder, ignore_errors=True)


def _keep(folder: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for log in chain(folder.glob("*.log"), folder.glob("*.jsonl")):
        shutil.copy(log, output)


async def _stoppable(running: Coroutine[None, None, Report]) -> Report:
    """Await *running*; SIGINT and SIGTERM end it, with all that it has started."""
    task = asyncio.create_task(running)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> int:
    """Run as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults, watched from outside.")
    parser.add_argument("--minutes", type=float, default=10.0, help="no fault begins later than that")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="a name; repeatable")
    parser.add_argument("--patch", choices=PATCHES, default="", help="run a copy of the source with this defect")
    parser.add_argument("--hold", type=float, help="seconds that a fault lasts; default: three lives of a lease")
    parser.add_argument("--limit", type=float, default=RECOVERY_SECONDS, help="seconds within which a bot must be back")
    parser.add_argument("--lease", type=float, default=LEASE_SECONDS, help="LEASE_SECONDS of all processes")
    parser.add_argument("--output", type=Path, default=Path("dist/chaos"))
    parser.add_argument("--short", action="store_true", help="the short form: one fault of each of many families")
    parser.add_argument("--list", action="store_true", help="print the names of the faults")
    given = parser.parse_args()
    if given.list:
        print("\n".join(NAMES))
        return 0
    only = given.only or (SHORT if given.short else PATCHES[given.patch].only if given.patch else ())
    chosen = together(only)
    if unknown := {name for names in chosen for name in names} - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; --list prints the names")
    chance = random.Random(given.seed)
    rounds: Iterator[Sequence[str]] = iter(chosen) if only else chain(singles(chance), pairs(chance))
    report = asyncio.run(
        _stoppable(
            chaos(
                rounds,
                output=given.output,
                seed=given.seed,
                minutes=given.minutes,
                patch=given.patch,
                hold_seconds=given.hold or (SHORT_HOLD_LEASES if given.short else HOLD_LEASES) * given.lease,
                limit_seconds=given.limit,
                lease_seconds=given.lease,
                settable_clocks=any(CLOCK in names for names in chosen) or not chosen,
            )
        )
    )
    print(report.text())
    if given.patch:
        return int(report.has_two_copies is PATCHES[given.patch].is_masked)
    return int(not report.good)


if __name__ == "__main__":
    sys.exit(main())
