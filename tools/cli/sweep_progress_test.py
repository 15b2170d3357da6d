import io
from typing import Any

import pytest
from rich.console import Console

from tools.backtests.grid import Point
from tools.backtests.sweep import FAILED, FINISHED, Row
from tools.cli.sweep_progress import SweepProgress, progress_table


def _row(number: int, state: str = "not started", **known: Any) -> Row:
    row = Row(Point(f"ma-{number}", {"fast": number}, {}), state, **known)
    row.began = None if state == "not started" else 0.0
    row.ended_at = float(number) if row.is_done else None
    return row


def _drawn(rows: list[Row], height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=100, height=height, record=True)
    console.print(progress_table(rows, height))
    return console.export_text().splitlines()


def test_table_shows_open_backtests_and_counts_of_all() -> None:
    rows = [
        _row(1, FINISHED, seconds=2.0, metrics={"sharpe": 1.25}),
        _row(2, FAILED, seconds=1.0, detail="boom"),
        _row(3, "running"),
        _row(4),
    ]

    header, *lines, total = _drawn(rows, 40)

    assert header.split() == ["parameters", "state", "seconds", "metrics"]
    assert [line.split()[:2] for line in lines] == [["fast=1", "finished"], ["fast=2", "failed"], ["fast=3", "running"]]
    assert "sharpe=1.25" in lines[0]
    assert "boom" in lines[1]
    assert total == "2 of 4 done, 1 failed, 1 not started"


@pytest.mark.parametrize("height", [1, 10, 24])
def test_table_of_many_fits_the_terminal_and_keeps_the_latest(height: int) -> None:
    rows = [
        *(_row(number, FINISHED, seconds=1.0) for number in range(50)),
        *(_row(50 + n, "running") for n in range(3)),
    ]

    lines = _drawn(rows, height)

    assert len(lines) <= max(height, 6)
    assert {"fast=49", "fast=50", "fast=51", "fast=52"} <= {line.split()[0] for line in lines}


def test_table_escapes_what_a_bot_wrote() -> None:
    [_, line, _] = _drawn([_row(1, FINISHED, seconds=1.0, metrics={"[red]a\x1b[2J": "\u202ex"})], 40)

    assert "[red]a" in line
    assert "\x1b" not in line
    assert "\u202e" not in line


def test_without_terminal_each_end_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [_row(1, FINISHED, seconds=2.0, metrics={"sharpe": 1.25}), _row(2, "running"), _row(3, FINISHED)]

    with SweepProgress(quiet=False) as progress:
        progress.show(rows)
        progress.show(rows)
        rows[1] = _row(2, FAILED, seconds=1.0, detail="boom\x1b[2J")
        progress.show(rows)

    assert capsys.readouterr().err.splitlines() == [
        "· [1/3] ma-1 finished in 2.0 s: sharpe=1.25",
        "· [2/3] ma-3 finished",
        "· [3/3] ma-2 failed in 1.0 s: boom\\x1b[2J",
    ]
