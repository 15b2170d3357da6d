"""`runtime backtest run --sweep` over real servers, with a worker played by the test."""

import asyncio
import json
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from pymongo import MongoClient

from libs.core.store.client import StoreUnavailable
from tests.support.rigs.commands import Commands
from tests.support.rigs.played_worker import played_worker
from tests.support.rigs.terminal import Terminal
from tools import samples
from tools.backtests import sweep
from tools.bots.deploying import Upload, announce
from tools.cli.exit_codes import ExitCode
from tools.stack.s3 import S3Server

BACKTEST = str(Path(samples.__file__).parent / "moving_average_crossover")
SWEEP = ("--sweep", "fast=5:10:5", "--sweep", "risk.max=0.1:0.3:0.1")


def _result(config: dict[str, Any]) -> dict[str, Any]:
    return {"metrics": {"sharpe": config["fast"] * config["risk"]["max"]}}


def test_sweep_runs_each_combination_within_the_limit_with_one_upload(
    commands: Commands, s3_server: S3Server, bucket_prefix: str
) -> None:
    with played_worker(commands.mongo, s3_server, f"{bucket_prefix}results", _result) as worker:
        rows = commands.json("backtest", "run", BACKTEST, "--id", "ma", "--set", "cash=7", *SWEEP, "--jobs", "2")

    assert [row["id"] for row in rows] == [
        *("ma-fast=5-max=0.1", "ma-fast=5-max=0.2", "ma-fast=5-max=0.3"),
        *("ma-fast=10-max=0.1", "ma-fast=10-max=0.2", "ma-fast=10-max=0.3"),
    ]
    assert rows[5]["parameters"] == {"fast": 10, "risk.max": 0.3}
    assert [row["metrics"]["sharpe"] for row in rows] == [0.5, 1.0, 1.5, 1.0, 2.0, 3.0]
    assert {row["state"] for row in rows} == {"finished"}
    assert 1 <= worker.most_open <= 2
    documents = worker.documents.values()
    assert {document["config"]["cash"] for document in documents} == {7}
    assert len({document["custom"]["filePath"] for document in documents}) == 1
    storage = Minio(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, secure=False)
    assert len(list(storage.list_objects(f"{bucket_prefix}bots", recursive=True))) == 1


def test_sweep_with_one_failure_shows_its_reason_and_fails(
    commands: Commands, s3_server: S3Server, bucket_prefix: str, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"

    def main(config: dict[str, Any]) -> dict[str, Any]:
        error = {"status": "error", "message": "boom \x1b[2J", "error": "boom \x1b[2J"}
        return error if config["fast"] == 10 else {"metrics": {"sharpe": 1.5}}

    with played_worker(commands.mongo, s3_server, f"{bucket_prefix}results", main):
        options = ("--sweep", "fast=5,10,15", "--html", str(page))
        code, out, err = commands.run("backtest", "run", BACKTEST, "--id", "ma", *options)

    assert code == ExitCode.FAILED
    header, first, second, third, written = out.splitlines()
    assert header.split() == ["id", "state", "fast", "sharpe", "seconds", "detail"]
    assert first.split()[:4] == ["ma-fast=5", "finished", "5", "1.5"]
    assert second.split()[:4] == ["ma-fast=10", "failed", "10", "-"]
    assert third.split()[:2] == ["ma-fast=15", "finished"]
    assert "boom" in second
    assert "\x1b" not in out + err
    assert "[3/3]" in err
    assert written == f"written: {page}"
    assert "ma-fast=15" in page.read_text()
    assert "boom" in page.read_text()


def test_sweep_outlasts_servers_that_are_away_for_a_while(
    commands: Commands, s3_server: S3Server, bucket_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    async def failing(servers: Any, service: Any, entities: Any, uploaded: Upload, config: Any) -> None:
        calls.append(uploaded.entity_id)
        if len(calls) in (2, 3):
            raise StoreUnavailable("the server restarts")
        await announce(servers, service, entities, uploaded, config)

    monkeypatch.setattr(sweep, "announce", failing)

    with played_worker(commands.mongo, s3_server, f"{bucket_prefix}results", lambda config: {"metrics": {}}) as worker:
        rows = commands.json("backtest", "run", BACKTEST, "--id", "ma", "--sweep", "fast=1,2", "--jobs", "2")

    assert [row["state"] for row in rows] == ["finished", "finished"]
    assert calls == ["ma-fast=1", "ma-fast=2", "ma-fast=2", "ma-fast=2"]
    assert sorted(worker.documents) == ["ma-fast=1", "ma-fast=2"]


def test_sweep_whose_servers_are_away_from_the_start_fails_at_once(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: Any) -> None:
        raise StoreUnavailable("the server is down")

    monkeypatch.setattr(sweep, "announce", failing)

    code, _, err = commands.run("backtest", "run", BACKTEST, "--id", "ma", "--sweep", "fast=1,2")

    assert code == ExitCode.UNREACHABLE
    assert "the server is down" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sweep", "fast=5:30"], "write KEY=START:STOP:STEP"),
        (["--sweep", "fast=0:1:1e-9"], "raise --most"),
        (["--sweep", "fast=1:5:1", "--most", "4"], "a sweep at most 4 backtests"),
        (["--sweep", "fast=1,2", "--set", "fast=3"], "'fast' is given twice"),
        (["--sweep", "fast=1,2", "--set", "slow"], "'slow' is not KEY=VALUE"),
        (["--sweep", "cash.a=1,2", "--config", '{"cash": 5}'], "'cash' is not an object"),
        (["--sweep", "fast=1,2", "--no-wait"], "--sweep has no --no-wait"),
        (["--sweep", "fast=1,2", "--jobs", "0"], "--jobs"),
    ],
)
def test_invalid_sweep_is_refused_before_anything_runs(commands: Commands, options: list[str], message: str) -> None:
    code, out, err = commands.run("backtest", "run", BACKTEST, *options)

    assert (code, out) == (ExitCode.USAGE, "")
    assert message in err
    assert commands.json("backtest", "ls") == []


def test_sweep_with_used_id_is_refused_before_anything_runs(commands: Commands) -> None:
    commands.text("backtest", "run", BACKTEST, "--id", "ma-fast=2", "--no-wait")

    code, _, err = commands.run("backtest", "run", BACKTEST, "--id", "ma", "--sweep", "fast=1,2")

    assert code == ExitCode.FAILED
    assert "backtest 'ma-fast=2' already exists (1 of 2), and each runs only once; give another --id" in err
    assert len(commands.json("backtest", "ls")) == 1


def test_set_values_replace_those_of_config_and_folder(commands: Commands) -> None:
    options = ("--config", '{"risk": {"max": 1, "min": 0}}', "--set", "risk.max=0.5", "--set", "symbol=BTC-USD")
    commands.text("backtest", "run", BACKTEST, "--id", "b1", "--no-wait", *options)

    [document] = commands.mongo["backtest_runner"]["backtests"].find({"id": "b1"})
    assert document["config"]["risk"] == {"max": 0.5, "min": 0}
    assert document["config"]["symbol"] == "BTC-USD"


async def test_ctrl_c_cancels_open_backtests_and_starts_no_more(
    mongo_uri: str, server_variables: dict[str, str], tmp_path: Path
) -> None:
    arguments = ("backtest", "run", BACKTEST, "--id", "ma", "--sweep", "fast=1:9:1", "--jobs", "2", "--output", "json")
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        backtests = client["backtest_runner"]["backtests"]
        process = await Terminal(tmp_path, server_variables).start(*arguments)
        try:
            while await asyncio.to_thread(backtests.count_documents, {}) < 2:
                assert process.returncode is None
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
            found = await asyncio.to_thread(lambda: list(backtests.find().sort("id", 1)))
        finally:
            client.drop_database("backtest_runner")

    assert process.returncode == ExitCode.INTERRUPTED
    assert out == b""
    assert [document["id"] for document in found] == ["ma-fast=1", "ma-fast=2"]
    assert all(document["backtest"]["cancel"]["by"] for document in found)
    assert "0 of 9 backtests are done, 7 were not started" in err.decode()
    assert "cancelled: ma-fast=2" in err.decode()
    assert "repeat the command with --resume --id ma" in err.decode()


def test_resumed_sweep_keeps_results_waits_for_the_open_and_repeats_the_cancelled(
    commands: Commands, s3_server: S3Server, bucket_prefix: str
) -> None:
    sweep_of_four = ("--id", "ma", "--sweep", "fast=1,2,3,4")
    results = f"{bucket_prefix}results"
    for fast in (1, 2, 3):
        commands.text("backtest", "run", BACKTEST, "--id", f"ma-fast={fast}", "--set", f"fast={fast}", "--no-wait")
    run = {"_id": "r", "entity_id": "ma-fast=2", "segment_id": 1, "worker_id": "w", "host": "h", "epoch": 1}
    times = {"started_at": datetime.now(UTC), "ended_at": datetime.now(UTC)}
    commands.mongo["backtest_runner"]["runs"].insert_one({**run, **times, "open": False, "reason": "cancelled"})
    with played_worker(commands.mongo, s3_server, results, lambda config: None) as worker:
        worker.complete("ma-fast=1", {"metrics": {"sharpe": -1}})
        worker.complete("ma-fast=2", {"status": "error", "message": "cancelled by me", "error": "cancelled by me"})

    def main(config: dict[str, Any]) -> dict[str, Any]:
        return {"metrics": {"sharpe": config["fast"]}}

    with played_worker(commands.mongo, s3_server, results, main):
        rows = commands.json("backtest", "run", BACKTEST, *sweep_of_four, "--resume")
        code, _, err = commands.run("backtest", "run", BACKTEST, *sweep_of_four)

    assert [row["id"] for row in rows] == ["ma-fast=1", "ma-fast=2-2", "ma-fast=3", "ma-fast=4"]
    assert [row["metrics"]["sharpe"] for row in rows] == [-1, 2, 3, 4]
    assert (code, "--resume to continue" in err) == (ExitCode.FAILED, True)


def test_sweep_with_another_config_is_not_resumed(commands: Commands) -> None:
    commands.text("backtest", "run", BACKTEST, "--id", "ma-fast=1", "--set", "fast=1", "--set", "cash=5", "--no-wait")

    code, _, err = commands.run("backtest", "run", BACKTEST, "--id", "ma", "--sweep", "fast=1,2", "--resume")

    assert (code, "'ma-fast=1' was run with another config" in err) == (ExitCode.USAGE, True)
    assert commands.run("backtest", "run", BACKTEST, "--sweep", "fast=1,2", "--resume")[0] == ExitCode.USAGE


def test_parameter_outside_the_schema_is_flagged_at_the_run(commands: Commands, tmp_path: Path) -> None:
    schema: dict[str, Any] = {"backtest": {"properties": {"fast": {}, "risk": {"properties": {"max": {}}}}}}
    (tmp_path / "main.py").write_text("def main(id, config):\n    return {}\n")
    (tmp_path / "bot.json").write_text(json.dumps({"entrypoints": {"backtest": "main.py"}, "schema": schema}))
    options = ("--id", "b1", "--set", "fsat=5", "--set", "risk.maxx=5", "--set", "api_key=abc", "--no-wait")

    code, _, err = commands.run("backtest", "run", str(tmp_path), *options)

    assert code == ExitCode.OK
    assert "the config's fsat is not in the description's schema; did you mean fast?" in err
    assert "the config's risk.maxx is not in the description's schema; did you mean risk.max?" in err
    shown = commands.json("backtest", "show", "b1")
    assert shown["config"] == {"fsat": 5, "risk": {"maxx": 5}, "api_key": "********"}
    assert shown["unknown_parameters"] == ["fsat", "risk.maxx", "api_key"]
