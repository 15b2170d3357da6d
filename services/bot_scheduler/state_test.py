"""Which run keeps a place of its owner's quota while no container of it is alive."""

from typing import Any

import pytest

from libs.core.store.entities import Entity
from services.bot_scheduler.state import keeps_place


def schedule(**ours: Any) -> Entity:
    return Entity.of({"id": "s", "config": {"schedule": "* * * * *"}, "custom": {}, "scheduler": ours})


@pytest.mark.parametrize(
    ("entity", "keeps"),
    [
        (schedule(firing={"at": 1, "run_id": "r1"}), True),
        (schedule(firing={"at": 1, "run_id": "r2"}), False),
        (schedule(), False),
        (schedule(firing={"at": "unreadable"}), False),
    ],
)
def test_schedule_keeps_the_place_of_its_active_attempt_only(entity: Entity, keeps: bool) -> None:
    assert keeps_place(entity, "r1") is keeps
