"""The programs of the cluster, with their arguments."""

import sys
from dataclasses import dataclass

from tests.cluster.layout import (
    API_ADDRESS,
    API_PORT,
    BIN,
    CONFIG,
    FOLDER,
    KEYS,
    NODES,
    SERVICE_NETWORK,
    node_address,
)

_ETCD = "http://127.0.0.1:2379"


@dataclass(frozen=True)
class Daemon:
    """A program that is restarted whenever it ends; *command* does not fork."""

    name: str
    command: tuple[str, ...]


def control_plane(listener: int) -> list[Daemon]:
    """Return the programs that run once. *listener* is the descriptor of the socket for processes of the machine."""
    return [
        _daemon("etcd", _etcd()),
        _daemon("kube-apiserver", _api_server()),
        _daemon("kube-controller-manager", _controller_manager()),
        _daemon("kube-scheduler", {"kubeconfig": f"{CONFIG}/kube-scheduler.kubeconfig", "leader-elect": "false"}),
        _daemon("kube-proxy", {"config": f"{CONFIG}/kube-proxy.json"}),
        Daemon("coredns", (f"{BIN}/coredns", "-conf", f"{CONFIG}/Corefile")),
        Daemon("relay", python("tests.cluster.relay", str(listener))),
        *(Daemon(node, ("unshare", "--mount", *python("tests.cluster.node", node))) for node in NODES),
    ]


def node_daemons(node: str) -> list[Daemon]:
    """Return the programs of each node, which run in its mount namespace."""
    kubelet = {
        "config": f"{CONFIG}/{node}-kubelet.json",
        "kubeconfig": f"{CONFIG}/{node}.kubeconfig",
        "hostname-override": node,
        "node-ip": node_address(node),
        "cert-dir": "/var/lib/kubelet/pki",
    }
    containerd = Daemon(f"{node}-containerd", ("containerd", "--config", f"{CONFIG}/{node}-containerd.toml"))
    return [containerd, _daemon("kubelet", kubelet, name=f"{node}-kubelet")]


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs a module of this project."""
    return (sys.executable, "-P", "-m", module, *arguments)


def _daemon(program: str, options: dict[str, str], name: str | None = None) -> Daemon:
    return Daemon(name or program, (f"{BIN}/{program}", *(f"--{option}={value}" for option, value in options.items())))


def _etcd() -> dict[str, str]:
    return {
        "data-dir": f"{FOLDER}/etcd",
        "listen-client-urls": _ETCD,
        "advertise-client-urls": _ETCD,
        "listen-peer-urls": "http://127.0.0.1:2380",
        "log-level": "warn",
        # The data need not outlive the machine, and a busy disk would hold everything up.
        "unsafe-no-fsync": "true",
    }


def _api_server() -> dict[str, str]:
    return {
        "advertise-address": API_ADDRESS,
        "secure-port": str(API_PORT),
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "client-ca-file": f"{KEYS}/ca.crt",
        "enable-admission-plugins": "NodeRestriction",
        "etcd-servers": _ETCD,
        "kubelet-client-certificate": f"{KEYS}/kube-apiserver-kubelet-client.crt",
        "kubelet-client-key": f"{KEYS}/kube-apiserver-kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": f"{KEYS}/service-accounts.key",
        "service-account-signing-key-file": f"{KEYS}/service-accounts.key",
        "service-cluster-ip-range": SERVICE_NETWORK,
        "tls-cert-file": f"{KEYS}/kube-apiserver.crt",
        "tls-private-key-file": f"{KEYS}/kube-apiserver.key",
    }


def _controller_manager() -> dict[str, str]:
    return {
        "kubeconfig": f"{CONFIG}/kube-controller-manager.kubeconfig",
        "cluster-signing-cert-file": f"{KEYS}/ca.crt",
        "cluster-signing-key-file": f"{KEYS}/ca.key",
        "leader-elect": "false",
        # A busy machine must not lose its nodes.
        "node-monitor-grace-period": "120s",
        "root-ca-file": f"{KEYS}/ca.crt",
        "service-account-private-key-file": f"{KEYS}/service-accounts.key",
        "use-service-account-credentials": "true",
    }
