"""The backtest-runner's master: assigns segments of backtests to workers."""

from collections.abc import Mapping

from libs.autoscaler.master_loop import autoscaling
from libs.autoscaler.pod_reviews import pod_proofs
from libs.collector.wiring import collecting
from libs.core.master.role import MasterRole
from libs.core.process.process import run_process
from libs.core.process.service import BACKTEST_RUNNER
from services.backtest_runner.old_results import old_results


def main(flags: Mapping[str, object]) -> int:
    """Run until stopped; *flags* by their command-line names. Return the exit code."""
    return run_process(BACKTEST_RUNNER, MasterRole(autoscaling, collecting(old_results), pods=pod_proofs), flags)
