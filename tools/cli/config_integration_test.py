"""`deploy` keeps what is stored, and `config` shows and changes it, over real servers, where no worker runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.rigs.commands import Commands
from tools.bots.config_edit import MASK
from tools.cli.exit_codes import ExitCode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bot's folder with its own config."""
    bot = tmp_path / "bot"
    bot.mkdir()
    (bot / "main.py").write_text("def main(id, config): return {}\n")
    (bot / "other.py").write_text("def main(id, config): return {}\n")
    write(bot, {"symbol": "BTC", "limit": 5})
    return bot


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "bot.json").write_text(json.dumps({"name": "b", "version": "1.0.0", "config": config}))


def deploy(commands: Commands, folder: Path, *more: str) -> dict[str, Any]:
    """Deploy the bot, and return its document."""
    commands.json("bot", "deploy", str(folder), "--wait", "0", *more)
    return document(commands)


def document(commands: Commands, database: str = "bot_runner", collection: str = "bots") -> dict[str, Any]:
    return dict(commands.mongo[database][collection].find_one({"id": "b"}) or {})


def test_deploy_without_flags_keeps_earlier_flags(commands: Commands, folder: Path) -> None:
    deploy(commands, folder, "--config", '{"api_key": "s3cr3t", "symbol": "ETH"}', "--entrypoint", "other.py")
    write(folder, {"symbol": "BTC", "limit": 6})

    again = deploy(commands, folder)

    assert again["config"] == {"api_key": "s3cr3t", "symbol": "ETH", "limit": 6}
    assert again["custom"]["config"]["entrypoints"] == {"bot": "other.py"}
    assert again["revision"] == 2


def test_deploy_with_reset_starts_anew(commands: Commands, folder: Path) -> None:
    deploy(commands, folder, "--config", '{"api_key": "s3cr3t"}', "--entrypoint", "other.py")

    again = deploy(commands, folder, "--reset-config", "--config", '{"limit": 7}')

    assert again["config"] == {"symbol": "BTC", "limit": 7}
    assert again["custom"]["config"]["entrypoints"] == {"bot": "main.py"}


def test_deploy_keeps_fields_that_another_program_announced(commands: Commands, folder: Path) -> None:
    deploy(commands, folder)
    commands.mongo["bot_runner"]["bots"].update_one(
        {"id": "b"}, {"$set": {"team": "alpha", "event.fields": ["team"], "config.limit": 9}}
    )

    again = deploy(commands, folder)

    assert (again["team"], again["config"]["limit"]) == ("alpha", 9)


def test_flag_of_earlier_deploy_replaces_missing_value_of_folder(commands: Commands, tmp_path: Path) -> None:
    bot = tmp_path / "b"
    bot.mkdir()
    (bot / "strategy.py").write_text("def main(id, config): return {}\n")
    deploy(commands, bot, "--entrypoint", "strategy.py")

    assert deploy(commands, bot)["revision"] == 2


def test_config_is_shown_with_secrets_masked_unless_they_are_to_be_revealed(commands: Commands, folder: Path) -> None:
    deploy(commands, folder, "--config", '{"api_key": "s3cr3t", "url": "https://me:pw@host/"}')

    shown = commands.json("bot", "config", "show", "b")["config"]
    text = commands.text("bot", "config", "show", "b")

    assert shown == {"symbol": "BTC", "limit": 5, "api_key": MASK, "url": f"https://me:{MASK}@host/"}
    assert json.loads(text) == shown
    revealed = commands.json("bot", "config", "show", "b", "--reveal")["config"]
    assert revealed["api_key"] == "s3cr3t"


def test_config_is_set_and_unset_and_a_deploy_keeps_that(commands: Commands, folder: Path) -> None:
    deploy(commands, folder)

    commands.json("bot", "config", "set", "b", "limits.max=5", "symbol=ETH", "on=true", "--wait", "0")
    assert document(commands)["config"] == {"symbol": "ETH", "limit": 5, "limits": {"max": 5}, "on": True}

    commands.json("bot", "config", "unset", "b", "limits.max", "limit", "--wait", "0")
    assert document(commands)["config"] == {"symbol": "ETH", "limits": {}, "on": True}

    assert deploy(commands, folder)["config"] == {"symbol": "ETH", "limits": {}, "on": True}


def test_config_that_is_so_already_announces_nothing(commands: Commands, folder: Path) -> None:
    deploy(commands, folder)

    assert commands.json("bot", "config", "set", "b", "limit=5") == {"id": "b", "changed": False}
    assert document(commands)["revision"] == 1


def test_config_that_the_schema_does_not_allow_is_refused_as_by_a_deploy(commands: Commands, folder: Path) -> None:
    schema = {"type": "object", "required": ["limit"], "properties": {"limit": {"type": "integer", "maximum": 9}}}
    description = {"name": "b", "version": "1.0.0", "config": {"limit": 5}, "schema": schema}
    (folder / "bot.json").write_text(json.dumps(description))
    deploy(commands, folder)

    refusals = [
        commands.run("bot", "config", *change, "--wait", "0")
        for change in (("set", "b", "limit=10"), ("set", "b", "limit=many"), ("unset", "b", "limit"))
    ]

    assert [code for code, _, _ in refusals] == [ExitCode.USAGE] * 3
    for (_, _, err), said in zip(
        refusals,
        ("config.limit: must be at most 9", "config.limit: must be of type integer", "config: lacks 'limit'"),
        strict=True,
    ):
        assert f"the changed config: {said}" in err
    assert document(commands)["revision"] == 1
    commands.json("bot", "config", "set", "b", "limit=9", "enabled=false", "--wait", "0")
    assert document(commands)["config"] == {"limit": 9, "enabled": False}


def test_config_of_a_schedule_that_the_schema_does_not_allow_is_refused(commands: Commands, folder: Path) -> None:
    schema = {"type": "object", "properties": {"limit": {"type": "integer"}}}
    (folder / "bot.json").write_text(json.dumps({"name": "b", "version": "1.0.0", "schema": schema}))
    commands.json("schedule", "deploy", str(folder), "--schedule", "@daily", "--no-wait")

    code, _, err = commands.run("schedule", "config", "set", "b", "limit=x", "--no-wait")

    assert (code, "config.limit: must be of type integer" in err) == (ExitCode.USAGE, True)
    assert "limit" not in document(commands, "bot_scheduler", "bot_schedules")["config"]


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["show", "TYPO"], ExitCode.NOT_FOUND, "there is no bot 'TYPO'"),
        (["set", "TYPO", "a=1"], ExitCode.NOT_FOUND, "there is no bot 'TYPO'"),
        (["unset", "b", "nope"], ExitCode.NOT_FOUND, "there is no 'nope' in the config"),
        (["set", "b", "nope"], ExitCode.USAGE, "'nope' is not KEY=VALUE"),
        (["set", "b", "symbol.x=1"], ExitCode.USAGE, "'symbol' is not an object"),
    ],
)
def test_invalid_config_command_reports_reason_and_changes_nothing(
    commands: Commands, folder: Path, command: list[str], code: ExitCode, said: str
) -> None:
    deploy(commands, folder)

    ended, out, err = commands.run("bot", "config", *command)

    assert (ended, out) == (code, "")
    assert said in err
    assert document(commands)["revision"] == 1


def test_config_that_runs_counts_while_the_newest_version_is_rejected(commands: Commands, folder: Path) -> None:
    deploy(commands, folder, "--config", '{"limit": 1}')
    first = document(commands)
    bad = deploy(commands, folder, "--config", '{"limit": 2, "resources": {"memoryMb": 10000000}}')
    current = {"revision": 1, "config": first["config"], "custom": first["custom"]}
    rejection = {"revision": 2, "reason": "limits", "detail": "too much"}
    commands.mongo["bot_runner"]["bots"].update_one(
        {"id": "b"}, {"$set": {"release.current": current, "status": {"state": "running", "rejection": rejection}}}
    )
    assert bad["revision"] == 2

    assert commands.json("bot", "config", "show", "b")["config"] == {"symbol": "BTC", "limit": 1}
    commands.json("bot", "config", "set", "b", "symbol=ETH", "--wait", "0")
    assert document(commands)["config"] == {"symbol": "ETH", "limit": 1}


def schedule(commands: Commands) -> dict[str, Any]:
    return document(commands, "bot_scheduler", "bot_schedules")


def test_schedule_keeps_expression_zone_and_config_when_it_is_deployed_again(commands: Commands, folder: Path) -> None:
    when = ["--schedule", "0 9 * * *", "--timezone", "Europe/Berlin", "--config", '{"api_key": "k"}']
    commands.json("schedule", "deploy", str(folder), *when)
    before = schedule(commands)

    commands.json("schedule", "deploy", str(folder))

    after = schedule(commands)
    assert after["config"] == before["config"]
    assert after["config"]["timezone"] == "Europe/Berlin"
    assert after["next_execution_time"] == before["next_execution_time"]
    assert after["revision"] == 2


def test_schedule_config_is_changed_and_checked(commands: Commands, folder: Path) -> None:
    commands.json("schedule", "deploy", str(folder), "--schedule", "0 9 * * *")

    commands.json("schedule", "config", "set", "b", "timezone=Europe/Berlin", "token=x")
    assert commands.json("schedule", "config", "show", "b")["config"]["token"] == MASK
    code, _, err = commands.run("schedule", "config", "set", "b", "timezone=Nowhere")

    assert code == ExitCode.USAGE
    assert "Nowhere" in err
    assert schedule(commands)["config"]["timezone"] == "Europe/Berlin"
    commands.json("schedule", "config", "unset", "b", "timezone")
    assert "timezone" not in schedule(commands)["config"]


@pytest.mark.parametrize(
    ("command", "place"), [("bot", ("bot_runner", "bots")), ("schedule", ("bot_scheduler", "bot_schedules"))]
)
def test_deploy_of_a_config_that_does_not_match_the_schema_changes_nothing(
    commands: Commands, folder: Path, command: str, place: tuple[str, str]
) -> None:
    schema = {"type": "object", "properties": {"limit": {"type": "integer"}}}
    config = {"limit": "5", "schedule": "@hourly"}
    (folder / "bot.json").write_text(json.dumps({"name": "b", "schema": schema, "config": config}))

    code, _, errors = commands.run(command, "deploy", str(folder))

    assert code == ExitCode.USAGE
    assert "the config: config.limit: must be of type integer" in errors
    assert document(commands, *place) == {}


def test_schema_of_a_config_is_stored_with_references_in_it(commands: Commands, folder: Path) -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$defs": {"n": {}},
        "properties": {"a": {"$ref": "#/$defs/n"}},
    }
    (folder / "bot.json").write_text(json.dumps({"$schema": "./x.json", "name": "b", "schema": schema}))

    stored = deploy(commands, folder)["custom"]["config"]

    assert stored["schema"] == schema
    assert "$schema" not in stored
