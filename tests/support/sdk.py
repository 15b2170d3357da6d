"""The published SDK as bots vendor it: its files, unmodified."""

from pathlib import Path

import the0  # type: ignore[import-untyped]

SDK = Path(the0.__file__).parent
"""The folder of its package, from the requirement that is pinned for tests."""


def sdk_files() -> dict[str, str]:
    """Return the SDK as files of a bot: paths below the bot's folder, and their texts."""
    return {f"vendor/{SDK.name}/{path.name}": path.read_text() for path in sorted(SDK.glob("*.py"))}
