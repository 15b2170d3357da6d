"""`runtime schedule`: what needs no server."""

import json
from pathlib import Path

import pytest

from tools.cli.exit_codes import ExitCode
from tools.cli.main import run


@pytest.mark.parametrize(
    "command", ["", "next", "deploy", "ls", "history", "logs", "trigger", "pause", "resume", "rm", "config set"]
)
def test_every_command_has_a_help_text(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schedule", *command.split(), "--help"]) == ExitCode.OK
    assert "usage: runtime schedule" in capsys.readouterr().out.lower()


def test_an_expression_is_explained_before_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schedule", "next", "-n", "3", "CRON_TZ=Europe/Berlin 0 9 * * MON-FRI"]) == ExitCode.OK

    text = capsys.readouterr().out
    assert "At 09:00 on Monday to Friday (Europe/Berlin)" in text
    assert text.count("09:00:00 CE") == 3


def test_the_next_times_are_there_for_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schedule", "next", "-n", "2", "@yearly", "--output", "json"]) == ExitCode.OK

    data = json.loads(capsys.readouterr().out)
    assert [time[4:] for time in data["next"]] == ["-01-01T00:00:00+00:00"] * 2


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("0 0 31 2 *", "day of month 31 does not exist in the given months; write L for the last day of the month"),
        ("* * * *", "number of fields is 4"),
        ("TZ=Nowhere @daily", "time zone 'Nowhere' is unknown"),
    ],
)
def test_invalid_expression_is_reported_in_one_line(
    expression: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schedule", "next", expression]) == ExitCode.USAGE

    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_is_not_deployed_with_an_expression_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "main.py").write_text("def main(id, config): return {}")

    assert run(["schedule", "deploy", str(tmp_path), "--schedule", "99 * * * *"]) == ExitCode.USAGE
    assert "minute 99 is out of range" in capsys.readouterr().err
