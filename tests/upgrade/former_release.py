"""Processes of a former release, with the packages of this environment."""

import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.rigs.deployment import Deployment
from tests.upgrade import run_former
from tests.upgrade.archive import newest
from tools.dev.service import ServiceProcess

# What a release needs of packages that this environment has no more, by release. A release that is made of the present
# lockfile needs nothing.
_REPLACED = {
    "ee96d02": {
        "libs/core/retrying.py": """\
import asyncio

from libs.core.errors import Retryable


async def persistently(call, *, faults=Retryable):
    while True:
        try:
            return await call()
        except faults:
            await asyncio.sleep(0.4)
""",
    },
}


@dataclass(frozen=True)
class FormerRelease:
    """The code of a release below *folder*, ready to run."""

    name: str
    folder: Path

    @classmethod
    def unpack(cls, folder: Path) -> "FormerRelease":
        """Unpack the newest release into the empty *folder* and generate its protocol's modules."""
        archive = newest()
        release = cls(archive.name.partition(".")[0], folder)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        replaced: Mapping[str, str] = _REPLACED.get(release.name, {})
        for path, text in replaced.items():
            folder.joinpath(path).write_text(text)
        protos = [str(path.relative_to(folder)) for path in folder.glob("proto/**/*.proto")]
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--grpc_python_out=.", *protos]
        subprocess.run(command, cwd=folder, check=True, timeout=120)
        return release

    def start_process(self, deployment: Deployment, role: str, name: str) -> ServiceProcess:
        """Start a master or a worker of the release in *deployment*, without waiting for it."""
        return deployment.start_process(role, name, under=(run_former.__name__, self.folder))
