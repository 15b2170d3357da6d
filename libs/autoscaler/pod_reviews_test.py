"""Answers to TokenReviews, as the API server gives them."""

from typing import Any

import pytest

from libs.autoscaler.pod_reviews import reviewed
from libs.core.kubernetes.api_server import Answer
from libs.core.transport.pod_tokens import PodTokenRefused, PodTokenUnchecked, ReviewedPod

POD = "authentication.kubernetes.io/pod-name"


def answer(**changes: Any) -> Answer:
    status: dict[str, Any] = {
        "authenticated": True,
        "audiences": ["the0"],
        "user": {"username": "system:serviceaccount:the0:worker", "extra": {POD: ["worker-1"]}},
    }
    return Answer(201, {"kind": "TokenReview", "status": status | changes})


def test_pod_account_and_namespace_are_read() -> None:
    assert reviewed(answer()) == ReviewedPod("the0", "worker", "worker-1")


@pytest.mark.parametrize(
    "changes",
    [
        {"authenticated": False},
        {"authenticated": "true"},
        {"audiences": []},
        {"audiences": None},
        {"audiences": ["https://kubernetes.default.svc"]},
        {"audiences": "the0"},
        {"user": {"username": "system:node:node-1"}},
        {"user": {"username": "admin:the0:worker"}},
        {"user": None},
    ],
)
def test_answer_that_proves_nothing_is_a_refusal(changes: dict[str, Any]) -> None:
    with pytest.raises(PodTokenRefused):
        reviewed(answer(**changes))


@pytest.mark.parametrize("extra", [None, {}, {POD: []}, {POD: ["a", "b"]}, {POD: "worker-1"}])
def test_token_without_one_pod_is_bound_to_none(extra: Any) -> None:
    found = reviewed(answer(user={"username": "system:serviceaccount:the0:worker", "extra": extra}))

    assert found.name == ""


@pytest.mark.parametrize(("status", "named"), [(403, "ClusterRoleBinding"), (500, "500"), (404, "404")])
def test_error_of_the_server_is_no_refusal(status: int, named: str) -> None:
    with pytest.raises(PodTokenUnchecked, match=named):
        reviewed(Answer(status, {"message": "no"}))
