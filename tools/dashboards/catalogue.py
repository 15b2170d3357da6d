"""All dashboards, and the files that they are committed as."""

from collections.abc import Mapping
from pathlib import Path

from tools.dashboards.fleet import fleet
from tools.dashboards.services import backtest_runner, bot_runner, bot_scheduler
from tools.dashboards.single_bot import single_bot

FOLDER = Path("deploy") / "grafana" / "dashboards"
"""Where Compose and Kustomize take them from, below the root of the repository."""


def dashboards() -> Mapping[str, str]:
    """The text of each file by its name."""
    boards = (fleet(), bot_runner(), backtest_runner(), bot_scheduler(), single_bot())
    return {f"{board.uid.removeprefix('the0-')}.json": board.to_json() for board in boards}
