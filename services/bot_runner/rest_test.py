from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from libs.core.store.entities import Entity
from libs.core.store.holds import Hold, HoldTarget
from services.bot_runner.rest import is_at_rest

NOW = 1_000_000.0
RUNNING = {"state": "running", "revision": 3, "running_revision": 3, "restart": "r1", "not_before": NOW - 1}
HELD = Hold(HoldTarget.everything(), datetime.now(UTC))


def bot(status: dict[str, Any] | None = None, **fields: Any) -> Entity:
    document = {"_id": 1, "id": "b", "segment_id": 1, "revision": 3, "restart": {"id": "r1"}, "config": {}}
    return Entity.of({**document, "status": {**RUNNING, **(status or {})}, **fields})


def test_bot_that_runs_its_newest_version_is_at_rest() -> None:
    assert is_at_rest(bot(), NOW)


def test_disabled_bot_is_at_rest_once_it_is_down() -> None:
    assert is_at_rest(bot({"state": "disabled", "running_revision": 0}, enabled=False), NOW)
    assert not is_at_rest(bot(enabled=False), NOW)


VERSION = {"revision": 2, "config": {}, "custom": {}}
REJECTION = {"revision": 4, "reason": "definition", "detail": "no"}


@pytest.mark.parametrize(
    "disturbed",
    [
        bot({"state": "backing-off"}),
        bot({"state": "starting"}),
        bot({"state": "waiting"}),
        bot({"state": "rejected"}),
        bot({"revision": 2}),
        bot({"running_revision": 2}),
        bot({"restart": ""}),
        bot({"not_before": NOW + 5}),
        bot({"rejection": REJECTION}),
        bot(release={"previous": VERSION, "current": VERSION}),
        bot(release={"rejection": REJECTION}),
        replace(bot(), held=HELD),
        replace(bot({"state": "disabled"}, enabled=False), held=HELD),
    ],
    ids=[
        *("backing off", "starting", "waiting", "rejected", "updated", "older version", "restart requested", "backoff"),
        *("newer version rejected", "health window", "rolled back", "held", "disabled and held"),
    ],
)
def test_bot_that_is_held_failing_or_updated_is_not_at_rest(disturbed: Entity) -> None:
    assert not is_at_rest(disturbed, NOW)
