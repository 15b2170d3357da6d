import pytest

from services.bot_scheduler.ending import REJECTED, Ending, StopReason, next_attempt, utc
from services.bot_scheduler.policy import Policy
from services.bot_scheduler.state import Firing

POLICY = Policy(retries=2, retry_delay_seconds=5.0)
FIRING = Firing(at=100, run_id="one", host="h", started=True)


def test_a_failed_run_is_tried_again_under_a_name_of_its_own() -> None:
    again = next_attempt(FIRING, Ending("error", utc(0)), POLICY, now=130.0, run_id="two")

    assert again == Firing(at=100, run_id="two", host="h", attempt=2, started=False, not_before=135.0)


def test_but_not_more_often_than_the_config_says() -> None:
    last = Firing(at=100, run_id="three", attempt=3)

    assert next_attempt(last, Ending("error", utc(0)), POLICY, now=130.0, run_id="four") is None


@pytest.mark.parametrize(
    "ending",
    [Ending("finished", utc(0)), Ending(REJECTED, utc(0)), Ending(StopReason.KILLED, utc(0), stopped_on_purpose=True)],
)
def test_what_went_well_or_was_meant_is_not_tried_again(ending: Ending) -> None:
    assert next_attempt(FIRING, ending, POLICY, now=130.0, run_id="two") is None


@pytest.mark.parametrize("reason", ["oom", "timeout", "killed", "missing", "stopped", "lease-lost", "not-started"])
def test_everything_else_is(reason: str) -> None:
    assert next_attempt(FIRING, Ending(reason, utc(0)), POLICY, now=130.0, run_id="two") is not None
