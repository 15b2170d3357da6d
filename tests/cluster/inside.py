"""The first process inside the cluster's namespaces: prepares them, then keeps the cluster's programs running.

It is the first process of a process namespace, so all processes of the cluster end with it. Mounts and the
network end with the last process.
"""

import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from tests.cluster.daemons import control_plane
from tests.cluster.layout import API_ADDRESS, NODES, SERVICE_NETWORK, VALUES, node_address
from tests.cluster.supervisor import supervise

SHADOWED_VALUES = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
"""What the kubelet writes below /proc/sys and belongs to no namespace."""
_ENGINE_FOLDERS = ("/var/lib/docker/", "/run/docker/", "/var/run/docker/")


def main(listener: int) -> NoReturn:
    """Prepare the namespaces and run the cluster until this process is killed."""
    _prepare_mounts()
    _prepare_network()
    supervise(control_plane(listener), kept=[listener], ready=_etcd_answers)


def _prepare_mounts() -> None:
    # The machine's Docker engine could not remove what this namespace still has mounted.
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        if (target := line.split()[1]).startswith(_ENGINE_FOLDERS):
            subprocess.run(["umount", "--lazy", target], check=False, stderr=subprocess.DEVNULL)
    # The kubelet reads and writes files that stand for the machine's settings, which stay as they are.
    for name in SHADOWED_VALUES:
        stand_in = VALUES / name
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(Path("/proc/sys", name).read_text())
        _run("mount", "--bind", str(stand_in), f"/proc/sys/{name}")


def _prepare_network() -> None:
    # The loopback device carries the addresses: some machines lack a driver for a device of their own.
    _run("ip", "link", "set", "lo", "up")
    for address in (API_ADDRESS, *map(node_address, NODES)):
        _run("ip", "address", "add", f"{address}/32", "dev", "lo")
    _run("ip", "route", "add", SERVICE_NETWORK, "dev", "lo", "src", API_ADDRESS)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _etcd_answers() -> bool:
    try:
        socket.create_connection(("127.0.0.1", 2379), timeout=1).close()
    except OSError:
        return False
    return True


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
