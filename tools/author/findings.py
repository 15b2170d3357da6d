"""Findings: what is wrong in a bot's folder, where, and how to correct it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tools.bots.errors import BotFolderInvalid


@dataclass(frozen=True)
class Finding:
    """One problem. *where* is a file, or a field of one; *remedy* is an imperative."""

    where: str
    problem: str
    remedy: str

    @property
    def text(self) -> str:
        """The finding in one line."""
        return f"{self.where}: {self.problem}; {self.remedy}"


def refuse(findings: Sequence[Finding]) -> None:
    """Raise BotFolderInvalid with all *findings*, if there are any."""
    if findings:
        raise BotFolderInvalid("\n".join(finding.text for finding in findings))
