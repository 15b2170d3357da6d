"""The Prometheus operator's definitions of its objects, from its Go module."""

import asyncio
import json
import tempfile
from pathlib import Path

from tools.debian.packages import to_stderr
from tools.toolchains.go import ensure_go

_MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
_FOLDER = "example/prometheus-operator-crd"
_KINDS = ("servicemonitors", "prometheusrules")
_SECONDS = 300


async def operator_crds() -> list[Path]:
    """Return the files that define the kinds in the manifests.

    Raises:
        AssertionError: the module cannot be fetched.
    """
    go = await ensure_go(to_stderr)
    with tempfile.TemporaryDirectory() as folder:  # a folder without a go.mod, which would have a say
        process = await asyncio.create_subprocess_exec(
            go, "mod", "download", "-json", _MODULE, cwd=folder, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(process.communicate(), _SECONDS)
    assert process.returncode == 0, f"{_MODULE}: {output.decode()}"
    module = Path(json.loads(output)["Dir"])
    return [module / _FOLDER / f"monitoring.coreos.com_{kind}.yaml" for kind in _KINDS]
