"""`runtime bot logs` over real servers: what is chosen, and how it is shown."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from libs.core.process.service import SERVICES
from libs.core.run_record import RunRecord
from libs.core.store.client import Mongo
from libs.core.store.runs import RunStore
from tests.support.fakes.log_host import Host, ModelEngine, a_container, store_of
from tools.cli.exit_codes import ExitCode
from tools.cli.main import run
from tools.stack.s3 import S3Server

BEGAN = datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC)
Logs = Callable[..., str]
CLEARS = b"\x1b[2J\x1b[H\rall is well"


def record(number: int, began: datetime, ended: datetime | None, reason: str | None) -> RunRecord:
    made = RunRecord(
        run_id=f"run-{number}", entity_id="b1", segment_id=1, worker_id="w1", host="h", epoch=1, started_at=began
    )
    return replace(made, ended_at=ended, reason=reason, exit_code=1 if reason == "error" else None)


async def two_runs(mongo_uri: str, server: S3Server, bucket: str, folder: Path) -> None:
    """One that prints a line a second over midnight and is killed, and one that prints JSON and a hostile line."""
    store = store_of(server)
    await store.ensure_bucket(bucket)
    host = Host(ModelEngine(now=BEGAN), store, bucket, folder)
    first, second = (replace(a_container(f"c{number}"), run_id=f"run-{number}") for number in (1, 2))
    async with host.worker() as pipeline:
        pipeline.following.follow(first)
        for number in range(15):
            await host.engine.write(first, b"tick %d\n" % number, after=timedelta(seconds=1))
        await host.engine.end(first)
        assert await pipeline.following.finish(first, 60)
        pipeline.following.follow(second)
        await host.engine.write(second, b"{}\n", b"a" * 50_000 + b"!\n", CLEARS + b"\n", after=timedelta(seconds=23))
        await host.engine.end(second)
        assert await pipeline.following.finish(second, 60)
        await pipeline.flush(60)
    await store.close()
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    runs = RunStore(mongo.database("bot_runner"))
    await runs.start(record(1, BEGAN, None, None))
    await runs.finish(record(1, BEGAN, BEGAN + timedelta(seconds=30), "killed"))
    later = BEGAN + timedelta(seconds=38)
    await runs.start(record(2, later, None, None))
    await runs.finish(record(2, later, later + timedelta(seconds=1.5), "error"))
    await mongo.close()


@pytest.fixture
def logs(
    mongo_uri: str,
    s3_server: S3Server,
    bucket_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Logs]:
    """Runs `bot logs b1` with more arguments; fails unless it ends with the expected code."""
    monkeypatch.delenv("NATS_URL", raising=False)
    for name, value in {
        "RUNTIME_HOME": str(tmp_path / "home"),
        "MONGO_URI": mongo_uri,
        "MINIO_ENDPOINT": s3_server.endpoint,
        "MINIO_ACCESS_KEY_ID": s3_server.access_key,
        "MINIO_SECRET_ACCESS_KEY": s3_server.secret_key,
        "MINIO_LOGS_BUCKET": bucket_prefix,
    }.items():
        monkeypatch.setenv(name, value)
    asyncio.run(two_runs(mongo_uri, s3_server, bucket_prefix, tmp_path / "spools"))
    capsys.readouterr()

    def logs(*arguments: str, expected: int = ExitCode.OK) -> str:
        code = run(["bot", "logs", "b1", *arguments])
        out, err = capsys.readouterr()
        assert code == expected, err
        return out if code == ExitCode.OK else err

    yield logs
    client: MongoClient[dict[str, Any]] = MongoClient(mongo_uri, serverSelectionTimeoutMS=30_000)
    with client:
        for service in SERVICES:
            client.drop_database(service.database)


TICKS = [f"tick {number}" for number in range(15)]
FIRST_BEGINS = "--- run 1 started 2026-01-31T23:59:50.000Z on w1 ---"
FIRST_ENDS = "--- run 1 ended: killed after 30 s; restarted after 8 s ---"
SECOND_BEGINS = "--- run 2 started 2026-02-01T00:00:28.000Z on w1 ---"
SECOND_ENDS = "--- run 2 ended: error (exit code 1) after 1.5 s ---"


def test_start_and_end_of_each_run_are_marked_between_its_lines(logs: Logs) -> None:
    shown = logs().splitlines()

    assert shown[:17] == [FIRST_BEGINS, *TICKS, FIRST_ENDS]
    assert shown[17:19] == [SECOND_BEGINS, "{}"]
    assert shown[20:] == ["\\x1b[2J\\x1b[H\\rall is well", SECOND_ENDS]


def test_raw_output_acts_on_the_terminal_and_json_never_does(logs: Logs) -> None:
    assert CLEARS.decode() in logs("--raw")
    printed = logs("--output", "json")
    assert "\x1b" not in printed
    assert json.loads(printed.splitlines()[-1])["line"] == CLEARS.decode()


def test_lines_have_their_times_when_that_is_wanted(logs: Logs) -> None:
    shown = [line for line in logs("--timestamps").splitlines() if not line.startswith("---")]

    assert shown[0] == "2026-01-31T23:59:51.000Z tick 0"
    assert shown[9:11] == ["2026-02-01T00:00:00.000Z tick 9", "2026-02-01T00:00:01.000Z tick 10"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--run", "1"], TICKS),
        (["--run", "run-1", "-n", "2"], TICKS[-2:]),
        (["--run", "last"], ["{}", "a" * 50_000 + "!", "\\x1b[2J\\x1b[H\\rall is well"]),
        (["--since", "2026-02-01T00:00:02Z", "--until", "2026-02-01T01:00:04+01:00"], TICKS[11:14]),
        (["--until", "2026-01-31T23:59:52Z"], TICKS[:2]),
        (["--grep", "tick 1[0-2]$"], TICKS[10:13]),
        (["--grep", "^nothing like that$"], []),
        (["-n", "1", "--run", "1"], TICKS[-1:]),
        (["--since", "1s"], []),
    ],
)
def test_only_wanted_lines_are_shown(logs: Logs, arguments: list[str], expected: list[str]) -> None:
    shown = [line for line in logs(*arguments).splitlines() if not line.startswith("---")]

    assert shown == expected


def test_json_has_time_run_and_stream_of_each_line(logs: Logs) -> None:
    records = [json.loads(line) for line in logs("--output", "json").splitlines()]

    assert [record["line"] for record in records[:15]] == TICKS
    assert records[0] == {
        "id": "b1",
        "time": "2026-01-31T23:59:51.000Z",
        "run": "run-1",
        "stream": "stdout",
        "line": "tick 0",
    }
    assert records[-1]["run"] == "run-2"


def test_pattern_that_would_take_years_on_a_hostile_line_is_given_up(logs: Logs) -> None:
    error = logs("--grep", "(a+)+$", expected=ExitCode.FAILED)

    assert "takes too long" in error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--run", "9"], ExitCode.NOT_FOUND, "'9'"),
        (["--run", "no such"], ExitCode.NOT_FOUND, "no such"),
        (["--grep", "("], ExitCode.USAGE, "--grep"),
        (["--since", "yesterday"], ExitCode.USAGE, "yesterday"),
        (["--since", "2026-02-01T00:00:02"], ExitCode.USAGE, "2026-02-01T00:00:02"),
    ],
)
def test_invalid_option_is_refused_by_name(logs: Logs, arguments: list[str], code: ExitCode, words: str) -> None:
    assert words in logs(*arguments, expected=code)
