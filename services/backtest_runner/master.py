"""The backtest-runner's master: decides which worker runs which backtests."""

from collections.abc import Mapping

from libs.autoscaler.master_loop import autoscaling
from libs.core.master.role import MasterRole
from libs.core.process import run_process
from libs.core.service import BACKTEST_RUNNER


def main(flags: Mapping[str, object]) -> int:
    """Run until told to stop; *flags* by their command-line names. Returns the exit code."""
    return run_process(BACKTEST_RUNNER, MasterRole(loops=autoscaling), flags)
