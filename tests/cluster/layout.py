"""The cluster's folders, and the addresses in its network."""

from pathlib import Path

FOLDER = Path("/var/lib/the0-cluster")
"""All that a running cluster writes. `down` removes it."""
BIN = FOLDER / "bin"
CONFIG = FOLDER / "config"
KEYS = FOLDER / "keys"
LOGS = FOLDER / "logs"
VALUES = FOLDER / "values"
"""Stand-ins for the kernel's settings that the kubelet writes and that belong to no namespace."""
KUBECONFIG = FOLDER / "kubeconfig"
KUBECTL = BIN / "kubectl"
PROCESS = FOLDER / "process.json"

GROUP = "the0-cluster"
"""The control group, in each hierarchy, below which all pods are."""
SYSTEM_GROUP = "system"
"""Below it, where processors are shared out, the group of the cluster's own programs. It has as much as a node's pods:
busy pods do not keep a kubelet from probing them."""

NODES = ("node-1", "node-2")
PAUSE_IMAGE = "the0.test/pause:1"
API_ADDRESS = "10.201.0.1"
API_PORT = 6443
SERVICE_NETWORK = "10.203.0.0/16"
API_SERVICE_ADDRESS = "10.203.0.1"
DNS_SERVICE_ADDRESS = "10.203.0.10"
VOLUMES_PER_NODE = 64


def node_folder(node: str) -> Path:
    """Return the folder of a node: its /var/lib, its /var/log and its socket."""
    return FOLDER / node


def node_address(node: str) -> str:
    """Return the node's address. All nodes share one network namespace, and differ by address."""
    return f"10.201.0.{11 + NODES.index(node)}"


def pod_network(node: str) -> str:
    """Return the network of the addresses of the node's pods."""
    return f"10.202.{1 + NODES.index(node)}.0/24"


def containerd_socket(node: str) -> Path:
    """Return the socket of the node's containerd, which is reachable from outside the cluster's namespaces too."""
    return node_folder(node) / "containerd.sock"
