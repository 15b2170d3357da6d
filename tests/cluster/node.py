"""A node: a mount namespace with folders of its own, in which containerd and the kubelet run."""

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from tests.cluster.configuration import VOLUMES
from tests.cluster.daemons import node_daemons
from tests.cluster.layout import FOLDER, VOLUMES_PER_NODE, containerd_socket, node_folder
from tests.cluster.supervisor import supervise

_OWN_FOLDERS = ("/var/lib", "/var/log", "/tmp")
"""What pods mount of their node. Two nodes must not share it, and the machine must not see it."""


def main(node: str) -> NoReturn:
    """Run the node until this process is killed."""
    _prepare_mounts(node)
    volumes = Path(VOLUMES)
    for number in range(VOLUMES_PER_NODE):
        (volumes / str(number)).mkdir(parents=True, exist_ok=True)
        (volumes / str(number)).chmod(0o777)
    supervise(node_daemons(node), ready=lambda: _containerd_answers(node))


def _prepare_mounts(node: str) -> None:
    folder = node_folder(node)
    cluster = folder / "var/lib" / FOLDER.name
    cluster.mkdir(parents=True, exist_ok=True)
    _run("mount", "--bind", str(FOLDER), str(cluster))
    for own in _OWN_FOLDERS:
        source = folder / own.lstrip("/")
        source.mkdir(parents=True, exist_ok=True)
        _run("mount", "--rbind", str(source), own)
    Path("/tmp").chmod(0o1777)
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    # The kubelet's mounts must reach pods, and those of pods the kubelet.
    _run("mount", "--make-rshared", "/")


def _containerd_answers(node: str) -> bool:
    """Whether containerd has the pause image. The kubelet must not start before."""
    ctr = ["ctr", "--address", str(containerd_socket(node)), "--timeout", "30s", "--namespace", "k8s.io"]
    done = subprocess.run(
        [*ctr, "images", "import", str(FOLDER / "pause.tar")],
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(sys.argv[1])
