"""`runtime bot metrics` and `runtime schedule metrics` over a real MongoDB."""

import pytest

from libs.core.process.service import BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition
from tests.support.rigs.commands import Commands
from tools.cli.exit_codes import ExitCode

NOON = 1_800_000_000


def stored(commands: Commands, service: ServiceDefinition, *, left_out: bool = False) -> None:
    database = commands.mongo[service.database]
    entity = database[service.collection].insert_one({"id": "b1", "segment_id": 3}).inserted_id
    series = {
        "name": "pnl",
        "kind": "pnl",
        "value": 12_345.75,
        "at": NOON + 125.5,
        "texts": [["symbol", "BTC\x1b[31m"]],
    }
    series["points"] = [[NOON // 60, 1.0], [NOON // 60 + 2, 12_345.75]]
    database["bot_metrics"].insert_one({"_id": "b1", "entity": entity, "left_out": left_out, "series": [series]})


@pytest.mark.parametrize(("group", "service"), [("bot", BOT_RUNNER), ("schedule", BOT_SCHEDULER)])
def test_metrics_are_shown_with_their_last_hour(commands: Commands, group: str, service: ServiceDefinition) -> None:
    stored(commands, service, left_out=True)

    found = commands.json(group, "metrics", "b1")
    code, out, err = commands.run(group, "metrics", "b1")

    [metric] = found["metrics"]
    assert (metric["name"], metric["value"], metric["at"]) == ("pnl", 12_345.75, "2027-01-15T08:02:05.500000+00:00")
    assert [point["value"] for point in metric["points"]] == [1.0, 12_345.75]
    assert (code, "12,345.75" in out, "▁ █" in out) == (ExitCode.OK, True, True)
    assert "symbol: BTC\\x1b[31m" in out
    assert "METRICS_BOT_NAMES" in err


def test_bot_without_metrics_is_told_from_an_unknown_one(commands: Commands) -> None:
    commands.mongo[BOT_RUNNER.database]["bots"].insert_one({"id": "b1", "segment_id": 3})

    assert commands.text("bot", "metrics", "b1") == "b1 has printed no metrics.\n"
    code, _, err = commands.run("bot", "metrics", "typo")
    assert (code, "there is no bot 'typo'" in err) == (ExitCode.NOT_FOUND, True)
