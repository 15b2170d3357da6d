"""`runtime schedule history`: the runs of one schedule, with outcomes and locations of their output."""

from typing import Any

import click

from libs.core.process.service import BOT_SCHEDULER
from libs.core.run_record import RunRecord
from libs.core.store.ownership import Ownership
from libs.core.store.runs import RunFilter, RunStore
from libs.core.store.shown_state import run_state
from libs.docker_runner.logs.keys import log_key
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.local_time import local
from tools.cli.output import output_option, show, table


@click.command()
@click.argument("schedule_id", metavar="ID")
@click.option(
    "-n", "--count", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Number of runs to show."
)
@output_option
def history(schedule_id: str, count: int, output: str) -> None:
    """Show the latest runs of a schedule, including skipped firings."""
    found = interrupts.run(_history(schedule_id, count))

    def text() -> None:
        columns = ("due", "cause", "try", "began", "seconds", "ended", "exit", "log", "message")
        table(columns, [_cells(row) for row in found], empty=f"{schedule_id} has not run yet.")

    show(output, found, text)


async def _history(schedule_id: str, count: int) -> list[dict[str, Any]]:
    async with connected() as servers:
        runs = RunStore(await servers.database(BOT_SCHEDULER))
        found = await runs.list(RunFilter(entity_id=schedule_id), limit=count)
        if not found and await (await servers.entities(BOT_SCHEDULER)).get(schedule_id) is None:
            raise Failure(f"there is no schedule {schedule_id!r}, and no run of one", ExitCode.NOT_FOUND)
        owners = await (await servers.owners(BOT_SCHEDULER)).of(run.segment_id for run in found if not run.reason)
        return [_row(run, owners.get(run.segment_id)) for run in found]


def _row(run: RunRecord, owner: Ownership | None) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "scheduled_at": run.scheduled_at,
        "cause": run.cause,
        "attempt": run.attempt,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "seconds": run.duration_seconds,
        "reason": run.reason or run_state(run.worker_id, owner),
        "exit_code": run.exit_code,
        "message": run.message or "",
        "failure": run.failure,
        "error_type": run.error_type,
        "error_message": run.error_message,
        "hint": run.hint,
        "last_lines": list(run.last_lines),
        "worker": run.worker_id,
        "log": log_key(run.entity_id, run.started_at.strftime("%Y%m%d")) if run.container_id else None,
    }


def _cells(row: dict[str, Any]) -> list[object]:
    return [
        local(row["scheduled_at"]),
        row["cause"],
        row["attempt"],
        local(row["started_at"]),
        row["seconds"],
        row["reason"],
        row["exit_code"],
        row["log"],
        row["message"],
    ]
