"""Which run keeps a place of its owner's quota while no container of it is alive."""

from typing import Any

import pytest

from libs.core.store.entities import Entity
from services.backtest_runner.state import keeps_place

CLAIM = {"run_id": "r1", "worker": "w", "host": "h", "epoch": 1, "attempt": 1, "at": None}


def backtest(enabled: bool = True, **ours: Any) -> Entity:
    return Entity.of({"id": "b", "config": {"enabled": enabled}, "custom": {}, "backtest": ours})


@pytest.mark.parametrize(
    ("entity", "keeps"),
    [
        (backtest(), True),  # its claim is about to be written
        (backtest(claim=CLAIM), True),
        (backtest(claim={**CLAIM, "run_id": "r0", "released": True}), True),
        (backtest(claim={**CLAIM, "released": True}), False),
        (backtest(claim=CLAIM, outcome={"run_id": "r1"}), False),
        (backtest(enabled=False, claim=CLAIM), False),
        (backtest(claim={"attempt": 1}), False),  # unreadable
    ],
)
def test_backtest_keeps_its_place_while_it_has_to_run_and_was_not_released(entity: Entity, keeps: bool) -> None:
    assert keeps_place(entity, "r1") is keeps
