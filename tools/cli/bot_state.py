"""`runtime bot state`: the persistent state of a bot."""

from libs.core.process.service import BOT_RUNNER
from tools.cli.state_commands import state_group

state = state_group(BOT_RUNNER)
