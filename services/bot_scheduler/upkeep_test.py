from typing import Any

import pytest

from libs.core.errors import Permanent
from services.bot_scheduler.upkeep import derive_next

NOON = 1_700_049_600
derive = derive_next(clock=lambda: NOON + 30.0)


def document(**config: Any) -> dict[str, Any]:
    return {"id": "s", "config": config}


def test_a_new_schedule_gets_its_next_time() -> None:
    assert derive(document(schedule="* * * * *"), None) == {"next_execution_time": NOON + 60}


def test_a_new_expression_gets_a_new_time() -> None:
    before = document(schedule="@hourly") | {"next_execution_time": NOON + 3600}

    assert derive(document(schedule="* * * * *"), before) == {"next_execution_time": NOON + 60}


def test_a_new_zone_gets_a_new_time() -> None:
    before = document(schedule="0 9 * * *") | {"next_execution_time": 1}

    assert derive(document(schedule="0 9 * * *", timezone="Asia/Tokyo"), before) != {}


@pytest.mark.parametrize("same", ["0 9 * * 1-5", "0 0 9 * * MON-FRI", "CRON_TZ=UTC 0 9 * * mon-fri"])
def test_an_update_that_leaves_the_expression_leaves_the_time(same: str) -> None:
    before = document(schedule="0 9 * * 1-5", pair="BTC") | {"next_execution_time": NOON - 5}

    assert derive(document(schedule=same, pair="ETH"), before) == {}


def test_a_document_of_an_older_runtime_without_a_time_gets_one() -> None:
    assert derive(document(schedule="* * * * *"), document(schedule="* * * * *")) != {}


def test_a_new_expression_does_not_repeat_a_firing_that_is_claimed() -> None:
    before = document(schedule="* * * * *") | {"next_execution_time": NOON + 120, "scheduler": {"fired_at": NOON + 60}}

    assert derive(document(schedule="*/1 * * * * *"), before) == {"next_execution_time": NOON + 61}


def test_an_expression_that_replaces_a_broken_one_gets_a_time() -> None:
    before = document(schedule="nonsense") | {"next_execution_time": 5}

    assert derive(document(schedule="* * * * *"), before) == {"next_execution_time": NOON + 60}


@pytest.mark.parametrize("config", [{}, {"schedule": "0 0 31 2 *"}, {"schedule": "@daily", "overlap": "no"}])
def test_what_cannot_work_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(Permanent):
        derive(document(**config), None)
