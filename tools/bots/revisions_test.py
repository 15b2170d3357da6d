from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.core.store.entities import Entity
from libs.core.store.revisions import Revision, RunsOf
from tools.bots.revisions import NoSuchRevision, code_name, described, target_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DIGEST = "ab" * 32


def revision(number: int, code: str = "", config: str = "c", **more: Any) -> Revision:
    custom = {"filePath": code or f"{number}.zip", "version": f"v{number}"}
    fields: dict[str, Any] = {"accepted": True, "custom": custom, **more}
    return Revision("b", number, "doc", f"k{number}", NOW, "ann", {}, [], config_digest=config, **fields)


def bot(number: int, **more: Any) -> Entity:
    return Entity.of({"id": "b", "revision": number, "custom": {}, **more})


def runs(number: int, seconds: float, reason: str = "changed") -> RunsOf:
    return RunsOf(number, 1, seconds, NOW, NOW + timedelta(seconds=seconds), reason)


def test_default_target_is_the_last_accepted_one_before() -> None:
    known = [revision(4), revision(3, accepted=False), revision(2), revision(1)]

    assert target_of(bot(4), known, None).revision == 2


def test_default_target_is_another_version_than_the_running_one() -> None:
    known = [revision(3, "same"), revision(2, "same"), revision(1, "other")]

    assert target_of(bot(3), known, None).revision == 1


def test_default_target_is_no_version_that_was_given_up() -> None:
    known = [revision(3), revision(2, rejection="it ended"), revision(1)]

    assert target_of(bot(3), known, None).revision == 1


def test_default_target_is_before_what_runs_while_the_newest_is_rejected() -> None:
    release = {"current": {"revision": 2, "config": {}, "custom": {}}, "previous": None, "rejection": None}
    rejected = {"rejection": {"revision": 3, "reason": "archive", "detail": "bad"}}
    known = [revision(3, accepted=False, rejection="bad"), revision(2), revision(1)]

    assert target_of(bot(3, release=release, status=rejected), known, None).revision == 1


def test_revision_of_an_event_that_came_too_late_counts_as_the_one_before() -> None:
    known = [revision(2), revision(1)]

    assert target_of(bot(3), known, None).revision == 1


@pytest.mark.parametrize(
    ("known", "wanted", "said"),
    [
        ([revision(2), revision(1)], 7, "no revision 7; it has 2, 1"),
        ([revision(1)], None, "no earlier revision that ran"),
        ([], None, "no earlier revision that ran"),
    ],
)
def test_missing_target_is_refused(known: list[Revision], wanted: int | None, said: str) -> None:
    with pytest.raises(NoSuchRevision, match=said):
        target_of(bot(2), known, wanted)


def test_runs_belong_to_the_revision_under_which_they_started_or_the_one_before() -> None:
    known = [revision(5), revision(2), revision(1, accepted=False, rejection="bad"), revision(0, accepted=False)]

    rows = described(bot(6), known, [runs(6, 1.0), runs(3, 10.0, "oom"), runs(2, 5.0)], "running")

    assert [(row.state, row.runs, row.seconds) for row in rows] == [
        ("running", 1, 1.0),
        ("replaced", 2, 15.0),
        ("rejected", 0, 0.0),
        ("pending", 0, 0.0),
    ]
    assert rows[1].last is not None
    assert rows[1].last.last_reason == "oom"


@pytest.mark.parametrize(
    ("custom", "etag", "name"),
    [
        ({"filePath": f".the0/code/bot-runner/{DIGEST}-0.zip"}, "e", DIGEST[:12]),
        ({"filePath": "x.zip", "sha256": "CD" * 32}, "e", "cd" * 6),
        ({"filePath": "x.zip"}, '"0123456789abcdef"', "0123456789ab"),
        ({}, "", ""),
    ],
)
def test_code_is_named_by_its_digest_or_else_by_its_objects_version(
    custom: dict[str, Any], etag: str, name: str
) -> None:
    assert code_name(revision(1, custom=custom, code_etag=etag)) == name
