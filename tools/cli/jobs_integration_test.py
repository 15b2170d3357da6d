"""`runtime backtest` and `runtime schedule` over real servers, without workers."""

import getpass
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from minio import Minio

from services.backtest_runner.objects import analysis_key, logs_key
from tests.support.rigs.commands import Commands
from tools import samples
from tools.cli.exit_codes import ExitCode
from tools.stack.s3 import S3Server

SAMPLES = Path(samples.__file__).parent
BACKTEST = str(SAMPLES / "moving_average_crossover")
SCHEDULE = str(SAMPLES / "rebalance")


StoreResult = Callable[[str, str, str], None]


@pytest.fixture
def store_result(commands: Commands, s3_server: S3Server, bucket_prefix: str) -> StoreResult:
    """Stores what a backtest that is done leaves: its result and its output."""
    client = Minio(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, secure=False)
    bucket = f"{bucket_prefix}results"
    if not client.bucket_exists(bucket):
        client.make_bucket(bucket)

    def store(backtest_id: str, analysis: str, printed: str) -> None:
        for key, text in ((analysis_key(backtest_id), analysis), (logs_key(backtest_id), printed)):
            client.put_object(bucket, key, io.BytesIO(text.encode()), len(text.encode()))

    return store


@pytest.mark.parametrize(
    "command",
    [
        *("backtest show {}", "backtest logs {}", "backtest cancel {}"),
        *("schedule history {}", "schedule trigger {}", "schedule pause {}", "schedule resume {}", "schedule rm {}"),
        *("schedule logs {}", "bot logs {}", "bot rm {}"),
    ],
)
def test_an_unknown_id_is_named_and_not_found(commands: Commands, command: str) -> None:
    entity_id = "../a b 🤖"
    code, _, err = commands.run(*(word.format(entity_id) for word in command.split()))

    assert code == ExitCode.NOT_FOUND
    assert repr(entity_id) in err


@pytest.mark.parametrize("command", ["backtest ls", "schedule ls", "bot ls"])
def test_there_is_nothing_in_a_new_deployment(commands: Commands, command: str) -> None:
    assert commands.json(*command.split()) == []
    assert "There are no" in commands.text(*command.split())


def test_long_result_of_a_backtest_is_named_instead_of_dumped(commands: Commands, store_result: StoreResult) -> None:
    result = json.dumps({"metrics": {"profit": 1}, "plots": ["x" * 200_000]})
    store_result("b1", result, f'bought 3\n{{"sold": 3}}\n{result}\n')
    store_result("b2", '{"metrics": {}}', 'bought 4\n{"metrics": {}}\n')

    shown = commands.text("backtest", "logs", "b1").splitlines()

    assert shown[:2] == ["bought 3", '{"sold": 3}']
    assert len(shown) == 3
    assert len(shown[2]) < 200
    assert "runtime backtest show b1" in shown[2]
    assert commands.text("backtest", "logs", "b2") == 'bought 4\n{"metrics": {}}\n'


def test_a_backtest_that_waits_is_listed_shown_and_cancelled(commands: Commands) -> None:
    announced = commands.json("backtest", "run", BACKTEST, "--id", "b1", "--no-wait")

    assert announced["id"] == "b1"
    [row] = commands.json("backtest", "ls")
    assert (row["id"], row["state"], row["worker"]) == ("b1", "waiting", None)
    assert "b1" in commands.text("backtest", "ls")
    assert commands.json("backtest", "show", "b1")["state"] == "waiting"
    assert commands.text("backtest", "show", "b1") == "b1 waiting\n"
    assert commands.text("backtest", "logs", "b1") == ""
    assert commands.json("backtest", "cancel", "b1", "--no-wait")["state"] == "being cancelled"


def test_user_without_a_name_cancels_a_backtest_and_pauses_a_schedule(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.text("backtest", "run", BACKTEST, "--id", "b1", "--no-wait")
    commands.text("schedule", "deploy", SCHEDULE, "--id", "s1", "--schedule", "@daily", "--no-wait")

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nameless)
    commands.text("backtest", "cancel", "b1", "--no-wait")
    commands.text("schedule", "pause", "s1")

    [backtest] = commands.mongo["backtest_runner"]["backtests"].find()
    [schedule] = commands.mongo["bot_scheduler"]["bot_schedules"].find()
    assert backtest["backtest"]["cancel"]["by"].startswith("unknown@")
    assert schedule["scheduler"]["paused"]["by"].startswith("unknown@")


def test_a_backtest_is_run_once_under_its_id(commands: Commands) -> None:
    commands.text("backtest", "run", BACKTEST, "--id", "b1", "--no-wait")

    code, _, err = commands.run("backtest", "run", BACKTEST, "--id", "b1")

    assert code == ExitCode.FAILED
    assert "backtest 'b1' already exists, and each runs only once; give another --id" in err


def test_backtests_without_an_id_get_one_each(commands: Commands) -> None:
    first = commands.json("backtest", "run", BACKTEST, "--no-wait")["id"]
    second = commands.json("backtest", "run", BACKTEST, "--no-wait")["id"]

    assert first != second
    assert first.startswith("moving-average-crossover-")


def test_a_page_is_not_asked_for_where_it_cannot_be_written(commands: Commands, tmp_path: Path) -> None:
    code, _, err = commands.run("backtest", "run", BACKTEST, "--html", str(tmp_path / "absent" / "page.html"))

    assert code == ExitCode.USAGE
    assert "there is no folder" in err
    assert commands.json("backtest", "ls") == []


def test_a_schedule_is_deployed_paused_resumed_triggered_and_removed(commands: Commands) -> None:
    options = ("--schedule", "0 9 * * MON-FRI", "--timezone", "Europe/Berlin", "--no-wait")
    deployed = commands.json("schedule", "deploy", SCHEDULE, "--id", "s1", *options)
    assert (deployed["event"], deployed["meaning"]) == ("created", "At 09:00 on Monday to Friday (Europe/Berlin)")

    [row] = commands.json("schedule", "ls")
    assert (row["id"], row["state"], row["timezone"], row["last_run"]) == ("s1", "waiting", "Europe/Berlin", None)
    assert row["next_run"] == deployed["next"]
    assert commands.json("schedule", "history", "s1") == []
    assert commands.json("schedule", "pause", "s1") == {"id": "s1", "paused": True}
    assert commands.json("schedule", "ls")[0]["state"] == "paused"
    assert commands.json("schedule", "resume", "s1")["paused"] is False
    assert commands.json("schedule", "trigger", "s1", "--no-wait") == {"id": "s1", "triggered": True}
    assert commands.json("schedule", "deploy", SCHEDULE, "--id", "s1", *options)["event"] == "updated"
    assert commands.json("schedule", "rm", "s1") == {"id": "s1", "removed": True}
    assert commands.json("schedule", "ls") == []


def test_the_next_run_is_shown_in_the_zone_of_this_machine(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--schedule", "0 9 1 1 *", "--timezone", "UTC", "--no-wait")
    commands.text("schedule", "deploy", SCHEDULE, "--id", "s1", *options)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()  # the C library reads it once
    try:
        shown = commands.text("schedule", "ls")
    finally:
        monkeypatch.undo()
        time.tzset()  # the C library reads it once

    assert "01-01 18:00:00 JST" in shown


def test_six_fields_begin_with_the_second(commands: Commands) -> None:
    options = ("--schedule", "30 0 9 * * *", "--no-wait")
    deployed = commands.json("schedule", "deploy", SCHEDULE, "--id", "s1", *options)

    assert deployed["meaning"].startswith("At 09:00:30")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schedule", "61 * * * *"], "minute 61 is out of range; the range is 0 to 59"),
        (["--schedule", "0 9 * * MON-FRI 0"], "the first of six fields is the second"),
        (["--schedule", "* * *"], "number of fields is 3; write five fields"),
        (["--timezone", "Mars/Base"], "time zone 'Mars/Base' is unknown; write an IANA name such as Europe/Berlin"),
        (["--config", '{"overlap": "maybe"}'], "config.overlap is 'maybe'; it must be one of skip, queue, replace"),
        (["--config", '{"timeout": "long"}'], "config.timeout is 'long'; it must be a number from"),
        (["--config", "{"], "--config is not JSON"),
        (["--config", "/does/not/exist"], "--config /does/not/exist: No such file or directory; name a file"),
        (["--entrypoint", "absent.py"], "the bot entrypoint 'absent.py' is not a file in"),
        (["--runtime", "cobol"], "unknown runtime 'cobol'; known are: nodejs20, python3.11"),
    ],
)
def test_invalid_schedule_is_reported_and_not_deployed(commands: Commands, options: list[str], message: str) -> None:
    code, out, err = commands.run("schedule", "deploy", SCHEDULE, *options)

    assert (code, out) == (ExitCode.USAGE, "")
    assert message in err
    assert commands.json("schedule", "ls") == []


def test_folder_without_expression_is_rejected_as_schedule(commands: Commands) -> None:
    code, _, err = commands.run("schedule", "deploy", str(SAMPLES / "price_ticker"))

    assert code == ExitCode.USAGE
    assert 'give --schedule "0 9 * * MON-FRI", or write config.schedule in its bot.json' in err


@pytest.mark.parametrize("command", ["backtest run", "schedule deploy", "bot deploy"])
def test_folder_without_code_is_reported_with_remedy(commands: Commands, command: str, tmp_path: Path) -> None:
    code, _, err = commands.run(*command.split(), str(tmp_path))

    assert code == ExitCode.USAGE
    assert "name the file to run with --entrypoint" in err


def test_config_that_is_not_text_is_reported(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")

    code, _, err = commands.run("backtest", "run", BACKTEST, "--config", str(tmp_path / "config.json"))

    assert code == ExitCode.USAGE
    assert "--config" in err
