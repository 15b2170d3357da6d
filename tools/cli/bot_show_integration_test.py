"""`runtime bot show` over a real MongoDB."""

from datetime import UTC, datetime, timedelta

from libs.core.process.service import BOT_RUNNER
from tests.support.rigs.commands import Commands
from tools.cli.exit_codes import ExitCode

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def stored(commands: Commands, **status: object) -> None:
    database = commands.mongo[BOT_RUNNER.database]
    lease = {"worker_id": "w1", "instance_id": "i", "host": "h", "epoch": 1}
    lease |= {"expires_at": datetime.now(UTC) + timedelta(minutes=30)}
    database["partitions"].insert_one({"_id": 3, "bot_count": 1, "lease": lease})
    database["bots"].insert_one(
        {
            "id": "b1",
            "segment_id": 3,
            "config": {"symbol": "BTC-USD", "api_key": "hush"},
            "custom": {"version": "1.2.3", "config": {"runtime": "python3.11"}},
            "status": {"worker": "w1", "since": NOW, **status},
        }
    )
    database["runs"].insert_one(
        {"_id": "r1", "entity_id": "b1", "segment_id": 3, "worker_id": "w1", "host": "h", "epoch": 1}
        | {"started_at": NOW, "ended_at": NOW + timedelta(seconds=30), "reason": "error", "exit_code": 1}
        | {"last_lines": ["ValueError: no funds"], "open": False}
    )


def test_a_bot_is_shown_with_where_it_runs_its_masked_config_and_its_runs(commands: Commands) -> None:
    stored(commands, state="running")

    bot = commands.json("bot", "show", "b1")
    text = commands.text("bot", "show", "b1")

    assert (bot["state"], bot["segment"], bot["worker"], bot["version"]) == ("running", 3, "w1", "1.2.3")
    assert bot["config"]["symbol"] == "BTC-USD"
    assert "hush" not in str(bot) + text
    assert [(run["run_id"], run["state"], run["exit_code"]) for run in bot["runs"]] == [("r1", "error", 1)]
    assert text.startswith("b1 running\n")
    assert '"symbol": "BTC-USD"' in text
    assert "ValueError: no funds" in text


def test_a_bot_that_waits_for_room_is_shown_with_what_it_needs_when_no_master_can_be_asked(commands: Commands) -> None:
    detail = "waiting: needs 512 MiB, the engine has 130 MiB free"
    stored(commands, state="waiting", detail=detail, lacking={"memory_bytes": 512, "cpus": 0.0})

    bot = commands.json("bot", "show", "b1")

    assert (bot["lacking"], bot["missing"]) == ({"memory_bytes": 512, "cpus": 0.0}, "")
    assert f"b1 waiting\n  {detail}\n" in commands.text("bot", "show", "b1")


def test_a_bot_that_does_not_wait_lacks_nothing(commands: Commands) -> None:
    stored(commands, state="running", lacking={"memory_bytes": 512, "cpus": 0.0})

    assert commands.json("bot", "show", "b1")["lacking"] is None


def test_an_unknown_bot_is_not_found(commands: Commands) -> None:
    code, _, err = commands.run("bot", "show", "typo")

    assert (code, "there is no bot 'typo'" in err) == (ExitCode.NOT_FOUND, True)
