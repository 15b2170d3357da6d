"""The command line of a service."""

import pytest

from libs.core.process.command_line import parse
from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER

UNSET = {"max_segment": None, "mode": None, "mongo_uri": None, "worker_id": None}


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_role_alone_leaves_every_setting_to_the_environment(role: str) -> None:
    assert parse(BOT_RUNNER, [role]) == (role, UNSET)


def test_flags_are_handed_on_as_they_were_written() -> None:
    role, flags = parse(BOT_RUNNER, ["worker", "--mongo-uri=mongodb://db", "--worker-id", "w1", "--max-segment", "4"])

    assert role == "worker"
    assert flags == UNSET | {"mongo_uri": "mongodb://db", "worker_id": "w1", "max_segment": "4"}


def test_standalone_names_the_role_and_implies_the_mode() -> None:
    assert parse(BACKTEST_RUNNER, ["standalone", "--node=master"]) == ("master", UNSET | {"mode": "standalone"})


def test_standalone_does_not_override_a_mode_that_was_given() -> None:
    assert parse(BACKTEST_RUNNER, ["standalone", "--node=worker", "--mode=cluster"])[1]["mode"] == "cluster"


@pytest.mark.parametrize("arguments", [[], ["boss"], ["standalone", "--node=master"], ["worker", "--colour=red"]])
def test_anything_else_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(BOT_RUNNER, arguments)

    assert "usage: bot-runner" in capsys.readouterr().err
