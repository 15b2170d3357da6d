"""A deployed bot as a plain value, for tests without a database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def _description() -> Mapping[str, Any]:
    return {"runtime": "python3.11", "entrypoints": {"bot": "main.py", "backtest": "test.py"}}


@dataclass(frozen=True)
class DeployedCode:
    """Where the archive is; a *bucket* of None is the configured one."""

    bucket: str | None = None
    key: str = "b1.zip"
    sha256: str | None = None


@dataclass(frozen=True)
class DeployedBot:
    """What `ExecutableBuilder` builds from."""

    id: str = "b1"
    revision: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)
    bot: Mapping[str, Any] = field(default_factory=_description)
    version: str = "1.0.0"
    code: DeployedCode | None = DeployedCode()
    trace: Mapping[str, str] = field(default_factory=dict)
    restart: str = ""

    def owner(self, field: str) -> str:
        """Its author, whatever the field."""
        return str(self.bot.get("author", ""))
