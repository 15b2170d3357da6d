"""`python -m services.bot_runner master | worker`: what the image runs."""

import sys

from libs.core.process.command_line import parse
from libs.core.process.service import BOT_RUNNER


def main() -> int:
    """Run one process until a stop signal. Returns its exit code."""
    role, flags = parse(BOT_RUNNER, sys.argv[1:])
    # A master has neither the time nor the memory to load what only workers use.
    if role == "master":
        from services.bot_runner.master import main as run
    else:
        from services.bot_runner.worker import main as run
    return run(flags)


if __name__ == "__main__":
    sys.exit(main())
