"""Backtests as the platform sees them: what comes of good ones and bad ones, and of workers that die."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from libs.core.api.paths import PREFIX, encoded
from libs.core.process.service import BACKTEST_RUNNER
from tests.support.eventually import eventually
from tests.support.rigs.backtests import Backtests, listening
from tests.support.rigs.deployment import deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

SETTINGS = {
    "MAX_BACKTESTS_PER_PARTITION": "100",
    "BATCH_INTERVAL": "1",
    "MAX_RETRIES": "1",
    # A machine that is busy takes long over the shortest run, and over filling much memory.
    "BATCH_TIMEOUT": "20",
    "MEMORY_LIMIT_MB": "128",
}
GOOD = """
def main(id, config):
    print("working on", id)
    return {"metrics": {"trades": config["trades"]}, "plots": [], "tables": []}
"""
READING = """
import errno, os

def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]

def main(id, config):
    return {
        "prices": open("/data/prices.csv").read(),
        "day": open("/data/days/1.csv").read(),
        "refused": [
            refused(open, "/data/prices.csv", "w"),
            refused(os.chmod, "/data/prices.csv", 0o777),
            refused(open, "/data/days/2.csv", "w"),
            refused(os.unlink, "/data/days/1.csv"),
            refused(os.mkdir, "/data/other"),
        ],
    }
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def backtests(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Backtests]:
    """A master and one worker, shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("backtests")
    async with (
        deployment(folder, docker_engine, service=BACKTEST_RUNNER, settings=SETTINGS) as made,
        listening(made) as found,
    ):
        await made.start(workers=1)
        found.upload("good.zip", GOOD)
        yield found


async def test_a_backtest_leaves_its_result_its_output_and_an_event(backtests: Backtests) -> None:
    await backtests.create("good", {"trades": 7}, key="good.zip")

    event = await backtests.done("good")

    assert event["success"] is True
    assert "error" not in event
    assert backtests.analysis("good")["metrics"] == {"trades": 7}
    assert "working on good" in backtests.logs("good")


async def test_its_output_can_be_followed_to_its_end_and_read_afterwards(backtests: Backtests) -> None:
    printing = (
        "import time\ndef main(id, config):\n    for number in range(10):\n        print('step', number, flush=True)"
    )
    backtests.upload("printing.zip", f"{printing}\n        time.sleep(0.1)\n    return {{}}\n")
    await backtests.create("a/printing one", key="printing.zip")

    async def has_begun() -> bool:
        return bool(backtests.events("a/printing one")) or await backtests.deployment.state("a/printing one") != ""

    await eventually(has_begun)
    master = backtests.deployment.processes["master"].http_port
    path = f"http://127.0.0.1:{master}{PREFIX}/entities/{encoded('a/printing one')}/logs?follow=true"

    async with aiohttp.ClientSession() as session:
        async with session.get(URL(path, encoded=True)) as answer:
            followed = (await answer.read()).decode()
        await backtests.done("a/printing one")
        async with session.get(URL(path, encoded=True)) as answer:
            afterwards = (await answer.read()).decode()

    steps = [f"step {number}" for number in range(10)]
    assert [line for line in followed.splitlines() if line.startswith("step")] == steps
    assert [line for line in afterwards.splitlines() if line.startswith("step")] == steps


async def test_a_producers_trace_is_handed_on_as_it_came_though_nothing_is_exported(backtests: Backtests) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    producer = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01", "tracestate": "vendor=abc"}
    backtests.upload("traced.zip", "import os\ndef main(id, config):\n    return {'it': os.environ['TRACEPARENT']}")
    await backtests.create("traced", key="traced.zip", headers=producer)

    assert (await backtests.done("traced"))["success"] is True

    assert backtests.analysis("traced") == {"it": producer["traceparent"]}
    assert backtests.headers["traced"].items() >= producer.items()
    log_path = backtests.deployment.processes["w1"].process.log_path

    def told() -> set[str]:
        lines = [json.loads(line) for line in log_path.read_text().splitlines()]
        return {line["event"] for line in lines if line.get("trace_id") == trace_id}

    # The document is removed after the event, and the line is logged after that.
    assert await eventually(lambda: told() >= {"run ended", "backtest done"})


@pytest.mark.parametrize(
    ("reason", "source", "words"),
    [
        (
            "exception",
            "def main(id, config):\n    raise ValueError('no prices for BTC')",
            "exception: ValueError: no prices for BTC",
        ),
        ("error", "import os\ndef main(id, config):\n    os._exit(3)", "exit code 3"),
        ("timeout", "import time\ndef main(id, config):\n    time.sleep(60)", "timeout: it ran longer than 20 s"),
        (
            "oom",
            "def main(id, config):\n    return len(b'x' * (2 << 30))",
            "out of memory: it used more than its 128 MiB",
        ),
        ("result", "def main(id, config):\n    return 42", "result: main returned a bare number: 42"),
        ("exception", "def main(id, config):\n    return {'x': object()}", "not JSON"),
        (
            "result",
            "def main(id, config):\n    deep = {}\n    for _ in range(500): deep = {'x': deep}\n    return deep",
            "result: what main returned is nested more than 100 levels deep",
        ),
    ],
)
async def test_failed_backtest_has_reason(backtests: Backtests, reason: str, source: str, words: str) -> None:
    name = f"{reason}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    backtests.upload(f"{name}.zip", source)
    await backtests.create(name, key=f"{name}.zip")

    event = await backtests.done(name)

    assert event["success"] is False
    assert words in event["error"]
    assert backtests.analysis(name) == {"status": "error", "message": event["error"], "error": event["error"]}
    assert await recorded_reason(backtests, name) == reason


@pytest.mark.parametrize(
    ("name", "body", "analysis"),
    [
        ("nothing", "pass", {}),
        ("a-list", "return [1, 2]", {"results": [1, 2]}),
        ("an-exit", "import sys; sys.exit(0)", {}),
    ],
)
async def test_a_backtest_that_ends_without_an_object_succeeds(
    backtests: Backtests, name: str, body: str, analysis: dict[str, Any]
) -> None:
    backtests.upload(f"{name}.zip", f"def main():\n    {body}")
    await backtests.create(name, key=f"{name}.zip")

    assert (await backtests.done(name))["success"] is True

    assert backtests.analysis(name) == analysis
    assert await recorded_reason(backtests, name) == "finished"


async def test_numbers_without_json_form_become_null(backtests: Backtests) -> None:
    backtests.upload("nan.zip", "def main(id, config):\n    return {'sharpe': float('nan'), 'drawdown': float('inf')}")
    await backtests.create("nan", key="nan.zip")

    assert (await backtests.done("nan"))["success"] is True
    assert backtests.analysis("nan") == {"sharpe": None, "drawdown": None}


@pytest.mark.parametrize(
    ("reason", "key", "description", "words"),
    [
        ("code-missing", "absent.zip", {}, "missing code: there is no code 'absent.zip' in bucket"),
        ("bad-archive", "broken.zip", {}, "bad archive: archive 'broken.zip'"),
        ("bad-archive", "leading-out.zip", {}, "bad archive: archive 'leading-out.zip': entry '../main.py'"),
        (
            "unknown-runtime",
            "good.zip",
            {"runtime": "cobol60"},
            "unknown runtime 'cobol60'; known are nodejs20, python",
        ),
        ("rejected", "without-main.zip", {}, "entrypoint 'main.py' is not in the bot's archive"),
    ],
)
async def test_backtest_that_cannot_start_has_reason(
    backtests: Backtests, reason: str, key: str, description: dict[str, Any], words: str
) -> None:
    backtests.deployment.platform.upload("broken.zip", b"PK\x03\x04 and then nothing")
    backtests.deployment.platform.upload("leading-out.zip", zipped({"../main.py": "", "main.py": GOOD}))
    backtests.deployment.platform.upload("without-main.zip", zipped({"other.py": GOOD}))
    name = f"{reason}-of-{key.removesuffix('.zip')}"
    await backtests.create(name, {"trades": 1}, key=key, **description)

    event = await backtests.done(name)

    assert event["success"] is False
    assert words in event["error"]
    assert backtests.analysis(name) == {"status": "error", "message": event["error"], "error": event["error"]}
    assert await recorded_reason(backtests, name) == reason


async def test_backtest_reads_current_version_of_data_sets_and_cannot_change_them(
    backtests: Backtests, tmp_path: Path
) -> None:
    terminal = backtests.deployment.terminal()
    backtests.upload("reading.zip", READING)
    (tmp_path / "days").mkdir()
    (tmp_path / "days" / "1.csv").write_text("7")

    await terminal.succeed("bot", "data", "put", "days", str(tmp_path / "days"))
    for prices in ("1,2,3", "4,5,6"):
        (tmp_path / "prices.csv").write_text(prices)
        await terminal.succeed("bot", "data", "put", "prices.csv", str(tmp_path / "prices.csv"))
        name = f"reading {prices}"
        await backtests.create(name, {"dataSets": ["prices.csv", "days"]}, key="reading.zip")

        assert (await backtests.done(name))["success"] is True
        assert backtests.analysis(name) == {"prices": prices, "day": "7", "refused": ["EROFS"] * 5}
    await backtests.create("without data", {"dataSets": ["days", "absent"]}, key="reading.zip")

    event = await backtests.done("without data")

    assert "missing data set 'absent'" in event["error"]
    assert "runtime bot data put absent FILE" in event["error"]
    assert await recorded_reason(backtests, "without data") == "data-missing"


async def test_slow_backtest_does_not_delay_others(backtests: Backtests) -> None:
    backtests.upload("slow.zip", "import time\ndef main(id, config):\n    time.sleep(60)")
    await backtests.create("slow", key="slow.zip")
    for number in range(6):
        await backtests.create(f"short-{number}", {"trades": number}, key="good.zip")

    for number in range(6):
        await backtests.done(f"short-{number}")
    assert backtests.events("slow") == []


async def test_a_result_waits_for_a_storage_that_is_away_and_is_handed_over_when_it_is_back(
    backtests: Backtests,
) -> None:
    backtests.upload("brief.zip", "import time\ndef main(id, config):\n    time.sleep(3)\n    return {'ok': 1}")
    await backtests.create("patient", key="brief.zip")
    await eventually(lambda: backtests.deployment.containers("patient"))

    await backtests.deployment.s3_server.kill()
    await eventually(lambda: backtests.deployment.in_state("patient", "completing"))
    told_without_a_result = backtests.events("patient")
    await backtests.deployment.s3_server.launch()

    assert told_without_a_result == []
    assert (await backtests.done("patient"))["success"] is True
    assert backtests.analysis("patient") == {"ok": 1}
    assert len(backtests.events("patient")) == 1


async def test_backtest_of_killed_worker_is_rerun_and_completed_once(backtests: Backtests) -> None:
    backtests.upload("brief.zip", "import time\ndef main(id, config):\n    time.sleep(2)\n    return {'ok': 1}")
    await backtests.create("orphan", key="brief.zip")
    await eventually(lambda: backtests.deployment.containers("orphan"))

    await backtests.deployment.processes["w1"].process.kill()
    await backtests.deployment.start_process("worker", "w2").wait_ready()

    assert (await backtests.done("orphan"))["success"] is True
    assert len(backtests.events("orphan")) == 1


@pytest.mark.timeout(600)
async def test_a_result_of_fifty_megabytes_arrives_whole(tmp_path: Path, docker_engine: Engine) -> None:
    patient = {**SETTINGS, "BATCH_TIMEOUT": "480", "MEMORY_LIMIT_MB": "512"}
    async with (
        deployment(tmp_path, docker_engine, service=BACKTEST_RUNNER, settings=patient) as made,
        listening(made) as backtests,
    ):
        await made.start(workers=1)
        backtests.upload("large.zip", "def main(id, config):\n    return {'text': 'x' * 50_000_000}")
        await backtests.create("large", key="large.zip")

        assert (await backtests.done("large", within_seconds=480))["success"] is True
        assert len(backtests.analysis("large")["text"]) == 50_000_000


async def recorded_reason(backtests: Backtests, backtest_id: str) -> str | None:
    """How the backtest's last run ended, by its record in the history."""
    runs = backtests.deployment.mongo[BACKTEST_RUNNER.database]["runs"]
    record = await runs.find_one({"entity_id": backtest_id, "open": False}, sort=[("started_at", -1)])
    return record["reason"] if record is not None else None
