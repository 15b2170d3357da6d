"""The published SDK as bots vendor it: its files, unmodified."""

import shutil
from pathlib import Path

import the0  # type: ignore[import-untyped]

SDK = Path(the0.__file__).parent
"""The folder of its package, from the requirement that is pinned for tests."""


def vendor_sdk(bot: Path) -> None:
    """Copy the SDK into the ``vendor`` folder of the bot in the folder *bot*."""
    shutil.copytree(SDK, bot / "vendor" / SDK.name, ignore=shutil.ignore_patterns("__pycache__"))


def sdk_files() -> dict[str, str]:
    """Return the SDK as files of a bot: paths below the bot's folder, and their texts."""
    return {f"vendor/{SDK.name}/{path.name}": path.read_text() for path in sorted(SDK.glob("*.py"))}
