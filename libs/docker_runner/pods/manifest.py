"""Turn the description of a container into a pod that Pod Security `restricted` accepts, and read pods. Pure.

The pod gets nothing of ours but the key of its attempt: no token, no Secret, no folder of the node. Its code and its
state come over the link (`link.py`).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from libs.core.room import MIB
from libs.docker_runner.containers.container import ContainerState, Label, ManagedContainer, from_labels

MANAGER = "the0-runtime"
MANAGED_BY = "app.kubernetes.io/managed-by"
LABELS = "the0.app/labels"
"""The annotation with the labels of the container, whose values may be any text."""
KEY_VARIABLE = "THE0_LINK_KEY"
CONTAINER = "bot"
_PROGRAM = "/the0"
_BASE = "/run/the0"
_LABEL_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")
# What a start of the bot's first process and the requests of a worker take beside the bot's output.
_WORK_MIB = 64
_NO_CODE = 127


@dataclass(frozen=True)
class PodRules:
    """The operator's settings of pods.

    Attributes:
        user: the number of the bots' user and group.
        code_bytes: room for a bot's unpacked code.
    """

    namespace: str = "the0-bots"
    init_image: str = "the0/init"
    port: int = 9478
    user: int = 10_001
    code_bytes: int = 1024 * MIB
    runtime_class: str | None = None
    priority_class: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    pull_secrets: Sequence[str] = ()


def pod(name: str, body: Mapping[str, Any], key: bytes, rules: PodRules) -> dict[str, Any]:
    """Return the pod of the container *name*, as described by :func:`container_body`."""
    labels: Mapping[str, str] = body["Labels"]
    program = {"name": "program", "mountPath": _PROGRAM}
    small = {"cpu": "10m", "memory": "16Mi"}
    spec: dict[str, Any] = {
        # An attempt is one start: another one is a new pod, which the worker decides about.
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The init forwards SIGTERM; the worker gives the bot its grace before it deletes the pod.
        "terminationGracePeriodSeconds": 40,
        "hostname": "bot",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": rules.user,
            "runAsGroup": rules.user,
            "fsGroup": rules.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # A lost node ends no bot by this: its lease does, long before.
        "tolerations": [dict(one) for one in rules.tolerations],
        "initContainers": [
            {
                "name": "program",
                "image": rules.init_image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/the0-init", "--install", f"{_PROGRAM}/the0-init"],
                "volumeMounts": [program],
                "resources": {"requests": small, "limits": {"memory": "16Mi"}},
                "securityContext": _restricted(),
            }
        ],
        "containers": [
            {
                "name": CONTAINER,
                "image": body["Image"],
                "imagePullPolicy": "IfNotPresent",
                "command": [f"{_PROGRAM}/the0-init", "--pod", str(rules.port), _BASE],
                "workingDir": body["WorkingDir"],
                "env": [*_environment(body["Env"]), {"name": KEY_VARIABLE, "value": key.hex()}],
                "ports": [{"name": "link", "containerPort": rules.port}],
                "volumeMounts": [{**program, "readOnly": True}, *_mounts(body)],
                "resources": _resources(body["HostConfig"], rules),
                "securityContext": _restricted(),
            }
        ],
        "volumes": [{"name": "program", "emptyDir": {"sizeLimit": "8Mi"}}, *_volumes(body, rules)],
    }
    optional = {
        "runtimeClassName": rules.runtime_class,
        "priorityClassName": rules.priority_class,
        "nodeSelector": dict(rules.node_selector),
        "imagePullSecrets": [{"name": one} for one in rules.pull_secrets],
    }
    spec |= {name: value for name, value in optional.items() if value}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": rules.namespace,
            "labels": {
                MANAGED_BY: MANAGER,
                "app.kubernetes.io/name": "the0-bot",
                "app.kubernetes.io/component": _label(labels.get(Label.ENTRYPOINT, "")),
                "app.kubernetes.io/instance": _label(labels.get(Label.SERVICE, "")),
                "the0.app/bot-id": _label(labels.get(Label.ID, "")),
                "the0.app/egress": "public",
            },
            "annotations": {LABELS: json.dumps(dict(labels), sort_keys=True)},
        },
        "spec": spec,
    }


@dataclass(frozen=True)
class PodView:
    """One pod as the API server describes it.

    Attributes:
        uid: its identity; another pod of the same name has another one.
        address: "" while it has none.
        problem: why it does not run yet, as one sentence; "" without one.
        gone: its node reports that no container of it runs any more.
    """

    uid: str
    name: str
    container: ManagedContainer
    address: str
    node: str
    key: bytes
    phase: str
    problem: str
    problem_is_final: bool
    gone: bool
    deleted: bool


def pod_view(document: Mapping[str, Any]) -> PodView | None:
    """Return *document* as a view; None when it is not a pod of ours. Malformed parts become neutral values."""
    try:
        metadata, spec, status = document["metadata"], document["spec"], document.get("status") or {}
        labels = json.loads(metadata["annotations"][LABELS])
        variables = {one["name"]: one.get("value", "") for one in spec["containers"][0].get("env") or ()}
        key = bytes.fromhex(variables[KEY_VARIABLE])
        statuses = {one.get("name"): one for one in status.get("containerStatuses") or ()}
        state = (statuses.get(CONTAINER) or {}).get("state") or {}
        phase = str(status.get("phase", "Unknown"))
        ended = state.get("terminated")
        gone = phase in ("Succeeded", "Failed")
        why = str((ended or {}).get("reason") or status.get("reason") or "")
        container = from_labels(
            {str(name): str(value) for name, value in labels.items()},
            container_id=str(metadata["uid"]),
            name=str(metadata["name"]),
            state=_state(phase, gone),
            exit_code=_exit_code(ended, gone),
            oom_killed=why == "OOMKilled",
            started_at=_time(((state.get("running") or ended) or {}).get("startedAt")),
            finished_at=_time((ended or {}).get("finishedAt")),
            created_at=_time(metadata.get("creationTimestamp")),
        )
        problem, final = problem_of(spec, status)
        return PodView(
            uid=container.container_id,
            name=container.name,
            container=container,
            address=str(status.get("podIP") or ""),
            node=str(spec.get("nodeName") or ""),
            key=key,
            phase=phase,
            problem=problem,
            problem_is_final=final,
            gone=gone,
            deleted="deletionTimestamp" in metadata,
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def problem_of(spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[str, bool]:
    """Return why a pod does not run, with the remedy, and whether waiting is useless; "" when nothing is wrong."""
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    if reason == "Evicted":
        return f"evicted by its node: {message}; lower the bot's use of disk, or give nodes more", True
    if reason:
        return f"its node ended it: {reason}: {message}", True
    for one in status.get("conditions") or ():
        if one.get("type") == "PodScheduled" and one.get("reason") == "Unschedulable":
            return f"no node has room: {one.get('message') or 'unschedulable'}; add a node, or lower its limits", False
    for kind in ("initContainerStatuses", "containerStatuses"):
        for one in status.get(kind) or ():
            waiting = (one.get("state") or {}).get("waiting") or {}
            why, text = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
            if why in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
                remedy = "check its name, POD_PULL_SECRETS and the registry"
                return f"image {one.get('image')!r} cannot be pulled: {why}: {text}; {remedy}", True
            if why in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
                return f"its node cannot create it: {why}: {text}", True
    return "", False


def _state(phase: str, gone: bool) -> ContainerState:
    if gone:
        return ContainerState.EXITED
    return ContainerState.CREATED if phase == "Pending" else ContainerState.RUNNING


def _exit_code(ended: Mapping[str, Any] | None, gone: bool) -> int | None:
    if ended is not None:
        return int(ended.get("exitCode", _NO_CODE))
    return _NO_CODE if gone else None


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _restricted() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _environment(variables: Sequence[str]) -> list[dict[str, str]]:
    pairs = [variable.partition("=") for variable in variables]
    # The kubelet replaces $(NAME) in a value, unless the dollar sign is doubled.
    return [{"name": name, "value": value.replace("$(", "$$(")} for name, _, value in pairs]


def _mounts(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    mounts = [{"name": "work", "mountPath": _BASE}, {"name": "code", "mountPath": body["WorkingDir"]}]
    for number, target in enumerate(_memory(body)):
        mounts.append({"name": f"memory-{number}", "mountPath": target})
    return mounts


def _volumes(body: Mapping[str, Any], rules: PodRules) -> list[dict[str, Any]]:
    volumes = [
        {"name": "work", "emptyDir": {"sizeLimit": f"{_work_mib(body)}Mi"}},
        {"name": "code", "emptyDir": {"sizeLimit": f"{rules.code_bytes // MIB}Mi"}},
    ]
    for number, (_, size) in enumerate(_memory(body).items()):
        volumes.append({"name": f"memory-{number}", "emptyDir": {"medium": "Memory", "sizeLimit": str(size)}})
    return volumes


def _memory(body: Mapping[str, Any]) -> dict[str, int]:
    """Return the folders in memory with their sizes in bytes; those below the work folder are in it."""
    found = {}
    for target, options in body["HostConfig"]["Tmpfs"].items():
        size = next((part for part in options.split(",") if part.startswith("size=")), "size=1048576")
        if not target.startswith(f"{_BASE}/"):
            found[target] = int(size.removeprefix("size=").replace("k", "000"))
    return found


def _work_mib(body: Mapping[str, Any]) -> int:
    # Three archives of the state: the one to begin with, the saved one, and the one that replaces it.
    state = _memory(body).get("/state", 0) // MIB
    return _WORK_MIB + 3 * (state + 16)


def _resources(host: Mapping[str, Any], rules: PodRules) -> dict[str, Any]:
    memory = str(host["Memory"])
    limits = {"memory": memory, "ephemeral-storage": f"{rules.code_bytes // MIB + 512}Mi"}
    requests = {"memory": memory, "cpu": "10m", "ephemeral-storage": "64Mi"}
    if "NanoCpus" in host:
        limits["cpu"] = f"{max(1, host['NanoCpus'] // 1_000_000)}m"
        requests["cpu"] = f"{max(10, math.ceil(host['NanoCpus'] / 16_000_000))}m"
    return {"limits": limits, "requests": requests}


def _label(text: str) -> str:
    """Return *text* as the value of a label: at most 63 letters, digits, dots, dashes and underscores."""
    return _LABEL_CHARACTERS.sub("-", text)[:63].strip("-._")
