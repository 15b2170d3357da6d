"""Where a backtest's result and output are in the results bucket."""

from libs.docker_runner.log_keys import log_folder


def folder(backtest_id: str) -> str:
    """``{id}/``, with the id as it is unless a server would refuse it: the rule is that of the logs bucket."""
    return log_folder(backtest_id).removeprefix("logs/")


def analysis_key(backtest_id: str) -> str:
    """The key of the result."""
    return f"{folder(backtest_id)}analysis.json"


def logs_key(backtest_id: str) -> str:
    """The key of the output."""
    return f"{folder(backtest_id)}logs.txt"


def attempts_prefix(backtest_id: str) -> str:
    """Before the keys of what attempts leave until it is decided which of them counts."""
    return f"{folder(backtest_id)}.attempts/"


def staged_key(backtest_id: str, run_id: str, name: str) -> str:
    """Where one attempt puts what is too large for the document."""
    return f"{attempts_prefix(backtest_id)}{run_id}/{name}"
