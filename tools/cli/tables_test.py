"""What a table shows where the terminal is too narrow for all of it."""

import os
import pty
import subprocess
import sys

import pytest

from tools.cli.tables import fitted, table

COLUMNS = ("id", "state", "segment", "worker", "detail")
WIDTHS = (20, 10, 7, 12, 60)
TEXT = ("detail",)
LEAST = ("worker", "segment")


def names(layout: list[tuple[int, int]]) -> dict[str, int]:
    return {COLUMNS[index]: width for index, width in layout}


def test_all_columns_are_whole_without_a_limit() -> None:
    assert names(fitted(COLUMNS, WIDTHS, None, TEXT, LEAST)) == dict(zip(COLUMNS, WIDTHS, strict=True))


def test_text_is_shortened_before_a_column_is_left_out() -> None:
    assert names(fitted(COLUMNS, WIDTHS, 100, TEXT, LEAST)) == {**dict(zip(COLUMNS, WIDTHS, strict=True)), "detail": 43}


@pytest.mark.parametrize(
    ("limit", "shown"),
    [
        (77, COLUMNS),
        (76, ("id", "state", "segment", "detail")),
        (62, ("id", "state", "detail")),
        (53, ("id", "state")),
        (10, ("id", "state")),
        (0, ("id", "state")),
    ],
)
def test_columns_are_left_out_from_the_least_important_one_on(limit: int, shown: tuple[str, ...]) -> None:
    assert tuple(names(fitted(COLUMNS, WIDTHS, limit, TEXT, LEAST))) == shown


@pytest.mark.parametrize("limit", range(140))
def test_ids_and_states_are_whole_at_any_width_and_lines_fit_where_they_can(limit: int) -> None:
    layout = names(fitted(COLUMNS, WIDTHS, limit, TEXT, LEAST))

    assert (layout["id"], layout["state"]) == (20, 10)
    assert sum(layout.values()) + 2 * (len(layout) - 1) <= max(limit, 32)


def test_a_table_in_a_pipe_has_everything(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    row = ("i" * 300, "running", 1, "w", "d" * 300)

    table(COLUMNS, [row], empty="none")

    out, err = capsys.readouterr()
    assert all(str(value) in out for value in row)
    assert err == ""


def test_wide_characters_take_the_columns_that_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    table(("id", "state"), [("日本", "a"), ("abcde", "b")], empty="none")

    assert capsys.readouterr().out.splitlines()[1:] == ["日本   a", "abcde  b"]


PROGRAM = """
from tools.cli.tables import table
columns = ("id", "state", "segment", "worker", "detail")
table(columns, [("i" * 60, "unknown (worker lost 12 s ago)", 7, "worker-1", "why " * 20)], empty="", least=("worker",))
"""


def test_no_id_and_no_state_is_cut_on_a_terminal_of_80_columns() -> None:
    ours, theirs = pty.openpty()
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "COLUMNS": "80", "TERM": "dumb"}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, stdout=theirs, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)

    assert "i" * 60 in shown
    assert "unknown (worker lost 12 s ago)" in shown
    assert "columns omitted, terminal too narrow: segment, worker, detail (--output json prints all)" in shown
