"""`runtime backtest`: commands for backtests."""

from tools.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "run": LazyCommand("tools.cli.backtest_run", "run", "Upload a folder, run the backtest, and show its result."),
    "ls": LazyCommand(
        "tools.cli.backtest_ls", "ls", "List waiting and running backtests, and the latest completed ones."
    ),
    "show": LazyCommand(
        "tools.cli.backtest_show", "show", "Show a backtest's metrics and tables, or the reason of its failure."
    ),
    "compare": LazyCommand(
        "tools.cli.backtest_compare", "compare", "Show the metrics of backtests side by side; --html plots them."
    ),
    "logs": LazyCommand("tools.cli.backtest_logs", "logs", "Show a backtest's output; -f follows it."),
    "cancel": LazyCommand("tools.cli.backtest_cancel", "cancel", "Cancel a backtest."),
}
_HELP = """Run backtests and show their results.

Servers are taken from the environment (MONGO_URI, NATS_URL, MINIO_ENDPOINT and its keys), or else from the dev stack
started by `runtime dev up`.
"""

backtest = LazyGroup("backtest", _HELP, _COMMANDS)
