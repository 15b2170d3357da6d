"""What every role of every service shows to Prometheus, as its modules declare it.

Each role is imported in a process of its own, since a metric is there where its module is.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from services.backtest_runner import master as backtest_master
from services.backtest_runner import worker as backtest_worker
from services.bot_runner import master as bot_master
from services.bot_runner import worker as bot_worker
from services.bot_scheduler import master as schedule_master
from services.bot_scheduler import worker as schedule_worker
from tests.deploy import metrics_of_module
from tests.deploy.metrics_of_module import ShownMetric

_MODULES = {
    ("bot-runner", "master"): bot_master.__name__,
    ("bot-runner", "worker"): bot_worker.__name__,
    ("backtest-runner", "master"): backtest_master.__name__,
    ("backtest-runner", "worker"): backtest_worker.__name__,
    ("bot-scheduler", "master"): schedule_master.__name__,
    ("bot-scheduler", "worker"): schedule_worker.__name__,
}

Where = tuple[str, str]
"""A service's name and a role."""


@cache
def declared() -> Mapping[Where, Sequence[ShownMetric]]:
    """The metrics of each role of each service, by name."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(_MODULES, pool.map(_of, _MODULES.values()), strict=True))


def _of(module: str) -> Sequence[ShownMetric]:
    command = [sys.executable, "-P", "-m", metrics_of_module.__name__, module]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    rows: list[dict[str, Any]] = json.loads(printed.stdout)
    return [ShownMetric(**{**row, "labels": tuple(row["labels"])}) for row in rows]
