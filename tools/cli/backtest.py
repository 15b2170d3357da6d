"""`runtime backtest`: what a person does with backtests."""

from tools.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "run": LazyCommand("tools.cli.backtest_run", "run", "Upload a folder, run its backtest, show what it found."),
    "ls": LazyCommand("tools.cli.backtest_ls", "ls", "List backtests that wait or run, and the latest that are done."),
    "show": LazyCommand("tools.cli.backtest_show", "show", "Show a backtest's metrics and tables, or why it failed."),
    "logs": LazyCommand("tools.cli.backtest_logs", "logs", "Show what a backtest printed, and with -f as it comes."),
    "cancel": LazyCommand("tools.cli.backtest_cancel", "cancel", "End a backtest; it is completed as cancelled."),
}
_HELP = """Run backtests and look at what they found.

Servers are found by the environment (MONGO_URI, NATS_URL, MINIO_ENDPOINT and its keys), or else in the dev stack that
`runtime dev up` started.
"""

backtest = LazyGroup("backtest", _HELP, _COMMANDS)
