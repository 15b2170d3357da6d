"""`runtime bot kill`, `resume`, `stop` and `start` over real servers, where no worker runs."""

from typing import Any

import pytest

from tests.support.rigs.commands import Commands
from tools.cli.exit_codes import ExitCode


@pytest.fixture
def bots(commands: Commands) -> Commands:
    """With two bots, of which only one is alice's."""
    for bot_id, author in (("b1", "alice"), ("b2", "bob")):
        commands.mongo["bot_runner"]["bots"].insert_one(
            {"id": bot_id, "segment_id": 1, "config": {}, "custom": {"config": {"author": author}}}
        )
    return commands


def holds(commands: Commands) -> list[dict[str, Any]]:
    return list(commands.mongo["bot_runner"]["holds"].find({}))


@pytest.mark.parametrize("command", ["kill", "stop"])
@pytest.mark.parametrize(
    ("what", "named"),
    [
        (["TYPO"], "there is no bot 'TYPO'"),
        (["b1", "TYPO", "x"], "there is no bot 'TYPO', 'x'"),
        (["--selector", "nope=1"], "no bot has nope=1 now"),
        (["--selector", "custom.config.author=carol"], "no bot has custom.config.author=carol now"),
    ],
)
def test_keeping_down_what_does_not_exist_changes_nothing_and_is_not_found(
    bots: Commands, command: str, what: list[str], named: str
) -> None:
    code, out, err = bots.run("bot", command, *what)

    assert (code, out) == (ExitCode.NOT_FOUND, "")
    assert named in err
    assert f"`runtime bot {command} --future`" in err
    assert holds(bots) == []


@pytest.mark.parametrize("command", ["kill", "stop"])
@pytest.mark.parametrize("what", [["TYPO"], ["--selector", "nope=1"]])
def test_bots_to_come_are_kept_down_where_that_is_meant(bots: Commands, command: str, what: list[str]) -> None:
    kept = bots.json("bot", command, *what, "--future")

    assert (kept["bots"], kept["down"]) == ([], [])
    assert len(holds(bots)) == 1


@pytest.mark.parametrize(
    ("what", "down"),
    [
        (["b1"], ["b1"]),
        (["b2", "b1", "b1"], ["b1", "b2"]),
        (["--selector", "custom.config.author=alice"], ["b1"]),
        (["--all"], ["b1", "b2"]),
    ],
)
@pytest.mark.parametrize(("command", "undo", "state"), [("kill", "resume", "killed"), ("stop", "start", "stopped")])
def test_bots_are_down_until_the_same_words_let_them_run(
    bots: Commands, command: str, undo: str, state: str, what: list[str], down: list[str]
) -> None:
    assert sorted(bots.json("bot", command, *what)["down"]) == down
    assert {bot["id"] for bot in bots.json("bot", "ls") if bot["state"] == state} == set(down)

    undone = bots.json("bot", undo, *what)

    assert sorted(undone["bots"]) == down
    assert undone["still_held"] == {}
    assert {bot["state"] for bot in bots.json("bot", "ls")} == {"waiting"}
    assert holds(bots) == []


def test_all_may_be_kept_down_before_there_is_any(commands: Commands) -> None:
    assert commands.json("bot", "kill", "--all")["down"] == []
    assert len(holds(commands)) == 1


@pytest.mark.parametrize("undo", ["resume", "start"])
@pytest.mark.parametrize(
    ("what", "named"),
    [
        (["TYPO"], "there is no bot 'TYPO'"),
        (["b1"], "on id b1"),
        (["--selector", "nope=1"], "on nope=1"),
        (["--all"], "on all"),
    ],
)
def test_undoing_what_was_not_done_is_not_found(bots: Commands, undo: str, what: list[str], named: str) -> None:
    code, out, err = bots.run("bot", undo, *what)

    assert (code, out) == (ExitCode.NOT_FOUND, "")
    assert named in err


def test_a_stop_is_not_undone_by_resume_and_the_command_that_does_is_named(bots: Commands) -> None:
    bots.text("bot", "stop", "b1")

    code, _, err = bots.run("bot", "resume", "b1")

    assert code == ExitCode.NOT_FOUND
    assert "'b1' is stopped (id b1); `runtime bot start b1` lifts that" in err
    assert len(holds(bots)) == 1


def test_missing_hold_keeps_other_holds(bots: Commands) -> None:
    bots.text("bot", "stop", "b1")

    assert bots.run("bot", "start", "b1", "b2")[0] == ExitCode.NOT_FOUND

    assert len(holds(bots)) == 1


def test_a_bot_that_another_hold_keeps_down_is_named_with_it(bots: Commands) -> None:
    bots.text("bot", "stop", "b1")
    bots.text("bot", "kill", "--all")

    text = bots.text("bot", "start", "b1")

    assert "b1 stays down: killed (all); `runtime bot resume --all` lifts that" in text


def test_people_read_what_is_stopped_and_that_it_is_down(bots: Commands) -> None:
    assert bots.text("bot", "stop", "b1") == "stopped: id b1\nb1 was already down\n"
    assert bots.text("bot", "start", "b1") == "started: id b1\n"


def test_a_removed_bot_leaves_its_kill_and_not_its_stop(bots: Commands) -> None:
    bots.text("bot", "stop", "b1")
    bots.text("bot", "kill", "b1", "b2")

    bots.text("bot", "rm", "b1")

    assert [(hold["value"], hold["graceful"]) for hold in holds(bots)] == [("b1", False), ("b2", False)]
