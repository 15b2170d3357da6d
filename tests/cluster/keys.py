"""The cluster's certificates, and the clients that present them to the API server."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.layout import API_ADDRESS, API_SERVICE_ADDRESS, NODES
from tools.debian.command import run_command

_DAYS = "3650"
_SECONDS = 60


@dataclass(frozen=True)
class Client:
    """A user of the API server; *group* determines its rights."""

    file: str
    user: str
    group: str


ADMIN = Client("admin", "admin", "system:masters")
CLIENTS = (
    ADMIN,
    Client("kube-apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
    Client("kube-controller-manager", "system:kube-controller-manager", "system:kube-controller-manager"),
    Client("kube-scheduler", "system:kube-scheduler", "system:kube-scheduler"),
    Client("kube-proxy", "system:kube-proxy", "system:node-proxier"),
    Client("coredns", "coredns", "system:masters"),
    *(Client(node, f"system:node:{node}", "system:nodes") for node in NODES),
)


async def make_keys(folder: Path) -> None:
    """Write an authority, certificates of the API server and its clients, and the service accounts' key to *folder*."""
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    authority = ["-subj", "/CN=the0-cluster", *usage, "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt"]
    await _openssl("req", "-x509", *_new_key(), *authority, "-days", _DAYS)
    await _openssl("genrsa", "-out", f"{folder}/service-accounts.key", "2048")
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    addresses = ["127.0.0.1", API_ADDRESS, API_SERVICE_ADDRESS]
    alternatives = [f"DNS:{name}" for name in ["localhost", *names]] + [f"IP:{address}" for address in addresses]
    await _sign(folder, "kube-apiserver", "/CN=kube-apiserver", [f"subjectAltName={','.join(alternatives)}"])
    for client in CLIENTS:
        subject = f"/O={client.group}/CN={client.user}"
        await _sign(folder, client.file, subject, ["extendedKeyUsage=clientAuth"])


def kubeconfig(folder: Path, client: Client, url: str) -> str:
    """Return a kubeconfig that needs no other file."""

    def encoded(name: str) -> str:
        return base64.b64encode((folder / name).read_bytes()).decode()

    user = {"client-certificate-data": encoded(f"{client.file}.crt"), "client-key-data": encoded(f"{client.file}.key")}
    cluster = {"server": url, "certificate-authority-data": encoded("ca.crt")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "the0-cluster", "cluster": cluster}],
        "users": [{"name": client.user, "user": user}],
        "contexts": [{"name": "the0-cluster", "context": {"cluster": "the0-cluster", "user": client.user}}],
        "current-context": "the0-cluster",
    }
    return json.dumps(config, indent=2)


async def _sign(folder: Path, file: str, subject: str, extensions: list[str]) -> None:
    added = [argument for extension in extensions for argument in ("-addext", extension)]
    await _openssl(
        "req", "-x509", *_new_key(), "-subj", subject, "-addext", "basicConstraints=critical,CA:FALSE", *added,
        "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key", "-days", _DAYS,
        "-keyout", f"{folder}/{file}.key", "-out", f"{folder}/{file}.crt",
    )  # fmt: skip


def _new_key() -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


async def _openssl(*arguments: str) -> None:
    await run_command(["openssl", *arguments], within_seconds=_SECONDS)
