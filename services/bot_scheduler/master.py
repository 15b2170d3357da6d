"""The bot-scheduler's master: assigns segments of schedules to workers."""

from collections.abc import Mapping

from libs.autoscaler.master_loop import autoscaling
from libs.autoscaler.pod_reviews import pod_proofs
from libs.collector.wiring import collecting, old_logs
from libs.core.master.compactor import compacting
from libs.core.master.role import MasterRole
from libs.core.process.process import run_process
from libs.core.process.service import BOT_SCHEDULER
from services.bot_scheduler.rest import is_at_rest


def main(flags: Mapping[str, object]) -> int:
    """Run until stopped; *flags* by their command-line names. Return the exit code."""
    return run_process(
        BOT_SCHEDULER, MasterRole(autoscaling, compacting(is_at_rest), collecting(old_logs), pods=pod_proofs), flags
    )
