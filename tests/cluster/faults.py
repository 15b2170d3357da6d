"""Faults of the nodes of `tests/cluster/up`: a container that crashes, and a node that is lost."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.layout import containerd_socket
from tools.debian.command import run_command

_SECONDS = 60


async def kill_container(node: str, container_id: str) -> None:
    """Send SIGKILL to the first process of a container. The pod's own processes cannot do this.

    Args:
        container_id: the id in the pod's status, with the scheme of the container runtime.

    Raises:
        CommandFailedError: the node has no such container.
    """
    ctr = ["ctr", "--address", str(containerd_socket(node)), "--namespace", "k8s.io"]
    container = container_id.removeprefix("containerd://")
    await run_command([*ctr, "tasks", "kill", "--signal", "SIGKILL", container], within_seconds=_SECONDS)


async def kill_all_containers(node: str) -> None:
    """Send SIGKILL to every container of a node, as its loss does. Suspend the kubelet first: it would start others."""
    ctr = ["ctr", "--address", str(containerd_socket(node)), "--namespace", "k8s.io", "tasks"]
    listed = await asyncio.to_thread(
        subprocess.run, [*ctr, "list", "--quiet"], check=True, capture_output=True, text=True, timeout=_SECONDS
    )
    found = listed.stdout.split()
    killing = (run_command([*ctr, "kill", "--signal", "SIGKILL", one], within_seconds=_SECONDS) for one in found)
    # One that has ended by itself cannot be killed.
    await asyncio.gather(*killing, return_exceptions=True)


@contextmanager
def suspended_kubelet(node: str) -> Iterator[None]:
    """Suspend the kubelet of *node*: it reports nothing, and starts and ends no container."""
    process = _kubelet(node)
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _kubelet(node: str) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program, *arguments = path.read_bytes().decode().split("\0")
        except OSError:  # it has ended
            continue
        if program.endswith("/kubelet") and f"--hostname-override={node}" in arguments:
            return int(path.parent.name)
    raise LookupError(f"{node} has no kubelet")
