import io
import re

import pytest
from rich.console import Console

from tools.demo.screen import Screen


def screen(*, terminal: bool) -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    return Screen(Console(file=file, force_terminal=terminal, width=80, highlight=False, soft_wrap=True)), file


def test_file_output_has_start_and_end_of_each_step() -> None:
    shown, file = screen(terminal=False)

    with shown, shown.step("servers") as report:
        report("one of three")

    assert re.fullmatch(r"\.\.\. servers\n    one of three\n✓ servers \(\d+\.\d s\)\n", file.getvalue())


def test_failed_step_is_shown() -> None:
    shown, file = screen(terminal=False)

    with pytest.raises(ValueError, match="no"), shown, shown.step("servers"):
        raise ValueError("no")

    assert "✗ servers" in file.getvalue()


def test_bot_output_cannot_move_cursor() -> None:
    shown, file = screen(terminal=False)

    with shown:
        shown.line("b1", "a\x1b[2Jb [red]")

    assert file.getvalue() == "              b1 │ a�[2Jb [red]\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table_of_the_demo_fits_a_terminal_of_80_characters(terminal: bool) -> None:
    shown, file = screen(terminal=terminal)
    columns = ("service", "id", "worker", "container", "ran", "outcome")
    row = ("backtest-runner", "moving-average-crossover", "worker-1", "434bfc2066ca", "12.8 s", "finished")

    with shown:
        shown.table("What ran where", columns, [row])

    assert all(cell in file.getvalue() for cell in row)
