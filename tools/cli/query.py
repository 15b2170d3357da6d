"""`runtime bot query` and `runtime schedule query`: ask a bot, whose own code answers."""

import json
from typing import Any

import aiohttp
import click

from libs.core.process.service import BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition
from tools.cli import interrupts
from tools.cli.connections import connected
from tools.cli.exit_codes import ExitCode
from tools.cli.failures import Failure
from tools.cli.leader import Leader, leader_of

_MARGIN_SECONDS = 10.0
_CODES = {404: ExitCode.NOT_FOUND, 503: ExitCode.UNREACHABLE, 504: ExitCode.TIMEOUT, 400: ExitCode.USAGE}


def _command(service: ServiceDefinition) -> click.Command:
    @click.command("query")
    @click.argument("entity_id", metavar="ID")
    @click.argument("path", metavar="PATH")
    @click.option("--params", default="{}", show_default=True, help="Parameters, a JSON object.")
    @click.option("--timeout", "timeout_seconds", type=click.FloatRange(0.1, 300), default=30.0, show_default=True)
    def query(entity_id: str, path: str, params: str, timeout_seconds: float) -> None:
        interrupts.run(_query(service, entity_id, path, _object(params), timeout_seconds))

    query.help = (
        f"Ask the {service.noun} ID a question, which its entrypoint `query` answers, and print the answer as JSON.\n\n"
        "Exit code 1 when its own code answers with an error, 3 when it cannot be reached now, 4 when there is no such "
        f"{service.noun}, 5 when it does not answer in time."
    )
    return query


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"no JSON: {error}", param_hint="--params") from None
    if not isinstance(found, dict):
        raise click.BadParameter('must be a JSON object, such as {"symbol": "BTC"}', param_hint="--params")
    return found


async def _query(
    service: ServiceDefinition, entity_id: str, path: str, params: dict[str, Any], timeout_seconds: float
) -> None:
    async with connected() as servers:
        leader = await leader_of(servers, service)
    request = {"bot_id": entity_id, "query_path": path, "params": params, "timeout_sec": timeout_seconds}
    status, answer = await _asked(leader, request, timeout_seconds)
    if status != 200:
        raise Failure(str(answer.get("error")), _CODES.get(status, ExitCode.FAILED))
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    if answer.get("status") != "ok":
        raise click.exceptions.Exit(ExitCode.FAILED)


async def _asked(leader: Leader, request: dict[str, Any], timeout_seconds: float) -> tuple[int, dict[str, Any]]:
    reason = "no master leads now" if leader.name is None else "the leading master has no known address"
    async with leader.session(timeout_seconds + _MARGIN_SECONDS) as session:
        for url in leader.urls:
            try:
                async with session.post(f"{url}/query", json=request, allow_redirects=False) as answer:
                    return answer.status, await answer.json()
            except (TimeoutError, aiohttp.ClientError, ValueError) as error:
                reason = f"{url}: {error or type(error).__name__}"
    raise Failure(f"the leading master cannot be reached: {reason}", ExitCode.UNREACHABLE)


bot_query = _command(BOT_RUNNER)
schedule_query = _command(BOT_SCHEDULER)
