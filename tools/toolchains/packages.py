"""Python packages that contain programs, each in a folder of its own in the cache of `./runtime`."""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.debian.command import run_command
from tools.debian.locks import file_lock
from tools.debian.packages import Report

_SECONDS = 1800


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The folder in which `./runtime` and `./pants` keep what they fetch and build."""
    if own := environment.get("RUNTIME_CACHE_DIR"):
        return Path(own)
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "the0-runtime"


async def ensure_package(requirement: str, report: Report) -> Path:
    """The folder into which the package `name==version` is installed, with its dependencies.

    Raises:
        CommandFailedError: pip cannot install it; the message has the end of its output.
    """
    cache = cache_folder(os.environ)
    folder = cache / requirement.replace("==", "-")
    async with file_lock(cache / f"{folder.name}.lock"):
        if not folder.exists():
            report(f"installing {requirement} (once)")
            fresh = folder.with_name(f"{folder.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix="the0-pip-") as installer:
                # Where Pants runs tests there is no pip; each Python that runs this can make an environment with one.
                await run_command([sys.executable, "-m", "venv", installer], within_seconds=_SECONDS)
                python = str(Path(installer) / "bin" / "python")
                pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
                await run_command([python, *pip, "--target", str(fresh), requirement], within_seconds=_SECONDS)
            fresh.rename(folder)
    return folder
