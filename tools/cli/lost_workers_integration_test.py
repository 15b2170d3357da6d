"""The commands' output about bots, schedules and backtests of lost workers, over a real MongoDB."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition
from tests.support.rigs.commands import Commands

NOW = datetime.now(UTC)
FIRING = {"at": int(time.time()), "run_id": "r1", "host": "h", "worker": "w1", "epoch": 1, "started": True}
DOCUMENTS: dict[ServiceDefinition, dict[str, Any]] = {
    BOT_RUNNER: {"config": {}},
    BACKTEST_RUNNER: {"config": {}},
    BOT_SCHEDULER: {"config": {"schedule": "@hourly"}, "scheduler": {"firing": FIRING}},
}
COMMANDS = [(BOT_RUNNER, "bot"), (BACKTEST_RUNNER, "backtest"), (BOT_SCHEDULER, "schedule")]


def running(commands: Commands, service: ServiceDefinition, *, lease_seconds: float, worker: str | None = "w1") -> None:
    """An entity reported as running by a worker, under a lease that ends in so many seconds by the server's clock."""
    database = commands.mongo[service.database]
    status = {"state": "running", "worker": "w1", "since": NOW, "run_id": "r1"}
    database[service.collection].insert_one(
        {"id": "e1", "segment_id": 3, "custom": {}, "status": status, **DOCUMENTS[service]}
    )
    server_now = commands.mongo.admin.command("hello")["localTime"]
    lease = {"worker_id": worker, "instance_id": "i", "host": "h", "epoch": 1}
    expires_at = server_now + timedelta(seconds=lease_seconds)
    database["partitions"].insert_one({"_id": 3, "bot_count": 1, "lease": {**lease, "expires_at": expires_at}})
    database["runs"].insert_one(
        {"_id": "r1", "entity_id": "e1", "segment_id": 3, "worker_id": "w1", "host": "h", "epoch": 1}
        | {"started_at": NOW, "open": True}
    )


@pytest.mark.parametrize(("service", "command"), COMMANDS)
def test_entity_under_live_lease_is_shown_running(commands: Commands, service: ServiceDefinition, command: str) -> None:
    running(commands, service, lease_seconds=600)

    [row] = commands.json(command, "ls")

    assert (row["state"], row["state_reason"]) == ("running", "")
    assert entities(commands, service) == {"running": 1}


@pytest.mark.parametrize(("service", "command"), COMMANDS)
def test_entity_of_lost_worker_is_shown_unknown(commands: Commands, service: ServiceDefinition, command: str) -> None:
    running(commands, service, lease_seconds=-7200)

    [row] = commands.json(command, "ls")

    assert (row["state"], row["state_reason"]) == ("unknown", "worker lost 2 h ago")
    assert "unknown (worker lost 2 h ago)" in commands.text(command, "ls")
    assert entities(commands, service) == {"unknown": 1}
    assert f"{service.noun}s: 1 unknown" in commands.text("status")


@pytest.mark.parametrize(("service", "command"), COMMANDS)
def test_entity_of_released_segment_is_shown_waiting(
    commands: Commands, service: ServiceDefinition, command: str
) -> None:
    running(commands, service, lease_seconds=-1, worker=None)

    [row] = commands.json(command, "ls")

    assert (row["state"], row["state_reason"]) == ("waiting", "no worker has its segment")
    assert "no worker has its segment" in commands.text(command, "ls")


def test_open_run_of_a_lost_worker_is_not_shown_as_running(commands: Commands) -> None:
    running(commands, BOT_SCHEDULER, lease_seconds=-10)

    [run] = commands.json("schedule", "history", "e1")

    assert run["reason"] == "unknown"


def test_a_backtest_of_a_lost_worker_is_shown_as_unknown(commands: Commands) -> None:
    running(commands, BACKTEST_RUNNER, lease_seconds=-7200)

    assert commands.json("backtest", "show", "e1")["state"] == "unknown"
    assert commands.text("backtest", "show", "e1").startswith("e1 unknown (worker lost 2 h ago)")


def entities(commands: Commands, service: ServiceDefinition) -> dict[str, int]:
    [found] = [one for one in commands.json("status") if one["service"] == service.name]
    return dict(found["entities"])
