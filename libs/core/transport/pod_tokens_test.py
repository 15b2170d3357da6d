"""What the tokens of worker pods prove to a master, with a review in place of the API server."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from libs.core.transport.pod_tokens import (
    HEADER,
    PodProofs,
    PodTokenRefused,
    PodTokenUnchecked,
    ProvenPod,
    ReviewedPod,
    pod_token_file,
)
from libs.core.transport.watched_files import FileRejected

TOKEN, OTHER = "header.payload.signature", "header.payload.another-signature"
POD = ReviewedPod("the0", "bot-runner-worker", "worker-1")


class Reviews:
    """The answer to each review, and the reviewed tokens."""

    def __init__(self, answer: ReviewedPod | Exception = POD) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def review(self, token: str) -> ReviewedPod:
        self.asked.append(token)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def presented(*tokens: str) -> Sequence[tuple[str, str | bytes]]:
    return [("user-agent", "grpc"), *((HEADER, token) for token in tokens)]


def proofs(reviews: Reviews, clock: Clock | None = None, account: str | None = "bot-runner-worker") -> PodProofs:
    return PodProofs("require", "the0", account, reviews.review, clock or Clock())


async def test_worker_id_is_the_name_of_the_pod() -> None:
    assert await proofs(Reviews()).check(presented(TOKEN)) == ProvenPod("worker-1")


@pytest.mark.parametrize(
    ("pod", "named"),
    [
        (ReviewedPod("the0", "bot-runner-worker", ""), "bound to no pod"),
        (ReviewedPod("tenants", "bot-runner-worker", "worker-1"), "namespace 'tenants'"),
        (ReviewedPod("the0", "default", "worker-1"), "service account 'default'"),
    ],
)
async def test_valid_token_of_something_else_is_refused(pod: ReviewedPod, named: str) -> None:
    with pytest.raises(PodTokenRefused, match=named):
        await proofs(Reviews(pod)).check(presented(TOKEN))


async def test_every_account_of_the_namespace_passes_unless_one_is_named() -> None:
    pod = ReviewedPod("the0", "default", "worker-1")

    assert await proofs(Reviews(pod), account=None).check(presented(TOKEN)) == ProvenPod("worker-1")


@pytest.mark.parametrize(
    "tokens", [(), ("",), ("short",), ("with a space in it " * 3,), ("x" * 20_000,), (TOKEN, TOKEN)]
)
async def test_missing_or_malformed_token_is_refused_without_a_review(tokens: Sequence[str]) -> None:
    reviews = Reviews()

    with pytest.raises(PodTokenRefused):
        await proofs(reviews).check(presented(*tokens))

    assert reviews.asked == []


async def test_allow_accepts_workers_without_a_token_and_no_invalid_one() -> None:
    reviews = Reviews(PodTokenRefused("expired"))
    allowing = PodProofs("allow", "the0", None, reviews.review)

    assert await allowing.check(presented()) == ProvenPod()
    with pytest.raises(PodTokenRefused, match="expired"):
        await allowing.check(presented(TOKEN))


async def test_off_reviews_nothing() -> None:
    assert await PodProofs().check(presented(TOKEN)) == ProvenPod()


async def test_token_that_nobody_could_review_is_unchecked_and_asked_about_again() -> None:
    reviews = Reviews(PodTokenUnchecked("no answer"))
    required = proofs(reviews)

    assert await required.check(presented(TOKEN)) == ProvenPod(is_unchecked=True)
    reviews.answer = POD
    assert await required.check(presented(TOKEN)) == ProvenPod("worker-1")


async def test_reviewed_token_is_valid_for_a_minute_and_no_other_one_with_it() -> None:
    reviews, clock = Reviews(), Clock()
    required = proofs(reviews, clock)
    await required.check(presented(TOKEN))
    reviews.answer = PodTokenRefused("its pod is gone")

    clock.now = 60.0
    assert await required.check(presented(TOKEN)) == ProvenPod("worker-1")
    with pytest.raises(PodTokenRefused):
        await required.check(presented(OTHER))
    clock.now = 60.1
    with pytest.raises(PodTokenRefused):
        await required.check(presented(TOKEN))

    assert reviews.asked == [TOKEN, OTHER, TOKEN]


def test_renewed_token_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    token = pod_token_file("POD_TOKEN_FILE", file)

    assert token() == TOKEN
    renewed = tmp_path / "new"
    renewed.write_text(OTHER)
    os.replace(renewed, file)
    assert token() == OTHER


@pytest.mark.parametrize("content", ["", "two words of a token"])
def test_file_without_a_token_is_refused_with_its_setting(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)

    with pytest.raises(FileRejected, match="POD_TOKEN_FILE"):
        pod_token_file("POD_TOKEN_FILE", tmp_path / "token")
