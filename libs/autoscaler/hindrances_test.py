"""What is read from the documents of a real API server, shortened."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.autoscaler.hindrances import OTHER, Hindrance, described, of_deployment, of_events, of_pod

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
QUOTA = 'pods "w-1" is forbidden: exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3'


def deployment(*conditions: dict[str, str]) -> dict[str, Any]:
    return {"status": {"conditions": list(conditions)}}


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "w-1"}, "status": status}


def event(reason: str, name: str = "w-1", age: timedelta = timedelta(minutes=1), **more: Any) -> dict[str, Any]:
    seen = (NOW - age).isoformat().replace("+00:00", "Z")
    return {
        "reason": reason,
        "message": "no such secret",
        "involvedObject": {"name": name},
        "lastTimestamp": seen,
    } | more


def test_refused_pods_are_read_from_the_deployment() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": QUOTA}

    assert of_deployment(deployment(condition)) == [Hindrance("FailedCreate", QUOTA)]


@pytest.mark.parametrize(
    "condition",
    [
        {"type": "ReplicaFailure", "status": "False", "reason": "FailedCreate"},
        {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
        {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable"},
    ],
)
def test_condition_that_reports_no_failure_is_no_hindrance(condition: dict[str, str]) -> None:
    assert of_deployment(deployment(condition)) == []
    assert of_deployment({}) == []


def test_rollout_that_does_not_progress_is_a_hindrance() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}

    assert of_deployment(deployment(late)) == [Hindrance("ProgressDeadlineExceeded", "timed out")]


def test_reason_that_is_not_known_keeps_its_name_in_the_message() -> None:
    new = {"type": "ReplicaFailure", "status": "True", "reason": "Novelty", "message": "of 2030"}

    assert of_deployment(deployment(new)) == [Hindrance(OTHER, "Novelty: of 2030")]


def test_unschedulable_pod_is_a_hindrance() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2\n nodes"}

    assert of_pod(pod(conditions=[condition])) == Hindrance("Unschedulable", "0/2 nodes", "w-1")


@pytest.mark.parametrize("kind", ["initContainerStatuses", "containerStatuses"])
def test_container_that_cannot_start_is_a_hindrance(kind: str) -> None:
    waiting = {"name": "engine", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no route"}}}

    assert of_pod(pod(**{kind: [waiting]})) == Hindrance("ImagePullBackOff", "no route", "w-1")


@pytest.mark.parametrize("state", [{"waiting": {"reason": "PodInitializing"}}, {"running": {}}, {}])
def test_starting_or_running_pod_is_no_hindrance(state: dict[str, Any]) -> None:
    scheduled = {"type": "PodScheduled", "status": "True"}

    assert of_pod(pod(conditions=[scheduled], containerStatuses=[{"name": "worker", "state": state}])) is None


def test_latest_recent_event_of_a_pod_is_a_hindrance() -> None:
    events = [
        event("FailedMount", age=timedelta(minutes=3)),
        event("FailedCreatePodSandBox", age=timedelta(minutes=1)),
        event("FailedMount", age=timedelta(minutes=2)),
        event("FailedMount", name="another"),
        event("Unhealthy"),
    ]

    assert of_events(events, {"w-1"}, NOW) == [Hindrance("FailedCreatePodSandBox", "no such secret", "w-1")]


@pytest.mark.parametrize("change", [{"lastTimestamp": None}, {"lastTimestamp": "yesterday"}, {"involvedObject": None}])
def test_event_without_time_or_object_is_ignored(change: dict[str, Any]) -> None:
    assert of_events([event("FailedMount", **change)], {"w-1"}, NOW) == []


def test_event_of_long_ago_is_ignored() -> None:
    assert of_events([event("FailedMount", age=timedelta(minutes=11))], {"w-1"}, NOW) == []


def test_reasons_are_described_once_with_the_number_of_pods() -> None:
    found = [
        Hindrance("Unschedulable", "0/2 nodes", "a"),
        Hindrance("Unschedulable", "0/2 nodes", "b"),
        Hindrance("FailedCreate", QUOTA),
    ]

    assert described(found) == (
        f"worker pods are not created: FailedCreate: {QUOTA}; 2 worker pods not running: Unschedulable: 0/2 nodes"
    )
    assert described([]) == ""
