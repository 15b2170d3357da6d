"""Kills a container on its node, as a crash does: the pod's own processes cannot send SIGKILL to the first of them."""

from tests.cluster.layout import containerd_socket
from tools.debian.command import run_command

_SECONDS = 60


async def kill_container(node: str, container_id: str) -> None:
    """Send SIGKILL to the first process of a container.

    Args:
        node: a node of `tests/cluster/up`.
        container_id: as a pod's status names it, with the scheme of the container runtime.

    Raises:
        CommandFailedError: the node has no such container.
    """
    ctr = ["ctr", "--address", str(containerd_socket(node)), "--namespace", "k8s.io"]
    container = container_id.removeprefix("containerd://")
    await run_command([*ctr, "tasks", "kill", "--signal", "SIGKILL", container], within_seconds=_SECONDS)
