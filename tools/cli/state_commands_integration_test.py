"""The commands about the state that bots keep, over real servers, where no worker runs."""

import io
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.rigs.commands import Commands
from tools.cli.exit_codes import ExitCode
from tools.cli.local_user import user_of_this_machine


@pytest.fixture
def bot(commands: Commands) -> str:
    """A bot that never ran."""
    commands.mongo["bot_runner"]["bots"].insert_one({"id": "b/1", "segment_id": 1})
    return "b/1"


def versions(commands: Commands, bot: str) -> list[tuple[int, str]]:
    rows: list[dict[str, Any]] = commands.json("bot", "state", "ls", bot, "--versions")
    return [(row["version"], row["origin"]) for row in rows]


def test_key_that_is_set_is_listed_and_read(commands: Commands, bot: str) -> None:
    commands.json("bot", "state", "set", bot, "portfolio", '{"BTC": 2}')
    commands.json("bot", "state", "set", bot, "name", "some text")

    assert [row["key"] for row in commands.json("bot", "state", "ls", bot)] == ["name", "portfolio"]
    assert commands.text("bot", "state", "get", bot, "portfolio") == '{"BTC": 2}\n'
    assert commands.text("bot", "state", "get", bot, "name") == '"some text"\n'
    assert commands.text("bot", "state", "get", bot, ".the0-state/name.json") == '"some text"\n'


def test_rollback_and_clear_are_new_versions(commands: Commands, bot: str) -> None:
    for value in ("1", "2", "3"):
        commands.json("bot", "state", "set", bot, "n", value)

    commands.json("bot", "state", "rollback", bot)
    assert commands.text("bot", "state", "get", bot, "n") == "2\n"
    commands.json("bot", "state", "rollback", bot, "--to", "1")
    assert commands.text("bot", "state", "get", bot, "n") == "1\n"
    commands.json("bot", "state", "clear", bot)

    assert commands.json("bot", "state", "ls", bot) == []
    expected = [(6, "clear"), (5, "rollback"), (4, "rollback"), (3, "set"), (2, "set"), (1, "set")]
    assert versions(commands, bot) == expected


def test_exported_state_is_imported_into_another_bot(commands: Commands, bot: str, tmp_path: Path) -> None:
    commands.mongo["bot_runner"]["bots"].insert_one({"id": "other", "segment_id": 1})
    commands.json("bot", "state", "set", bot, "n", "1")
    file = tmp_path / "state.tar.gz"

    commands.text("bot", "state", "export", bot, str(file))
    commands.json("bot", "state", "import", "other", str(file))

    assert commands.text("bot", "state", "get", "other", "n") == "1\n"


@pytest.mark.parametrize(("is_terminal", "shown"), [(True, "a\\x1b[2J\nb\n"), (False, "a\x1b[2J\nb\n")])
def test_file_with_control_characters_is_escaped_only_at_a_terminal(
    commands: Commands, bot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, shown: str
) -> None:
    file = tmp_path / "state.tar"
    with tarfile.open(file, "w") as tar:
        info = tarfile.TarInfo("folder/notes")
        info.size = len(b"a\x1b[2J\nb")
        tar.addfile(info, io.BytesIO(b"a\x1b[2J\nb"))
    commands.json("bot", "state", "import", bot, str(file))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)

    assert commands.text("bot", "state", "get", bot, "folder/notes") == shown


def test_archive_with_a_link_is_refused_and_nothing_changes(commands: Commands, bot: str, tmp_path: Path) -> None:
    file = tmp_path / "state.tar"
    with tarfile.open(file, "w") as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)

    code, _, errors = commands.run("bot", "state", "import", bot, str(file))

    assert code == ExitCode.USAGE
    assert "'link'" in errors
    assert versions(commands, bot) == []


def test_state_of_a_running_bot_is_not_changed(commands: Commands, bot: str) -> None:
    run = {"_id": "r", "entity_id": bot, "segment_id": 1, "worker_id": "w", "host": "h", "epoch": 1}
    commands.mongo["bot_runner"]["runs"].insert_one({**run, "started_at": datetime.now(UTC), "open": True})

    code, _, errors = commands.run("bot", "state", "set", bot, "n", "1")

    assert code == ExitCode.FAILED
    assert "runtime bot stop b/1" in errors
    assert versions(commands, bot) == []


def test_change_keeps_the_last_run_from_saving(commands: Commands, bot: str) -> None:
    documents = commands.mongo["bot_runner"]["bots"]
    documents.update_one({"id": bot}, {"$set": {"saved_state": {"segment": 1, "epoch": 3, "run_id": "r"}}})

    commands.json("bot", "state", "set", bot, "n", "1")

    stored = (documents.find_one({"id": bot}) or {})["saved_state"]
    assert (stored["run_id"], stored["epoch"], stored["segment"]) == ("", 3, 1)


def test_each_change_is_audited_in_the_service_of_the_entity(commands: Commands, bot: str, tmp_path: Path) -> None:
    commands.mongo["bot_scheduler"]["bot_schedules"].insert_one({"id": bot, "segment_id": 1})
    file = str(tmp_path / "state.tar.gz")
    commands.json("bot", "state", "set", bot, "n", "1")
    commands.text("bot", "state", "export", bot, file)
    commands.json("bot", "state", "clear", bot)
    commands.json("bot", "state", "import", bot, file)
    commands.json("bot", "state", "rollback", bot, "--to", "2")
    commands.json("schedule", "state", "set", bot, "n", "1")

    rows = commands.json("audit", "--id", bot)

    assert [(row["service"], row["action"], row["detail"]) for row in rows] == [
        ("bot-scheduler", "updated", "state set 'n': version 1"),
        ("bot-runner", "updated", "state rollback: version 4"),
        ("bot-runner", "updated", "state import: version 3"),
        ("bot-runner", "updated", "state clear: version 2"),
        ("bot-runner", "updated", "state set 'n': version 1"),
    ]
    assert {row["who"] for row in rows} == {user_of_this_machine()}


@pytest.mark.parametrize("arguments", [("ls", "nobody"), ("get", "b/1", "n"), ("ls", "b/1", "--version", "7")])
def test_what_does_not_exist_is_an_error_of_its_own(commands: Commands, bot: str, arguments: tuple[str, ...]) -> None:
    code, _, _ = commands.run("bot", "state", *arguments)

    assert code == ExitCode.NOT_FOUND


def test_state_of_a_schedule_has_the_same_commands(commands: Commands) -> None:
    commands.mongo["bot_scheduler"]["bot_schedules"].insert_one({"id": "s", "segment_id": 1})

    commands.json("schedule", "state", "set", "s", "n", "1")

    assert commands.text("schedule", "state", "get", "s", "n") == "1\n"
