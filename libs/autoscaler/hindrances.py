"""Why worker pods do not run, as Kubernetes reports it: conditions, states of containers, and events. Pure.

Kubernetes' own reasons are the types here; messages are for people, and nothing is decided by them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

OTHER = "Other"
# A quota or PodSecurity refuses pods: FailedCreate. The others belong to one pod each.
OF_DEPLOYMENT = ("FailedCreate", "ProgressDeadlineExceeded")
OF_CONTAINERS = (
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
)
UNSCHEDULABLE = "Unschedulable"
OF_EVENTS = ("FailedAttachVolume", "FailedCreatePodSandBox", "FailedMount")
REASONS = (*OF_DEPLOYMENT, UNSCHEDULABLE, *OF_CONTAINERS, *OF_EVENTS, OTHER)
"""All reasons, for the labels of a metric."""

_MOST_CHARACTERS = 500
_MOST_NAMED = 3
_FRESH = timedelta(minutes=10)


@dataclass(frozen=True)
class Hindrance:
    """One pod that does not run, or why Kubernetes creates none.

    Attributes:
        reason: one of :data:`REASONS`.
        message: for people, as Kubernetes words it.
        pod: its name; empty for the Deployment.
    """

    reason: str
    message: str
    pod: str = ""


def of_deployment(document: Mapping[str, Any]) -> list[Hindrance]:
    """Return what a Deployment's conditions report."""
    conditions = (document.get("status") or {}).get("conditions") or ()
    failing = {"ReplicaFailure": "True", "Progressing": "False"}
    return [
        _hindrance(condition.get("reason"), condition.get("message"))
        for condition in conditions
        if failing.get(condition.get("type", "")) == condition.get("status")
    ]


def of_pod(document: Mapping[str, Any]) -> Hindrance | None:
    """Return why a pod does not run, by its status; None if it does, or is only starting."""
    name = str(document["metadata"]["name"])
    status = document.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == UNSCHEDULABLE:
            return _hindrance(UNSCHEDULABLE, condition.get("message"), name)
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in OF_CONTAINERS:
                message = waiting.get("message") or f"container {container.get('name')}"
                return _hindrance(waiting["reason"], message, name)
    return None


def of_events(documents: Iterable[Mapping[str, Any]], pods: Collection[str], now: datetime) -> list[Hindrance]:
    """Return the latest recent warning of each of *pods*, among those whose reasons no status shows."""
    latest: dict[str, tuple[datetime, Hindrance]] = {}
    for event in documents:
        pod = str((event.get("involvedObject") or {}).get("name", ""))
        seen = _time(event.get("lastTimestamp") or event.get("eventTime"))
        if pod not in pods or event.get("reason") not in OF_EVENTS or seen is None or now - seen > _FRESH:
            continue
        if pod not in latest or latest[pod][0] < seen:
            latest[pod] = seen, _hindrance(event["reason"], event.get("message"), pod)
    return [hindrance for _, hindrance in latest.values()]


def described(hindrances: Sequence[Hindrance]) -> str:
    """Return one text for operators; empty for none. Each reason is named once, with the number of its pods."""
    first = {hindrance.reason: hindrance for hindrance in reversed(hindrances)}
    parts = []
    for reason in sorted(first)[:_MOST_NAMED]:
        pods = sum(bool(hindrance.pod) for hindrance in hindrances if hindrance.reason == reason)
        where = f"{pods} worker pod{'s' if pods > 1 else ''} not running" if pods else "worker pods are not created"
        parts.append(f"{where}: {reason}: {first[reason].message}")
    return "; ".join(parts)


def _hindrance(reason: object, message: object, pod: str = "") -> Hindrance:
    known = str(reason) if reason in REASONS else OTHER
    text = " ".join(str(message or "").split())[:_MOST_CHARACTERS]
    return Hindrance(known, text if known == reason else f"{reason}: {text}"[:_MOST_CHARACTERS], pod)


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
