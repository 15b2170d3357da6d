"""`runtime schedule state`: the persistent state of a schedule."""

from libs.core.process.service import BOT_SCHEDULER
from tools.cli.state_commands import state_group

state = state_group(BOT_SCHEDULER)
