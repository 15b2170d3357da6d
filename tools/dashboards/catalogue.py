"""All dashboards and the names of their files."""

from collections.abc import Mapping
from pathlib import Path

from tools.dashboards.fleet import fleet
from tools.dashboards.services import backtest_runner, bot_runner, bot_scheduler
from tools.dashboards.single_bot import single_bot

FOLDER = Path("deploy") / "grafana" / "dashboards"
"""Folder, relative to the repository's root, from which Compose and Kustomize read the dashboards."""


def dashboards() -> Mapping[str, str]:
    """Return the text of each file by its name."""
    boards = (fleet(), bot_runner(), backtest_runner(), bot_scheduler(), single_bot())
    return {f"{board.uid.removeprefix('the0-')}.json": board.to_json() for board in boards}
