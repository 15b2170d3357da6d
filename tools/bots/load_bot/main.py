"""The load generator's bot: prints a line periodically, for `run_seconds` or until it is stopped."""

import time
from typing import Any


def main(id: str, config: dict[str, Any]) -> dict[str, Any]:  # noqa: A002 - the contract names it
    """Backtests and scheduled runs end by themselves; bots continue."""
    begun = time.monotonic()
    lines = 0
    while config["run_seconds"] is None or time.monotonic() - begun < config["run_seconds"]:
        lines += 1
        print(f"{id}: line {lines}", flush=True)  # noqa: T201 - a bot's output
        time.sleep(config["interval_seconds"])
    return {"metrics": {"lines": lines, "seconds": round(time.monotonic() - begun, 3)}, "plots": [], "tables": []}
