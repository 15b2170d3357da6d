"""`runtime dev`: a whole stack on this machine, in the background."""

import os
from typing import Any

import click

from libs.core.errors import Retryable
from tools.cli import interrupts
from tools.cli.connections import Target, connected, warn_of_misspelt
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.output import output_option, show, table
from tools.cli.status_report import print_report, report
from tools.debian.packages import to_stderr
from tools.dev.home import home
from tools.dev.http import get_json, hindrances
from tools.dev.stack import Stack
from tools.dev.state import Part
from tools.engine.ensure import Engine, ensure_engine
from tools.engine.probe import engine_url, why_not
from tools.images.ensure import ensure_images


@click.group()
def dev() -> None:
    """A complete stack on this machine: MongoDB, NATS, S3, and the masters and workers of all three services.

    They run in the background, as separate processes like in production. Data, logs and ports are kept in
    ~/.local/state/the0-runtime/dev (or RUNTIME_HOME/dev). While the stack is up, the other commands find it there.
    """


@dev.command()
@click.option("--workers", type=click.IntRange(1, 50), help="Workers of bot-runner.  [as many as run, else 2]")
@output_option
def up(workers: int | None, output: str) -> None:
    """Start the stack, or the parts of it that are not running. Workers beyond --workers are stopped gracefully."""
    warn_of_misspelt()
    _show(output, interrupts.run(_up(workers)))


@dev.command()
@click.option("--purge", is_flag=True, help="Remove the data too: bots, logs, events.")
@output_option
def down(purge: bool, output: str) -> None:
    """Stop the bots' containers and all processes. Data is kept unless --purge is given."""
    stopped = interrupts.run(_down(purge))
    what = "The stack is down" + (", its data is removed." if purge else "; its data is kept.")
    show(output, {"stopped": stopped, "purged": purge}, lambda: click.echo(what))


@dev.command()
@output_option
def status(output: str) -> None:
    """Show the processes of the stack, and the state of the services as in `runtime status`.

    Exit code 4 when there is no stack, 1 when a process of it is not healthy.
    """
    parts, services = interrupts.run(_whole_status())
    if not any(part["running"] for part in parts):
        raise Failure("no dev stack is running; `runtime dev up` starts one", ExitCode.NOT_FOUND)

    def text() -> None:
        _print(parts)
        click.echo()
        print_report(services)

    show(output, {"parts": parts, "services": services}, text)
    if not all(part["running"] and part["ready"] for part in parts):
        raise Failure("not all parts are healthy")


async def _up(workers: int | None) -> list[dict[str, object]]:
    stack = Stack(home() / "dev", tethered=False, workers=workers)
    engine = await ensure_engine()
    await ensure_images(engine)
    was_running = stack.state.running
    try:
        to_stderr("starting MongoDB, NATS, S3, and the masters and workers of all three services")
        stack.reserve_ports()
        stack.launch_services()
        await stack.start_servers()
        await stack.wait_ready()
        if stopped := await stack.stop_surplus():
            to_stderr(f"stopped {', '.join(stopped)}")
    except BaseException:
        # Earlier processes stay; a failed first start leaves nothing behind.
        if not was_running:
            await stack.stop(engine, grace_seconds=5)
        raise
    return await _status()


async def _down(purge: bool) -> list[str]:
    stack = Stack(home() / "dev", tethered=False)
    stopped = [part.name for part in stack.state.parts if part.process.alive]
    url = engine_url()
    await stack.stop(Engine(url) if why_not(url) is None else None)
    if purge:
        stack.purge()
    return stopped


async def _status() -> list[dict[str, object]]:
    return [await _described(part) for part in Stack(home() / "dev", tethered=False).state.parts]


async def _whole_status() -> tuple[list[dict[str, object]], list[dict[str, Any]]]:
    """Return the processes, and the services if MongoDB is reachable."""
    stack = Stack(home() / "dev", tethered=False).state
    parts = await _status()
    if not stack.running:
        return parts, []
    try:
        async with connected(Target({**os.environ, **stack.environment}, "the dev stack", stack.scopes)) as servers:
            return parts, await report(servers)
    except (Failure, Retryable):
        return parts, []  # the state of the processes shows the reason


async def _described(part: Part) -> dict[str, object]:
    running = part.process.alive
    ready, detail = running, ""
    if running and part.http_port is not None:
        answer = await get_json(part.http_port, "/readyz")
        ready = answer is not None and answer[0] == 200
        detail = hindrances(answer[1]) if answer is not None else "it does not respond"
    return {
        "name": part.name,
        "running": running,
        "ready": ready,
        "detail": detail,
        "pid": part.process.pid,
        "port": part.port,
        "http_port": part.http_port,
        "log": part.log,
    }


def _show(output: str, parts: list[dict[str, object]]) -> None:
    show(output, parts, lambda: _print(parts))


def _print(parts: list[dict[str, object]]) -> None:
    rows = [
        (
            part["name"],
            "ready" if part["ready"] else "not ready" if part["running"] else "down",
            part["pid"],
            part["port"],
            f"http://127.0.0.1:{part['http_port']}" if part["http_port"] else "-",
            part["detail"] or part["log"],
        )
        for part in parts
    ]
    table(
        ("part", "state", "pid", "port", "http", "log"),
        rows,
        empty="no processes",
        text=("log",),
        least=("pid", "port"),
    )
