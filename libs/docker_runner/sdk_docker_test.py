"""Bots that vendor the published SDK, unmodified, in containers."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from libs.docker_runner.containers.container import EndReason
from libs.docker_runner.containers.failure import Failure, FailureReason
from libs.docker_runner.executable import Entrypoint, Limits, Network
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tests.support.sdk import sdk_files
from tools.engine.ensure import Engine

ALL = """
import errno, os
from the0 import log, metric, parse, result, success

def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]

def main():
    bot, config = parse()
    metric("price", {"symbol": config["symbol"], "value": 45000.5})
    log("placed", {"id": 7})
    success("first")
    os.chmod("/bot/result.json", 0o600)
    result({
        "status": "success", "message": "traded by " + bot,
        "code": refused(open, "/bot/main.py", "w"),
        "new": refused(open, "/bot/other.json", "w"),
        "away": refused(os.unlink, "/bot/result.json"),
        "beside": refused(os.rmdir, "/run/the0/written"),
    })
"""
FAILING = """
from the0 import error, success

def main(id, config):
    success("x" * 100_000)
    error("no funds", {"available": 1})
"""


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


async def test_bot_with_the_sdk_writes_its_result_and_nothing_else_of_its_code(bots: BotContainers) -> None:
    # A result in the archive is none of this run.
    files = {**sdk_files(), "result.json": '{"status": "error"}'}
    outcome, output = await bots.run(ALL, files=files, config={"symbol": "BTC/USD"})

    assert outcome.result == {
        "status": "success",
        "message": "traded by b1",
        "code": "EROFS",
        "new": "EROFS",
        "away": "EROFS",
        "beside": "EROFS",
    }
    assert outcome.ended.message == "traded by b1"
    lines = [json.loads(line) for line in output.splitlines()]
    assert lines[-1] == outcome.result
    metric = next(line for line in lines if "_metric" in line)
    assert (metric["_metric"], metric["symbol"], metric["value"]) == ("price", "BTC/USD", 45000.5)
    assert next(line for line in lines if "level" in line)["message"] == "placed"


async def test_backtest_that_reports_an_error_with_the_sdk_fails_with_its_message(bots: BotContainers) -> None:
    outcome, output = await bots.run(FAILING, files=sdk_files(), entrypoint=Entrypoint.BACKTEST, limits=Limits())

    assert (outcome.ended.reason, outcome.ended.exit_code, outcome.returned) == (EndReason.ERROR, 1, None)
    assert outcome.failure == Failure(FailureReason.REPORTED, "no funds")
    expected = {"status": "error", "message": "no funds", "data": {"available": 1}}
    assert json.dumps(expected) in output.splitlines()
