from typing import Any

import pytest

from libs.core.store.entities import Entity
from libs.core.store.releases import (
    Rejection,
    RejectionReason,
    Release,
    Version,
    effective,
)

DEFAULT_SECONDS = 10.0


def entity(**fields: Any) -> Entity:
    return Entity.of({"_id": 1, "id": "b", "revision": 7, "config": {}, "custom": {"filePath": "seven.zip"}} | fields)


def version(revision: int, key: str = "six.zip", window_seconds: float | None = None) -> Version:
    return Version(revision, {"a": revision}, {"filePath": key, "version": f"v{revision}"}, "etag", window_seconds)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (True, 10.0),
        (1, 10.0),
        ("true", 10.0),
        (" TRUE ", 10.0),
        ({"window_seconds": 3}, 3.0),
        ({"window_seconds": 1e9}, 3600.0),
        ({}, 10.0),
        ({"window_seconds": "x"}, 10.0),
        ({"window_seconds": -1}, 10.0),
        ({"window_seconds": True}, 10.0),
        ({"window_seconds": float("nan")}, 10.0),
        (False, None),
        (0, None),
        ("false", None),
        ("", None),
        (None, None),
        ([True], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["config", "beside"])
def test_health_window_is_that_of_config_or_event(asked: Any, seconds: float | None, place: str) -> None:
    fields = {"config": {"rollback": asked}} if place == "config" else {"rollback": asked}

    assert Version.of(entity(**fields), "e", DEFAULT_SECONDS).window_seconds == seconds


def test_release_is_read_as_it_was_written() -> None:
    release = Release(version(6, window_seconds=3.0), version(5), Rejection(7, RejectionReason.UNHEALTHY, "x"))

    assert Release.of({"release": release.to_document(epoch=4)}) == release


@pytest.mark.parametrize(
    "broken",
    [None, 5, [], {"current": 5}, {"current": {"config": 5, "custom": {}}}, {"rejection": {"reason": "strange"}}],
    ids=str,
)
def test_release_that_cannot_be_read_is_an_empty_one(broken: Any) -> None:
    assert Release.of({"release": broken}) == Release()


def test_version_before_is_kept_until_the_new_one_is_confirmed() -> None:
    accepted = Release(version(6)).accepting(version(7))

    assert accepted == Release(version(7), version(6))
    assert accepted.confirmed("new").previous is None
    assert accepted.confirmed("new").current == Version(7, {"a": 7}, {"filePath": "six.zip", "version": "v7"}, "new")
    rejection = Rejection(7, RejectionReason.UNHEALTHY, "x")
    assert accepted.reverted(rejection) == Release(version(6), None, rejection)


@pytest.mark.parametrize("reason", ["limits", "unhealthy"])
def test_effective_version_is_the_accepted_one_while_the_newest_is_rejected(reason: str) -> None:
    rejection = {"revision": 7, "reason": reason, "detail": ""}
    release = {"release": Release(version(6)).to_document(1)}

    assert effective(entity(**release, status={"rejection": rejection})).config == {"a": 6}
    assert effective(entity(release={**release["release"], "rejection": rejection})).revision == 6
    assert effective(entity(**release)).revision == 7
    assert effective(entity(**release, status={"rejection": {**rejection, "revision": 5}})).revision == 7
