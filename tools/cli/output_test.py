import json
from datetime import UTC, datetime

import pytest

from tools.cli.output import cell, table, write_json


def test_times_and_sets_become_json(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"at": datetime(2026, 1, 31, 12, tzinfo=UTC), "ids": ("é",)})

    assert json.loads(capsys.readouterr().out) == {"at": "2026-01-31T12:00:00+00:00", "ids": ["é"]}


def test_a_cell_shows_no_control_characters() -> None:
    assert cell("x\x1b[0m\n") == r"x\x1b[0m\n"
    assert cell(None) == "-"
    assert cell(1.25) == "1.2"


def test_a_table_shows_what_was_put_in(capsys: pytest.CaptureFixture[str]) -> None:
    table(("id", "state"), [("a[red]", "running")], empty="none")

    assert "a[red]" in capsys.readouterr().out


def test_without_rows_a_sentence_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    table(("id",), [], empty="There are none.")

    assert capsys.readouterr().out == "There are none.\n"
