"""`runtime worker` over a real MongoDB, where no master leads."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, ServiceDefinition
from tests.support.rigs.commands import Commands
from tools.cli.exit_codes import ExitCode


def seen(commands: Commands, service: ServiceDefinition, worker_id: str) -> None:
    """A worker that was seen lately."""
    document = {"role": "worker", "name": worker_id, "hostname": "h", "addresses": [], "http_port": 1}
    commands.mongo[service.database]["processes"].insert_one(
        {"_id": f"worker:{worker_id}", "seen_at": datetime.now(UTC), **document}
    )


def leased(commands: Commands, worker_id: str, *segment_ids: int) -> None:
    lease = {"worker_id": worker_id, "instance_id": "i", "host": "h", "epoch": 1}
    lease |= {"expires_at": datetime.now(UTC) + timedelta(minutes=30)}
    commands.mongo[BOT_RUNNER.database]["partitions"].insert_many(
        [{"_id": segment_id, "bot_count": 1, "lease": lease} for segment_id in segment_ids]
    )


def wishes(commands: Commands, service: ServiceDefinition) -> dict[str, Any]:
    return {one["_id"]: one for one in commands.mongo[service.database]["cordons"].find({})}


def row(commands: Commands, worker_id: str) -> dict[str, Any]:
    [found] = [one for one in commands.json("worker", "ls") if one["id"] == worker_id]
    return dict(found)


@pytest.mark.parametrize("command", ["cordon", "drain", "uncordon"])
def test_unknown_worker_is_not_found_and_nothing_is_changed(commands: Commands, command: str) -> None:
    seen(commands, BOT_RUNNER, "w1")

    code, _, err = commands.run("worker", command, "w1", "typo")

    assert code == ExitCode.NOT_FOUND
    assert "there is no worker 'typo'" in err
    assert wishes(commands, BOT_RUNNER) == {}


def test_worker_of_another_service_is_not_found(commands: Commands) -> None:
    seen(commands, BACKTEST_RUNNER, "w1")

    code, _, err = commands.run("worker", "cordon", "w1", "--service", BOT_RUNNER.name)

    assert (code, "in bot-runner" in err) == (ExitCode.NOT_FOUND, True)


def test_cordon_is_stored_for_service_of_worker(commands: Commands) -> None:
    seen(commands, BACKTEST_RUNNER, "w1")

    said = commands.text("worker", "cordon", "w1", "--reason", "new disk")

    assert said == "w1 (backtest-runner) is cordoned and keeps what it owns.\n"
    assert wishes(commands, BOT_RUNNER) == {}
    assert wishes(commands, BACKTEST_RUNNER)["w1"]["reason"] == "new disk"


def test_worker_is_listed_as_cordoned_until_it_is_uncordoned(commands: Commands) -> None:
    leased(commands, "w1", 3, 4)
    before = row(commands, "w1")

    commands.text("worker", "cordon", "w1", "--reason", "new disk")
    listed = row(commands, "w1")
    text = commands.text("worker", "ls")
    undone = commands.text("worker", "uncordon", "w1")

    assert (before["state"], before["cordoned"], before["segments"]) == ("owning", False, [3, 4])
    assert (listed["state"], listed["cordoned"], listed["drained"]) == ("cordoned", True, False)
    assert "cordoned: new disk" in text
    assert undone == "w1 (bot-runner) receives segments again.\n"
    assert row(commands, "w1") == before
    assert commands.text("worker", "uncordon", "w1") == "w1 (bot-runner) was not cordoned.\n"


def test_cordoned_worker_that_is_gone_is_listed_and_can_be_uncordoned(commands: Commands) -> None:
    seen(commands, BOT_RUNNER, "w1")
    commands.text("worker", "cordon", "w1")
    commands.mongo[BOT_RUNNER.database]["processes"].delete_many({})

    assert row(commands, "w1")["state"] == "gone"
    commands.text("worker", "uncordon", "w1")
    assert commands.json("worker", "ls") == []


def test_drain_that_no_master_begins_ends_with_the_timeout_and_names_what_is_left(commands: Commands) -> None:
    leased(commands, "w1", 3)

    code, _, err = commands.run("worker", "drain", "w1", "--timeout", "0.5")

    assert code == ExitCode.TIMEOUT
    assert "no master has started its drain" in err
    assert wishes(commands, BOT_RUNNER)["w1"]["drain"] is True


def test_cordon_ends_a_drain(commands: Commands) -> None:
    leased(commands, "w1", 3)
    commands.run("worker", "drain", "w1", "--timeout", "0")

    commands.text("worker", "cordon", "w1")

    assert (row(commands, "w1")["cordoned"], row(commands, "w1")["drained"]) == (True, False)
