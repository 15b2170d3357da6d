"""Import images into every node: `python -m tests.cluster.load ARCHIVE...`, of `docker save` or in OCI's layout."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.errors import ClusterFailedError, ClusterUnavailableError
from tests.cluster.layout import NODES, containerd_socket
from tools.debian.command import CommandFailedError, run_command

_SECONDS = 600


async def load_images(archives: Sequence[Path]) -> None:
    """Import all images of the archives into each node. May be repeated.

    Raises:
        ClusterUnavailableError: the nodes are not those of `tests/cluster/up`.
        ClusterFailedError: containerd did not take an archive.
    """
    for node in NODES:
        if not containerd_socket(node).exists():
            raise ClusterUnavailableError(
                f"{node} has no socket {containerd_socket(node)}: run `tests/cluster/up`; "
                f"into another cluster, import images with its own tool"
            )
    for archive in archives:
        await asyncio.gather(*(_import(node, archive) for node in NODES))


async def _import(node: str, archive: Path) -> None:
    ctr = ["ctr", "--address", str(containerd_socket(node)), "--namespace", "k8s.io"]
    try:
        await run_command([*ctr, "images", "import", str(archive)], within_seconds=_SECONDS)
    except CommandFailedError as error:
        raise ClusterFailedError(f"{archive} could not be imported into {node}: {error}") from error


if __name__ == "__main__":
    asyncio.run(load_images([Path(argument) for argument in sys.argv[1:]]))
