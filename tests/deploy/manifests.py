"""Kustomize folders rendered by the real program, with look-ups in the result, and the users of the servers."""

import functools
import ipaddress
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from libs.core.process.service import SERVICES
from tools.stack import binaries

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
Manifest = dict[str, Any]

USERS = [f"{service.name}-{role}" for service in SERVICES for role in ("master", "worker")]
"""The users of MongoDB, NATS and S3: one for each role of each service."""


def password_variable(server: str, user: str) -> str:
    """The variable with the password of a user of ``MONGO`` or ``NATS``."""
    return f"{server}_PASSWORD_{user.upper().replace('-', '_')}"


def s3_secret_variable(user: str) -> str:
    """The variable with the secret of a user of S3, whose access key is its name."""
    return f"S3_SECRET_KEY_{user.upper().replace('-', '_')}"


@functools.cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """All documents of deploy/kubernetes/*folder*. Not to be changed: they are shared.

    Raises:
        AssertionError: kubectl refuses the folder; the message is its own.
    """
    command = [str(binaries.kubectl()), "kustomize", str(KUBERNETES / folder)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0, process.stderr
    assert not process.stderr, f"kubectl warns: {process.stderr}"
    return tuple(document for document in yaml.safe_load_all(process.stdout) if document)


def of_kind(folder: str, *kinds: str) -> list[Manifest]:
    return [document for document in rendered(folder) if document["kind"] in kinds]


def named(folder: str, kind: str, name: str) -> Manifest:
    """The one document of that kind and name.

    Raises:
        LookupError: there is none.
    """
    for document in of_kind(folder, kind):
        if document["metadata"]["name"] == name:
            return document
    raise LookupError(f"{folder} has no {kind} {name!r}")


def pod_spec(workload: Manifest) -> Manifest:
    return dict(workload["spec"]["template"]["spec"])


def containers(workload: Manifest) -> list[Manifest]:
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def container(workload: Manifest, name: str) -> Manifest:
    return next(found for found in containers(workload) if found["name"] == name)


def environment(found: Manifest) -> dict[str, Manifest]:
    return {variable["name"]: variable for variable in found.get("env", [])}


def mounts(found: Manifest) -> dict[str, str]:
    """Volume to path."""
    return {mount["name"]: mount["mountPath"] for mount in found.get("volumeMounts", [])}


def selected(folder: str, selector: Mapping[str, str]) -> list[str]:
    """Names of the workloads whose pods have these labels."""
    return [
        workload["metadata"]["name"]
        for workload in of_kind(folder, "Deployment", "StatefulSet")
        if selector and selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    ]


def references(workload: Manifest) -> Iterator[tuple[str, str]]:
    """(kind, name) of everything that a workload's pods name and do not say they can do without."""
    spec = pod_spec(workload)
    if "serviceAccountName" in spec:
        yield "ServiceAccount", spec["serviceAccountName"]
    for found in containers(workload):
        for source in found.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"]
        for variable in found.get("env", []):
            secret = variable.get("valueFrom", {}).get("secretKeyRef")
            if secret is not None:
                yield "Secret", secret["name"]


def permits_egress(policy: Manifest, address: str, port: int, protocol: str = "TCP") -> bool:
    """Whether a NetworkPolicy lets its pods connect to an address that belongs to no pod."""
    return any(
        _has_port(rule.get("ports"), port, protocol) and _has_address(rule.get("to"), address)
        for rule in policy["spec"]["egress"]
    )


def _has_port(ports: list[Manifest] | None, port: int, protocol: str) -> bool:
    return ports is None or any((found["port"], found["protocol"]) == (port, protocol) for found in ports)


def _has_address(peers: list[Manifest] | None, address: str) -> bool:
    host = ipaddress.ip_address(address)
    blocks = [peer["ipBlock"] for peer in peers or () if "ipBlock" in peer]
    return peers is None or any(
        host in ipaddress.ip_network(block["cidr"])
        and not any(host in ipaddress.ip_network(other) for other in block.get("except", ()))
        for block in blocks
    )
