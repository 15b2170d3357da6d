"""`runtime gc` over real servers, and that the commands upload identical code once."""

import time
from pathlib import Path

import pytest
from minio import Minio

from tests.support.rigs.commands import Commands
from tools import samples
from tools.cli.exit_codes import ExitCode
from tools.stack.s3 import S3Server

SAMPLES = Path(samples.__file__).parent
BACKTEST = str(SAMPLES / "moving_average_crossover")
BOT = str(SAMPLES / "price_ticker")


@pytest.fixture
def bucket(s3_server: S3Server, bucket_prefix: str) -> "Bucket":
    return Bucket(s3_server, f"{bucket_prefix}bots")


class Bucket:
    """The code bucket."""

    def __init__(self, server: S3Server, name: str) -> None:
        self._client = Minio(server.endpoint, server.access_key, server.secret_key, secure=False)
        self._name = name

    def keys(self) -> list[str]:
        """All that is in it."""
        return [str(found.object_name) for found in self._client.list_objects(self._name, recursive=True)]


def counted(commands: Commands) -> dict[tuple[str, str], int]:
    """What would be removed, by service and kind."""
    rows = commands.json("gc", "--dry-run")
    return {(row["service"], row["kind"]): row["count"] for row in rows if row["count"]}


def test_backtests_of_the_same_folder_share_one_object(commands: Commands, bucket: Bucket) -> None:
    for number in range(3):
        commands.json("backtest", "run", BACKTEST, "--id", f"b{number}", "--no-wait")

    [key] = bucket.keys()
    assert key.startswith(".the0/code/backtest-runner/")


def test_a_bot_that_is_deployed_twice_keeps_its_code(commands: Commands, bucket: Bucket) -> None:
    first = commands.json("bot", "deploy", BOT, "--id", "one", "--no-wait")
    again = commands.json("bot", "deploy", BOT, "--id", "one", "--no-wait")
    other = commands.json("bot", "deploy", BOT, "--id", "two", "--no-wait")

    assert first["code"]["key"] == again["code"]["key"] == other["code"]["key"]
    assert bucket.keys() == [first["code"]["key"]]


def test_dry_run_counts_code_that_nothing_refers_to_and_removes_nothing(
    commands: Commands, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.json("backtest", "run", BACKTEST, "--id", "b1", "--no-wait")
    commands.json("bot", "deploy", BOT, "--id", "stays", "--no-wait")
    commands.mongo["backtest_runner"]["backtests"].delete_many({})
    before = commands.json("gc", "--dry-run")
    monkeypatch.setenv("CODE_RETENTION_DAYS", "0.0000001")

    # The storage's clock has whole seconds.
    deadline = time.monotonic() + 60
    while not (found := counted(commands)) and time.monotonic() < deadline:
        time.sleep(0.2)

    assert {row["count"] for row in before} == {0}
    assert found == {("backtest-runner", "code"): 1}
    assert len(bucket.keys()) == 2
    assert "backtest-runner" in commands.text("gc", "--dry-run")


def test_without_dry_run_nothing_is_done(commands: Commands) -> None:
    code, _, err = commands.run("gc")

    assert code == ExitCode.USAGE
    assert "--dry-run" in err
