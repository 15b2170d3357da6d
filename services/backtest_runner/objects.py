"""Keys of a backtest's result and output in the results bucket."""

import re

from libs.docker_runner.logs.keys import log_folder

_STAGED = re.compile(r"/\.attempts/[^/]+/(analysis\.json|logs\.txt)$")


def folder(backtest_id: str) -> str:
    """Return ``{id}/``, with the id unchanged unless a server would refuse it, by the rule of the logs bucket."""
    return log_folder(backtest_id).removeprefix("logs/")


def is_analysis(key: str) -> bool:
    """Whether the object at *key* is a backtest's result."""
    return key.endswith("/analysis.json") and not is_staged(key)


def is_logs(key: str) -> bool:
    """Whether the object at *key* is a backtest's output."""
    return key.endswith("/logs.txt") and not is_staged(key)


def is_staged(key: str) -> bool:
    """Whether the object at *key* was staged by an attempt before the outcome was decided."""
    return _STAGED.search(key) is not None


def logs_beside(key: str) -> str:
    """Return the key of the output of the backtest whose result is at *key*."""
    return f"{key.removesuffix('analysis.json')}logs.txt"


def analysis_key(backtest_id: str) -> str:
    """Return the key of the result."""
    return f"{folder(backtest_id)}analysis.json"


def logs_key(backtest_id: str) -> str:
    """Return the key of the output."""
    return f"{folder(backtest_id)}logs.txt"


def attempts_prefix(backtest_id: str) -> str:
    """Return the prefix of the staged objects of attempts."""
    return f"{folder(backtest_id)}.attempts/"


def staged_key(backtest_id: str, run_id: str, name: str) -> str:
    """Return the key where one attempt stages an object that is too large for the document."""
    return f"{attempts_prefix(backtest_id)}{run_id}/{name}"
