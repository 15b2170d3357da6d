"""Options of `runtime backtest run` that set parameters and sweep over them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_MOST_JOBS = 100


@dataclass(frozen=True)
class SweepFlags:
    """The flags: texts `KEY=VALUE` and `KEY=VALUES`, and the limits on open backtests and on all."""

    set_texts: tuple[str, ...]
    sweep_texts: tuple[str, ...]
    jobs: int
    most: int
    resume: bool = False


def sweep_options(command: F) -> F:
    """Add the options; the command gets *set_texts*, *sweep_texts*, *jobs*, *resume* and *most*."""
    options = (
        click.option(
            "--set",
            "set_texts",
            multiple=True,
            metavar="KEY=VALUE",
            help="Set a value of the config: JSON, or else text. risk.max=5 leads into an object. Repeatable.",
        ),
        click.option(
            "--sweep",
            "sweep_texts",
            multiple=True,
            metavar="KEY=VALUES",
            help="Run one for each value: START:STOP:STEP with both ends, or VALUE,VALUE. Repeatable: combinations.",
        ),
        click.option(
            "--jobs",
            default=8,
            show_default=True,
            type=click.IntRange(1, _MOST_JOBS),
            help="Number of backtests of a sweep that are open at once.",
        ),
        click.option(
            "--resume",
            is_flag=True,
            help="Continue an interrupted sweep: the same options with its --id. Its results are kept.",
        ),
        click.option(
            "--most",
            default=1000,
            show_default=True,
            type=click.IntRange(1, 100_000),
            help="Limit on the backtests of a sweep.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
