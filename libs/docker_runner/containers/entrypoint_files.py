"""The programs of containers: the init and the entrypoints, copied to a folder that the engine sees. Blocks briefly."""

import hashlib
import os
import platform
import py_compile
import shutil
import sys
import time
from importlib import resources
from importlib.util import cache_from_source
from pathlib import Path
from py_compile import PycInvalidationMode

from libs.docker_runner.entrypoints import agent, guard, node
from libs.docker_runner.entrypoints.python import start, the0_bot_process, the0_hints, the0_query_process
from libs.docker_runner.sandbox.init import program

_FILES = (
    (start, "start.py"),
    (the0_bot_process, "the0_bot_process.py"),
    (the0_hints, "the0_hints.py"),
    (the0_query_process, "the0_query_process.py"),
    (node, "the0_bot_process.js"),
    (node, "the0_query_process.js"),
    (node, "the0_hints.js"),
    (guard, "network_guard.py"),
    (guard, "narrowing.py"),
    (guard, "neighbours.py"),
    (guard, "nftables.py"),
    (agent, "containers.py"),
    (agent, "control_groups.py"),
    (agent, "host_agent.py"),
    (agent, "keepalives.py"),
)

# Beside what it starts, so that a container needs one mount for both. An engine has the folders of its own machine.
_PROGRAMS = ("python/the0-init", "node/the0-init")

_COMPILED = (
    "python/the0_bot_process.py",
    "python/the0_hints.py",
    "python/the0_query_process.py",
)

# Copying the entrypoints takes no time: an older copy belongs to a dead process.
_UNFINISHED_SECONDS = 600.0


def install_entrypoints(directory: Path) -> Path:
    """Return a folder with the current entrypoints, named by their digest; other versions' containers keep theirs."""
    for unfinished in directory.glob(".*"):
        if time.time() - unfinished.stat().st_mtime > _UNFINISHED_SECONDS:
            shutil.rmtree(unfinished, ignore_errors=True)
    contents = {}
    for module, name in _FILES:
        package = str(module.__package__)
        contents[f"{package.rpartition('.')[2]}/{name}"] = (resources.files(package) / name).read_bytes()
    for name in _PROGRAMS:
        contents[name] = program(platform.machine())
    compiled_by = str(sys.implementation.cache_tag)
    digest = hashlib.sha256(compiled_by.encode())
    for name, text in sorted(contents.items()):
        digest.update(name.encode() + b"\0" + text)
    folder = directory / digest.hexdigest()[:16]
    if folder.exists():
        return folder
    building = directory / f".{folder.name}.{os.getpid()}"
    try:
        for name, text in contents.items():
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o755)
            path.write_bytes(text)
            path.chmod(0o555 if name in _PROGRAMS else 0o444)
            if name in _COMPILED:
                _compile(path)
        building.chmod(0o755)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        raise
    try:
        building.rename(folder)
    except OSError:
        # Another process was faster.
        shutil.rmtree(building)
    return folder


def _compile(path: Path) -> None:
    """Write the bytecode for an interpreter of this version; others compile the source."""
    compiled = Path(cache_from_source(path, optimization=""))
    py_compile.compile(str(path), str(compiled), doraise=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    compiled.parent.chmod(0o755)
    compiled.chmod(0o444)
