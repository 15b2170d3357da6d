"""Times in this machine's zone."""

from datetime import UTC, datetime


def local(moment: object) -> str | None:
    """Return a time, or Unix seconds, in this machine's zone: ``2025-03-30 03:00:00 CEST``. None for anything else."""
    if isinstance(moment, int | float) and not isinstance(moment, bool):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if isinstance(moment, datetime) else None
