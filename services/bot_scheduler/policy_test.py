import pytest

from libs.core.errors import UserError
from services.bot_scheduler.policy import Misfire, Overlap, Policy, PolicyInvalid, read_definition

EVERY_DAY = {"schedule": "@daily"}


def test_missing_fields_have_defaults() -> None:
    policy = read_definition(EVERY_DAY).policy

    assert policy == Policy(Overlap.SKIP, Misfire.RUN_ONCE, 60.0, None, 0, 5.0)


def test_every_field_can_be_set() -> None:
    config = {"overlap": "queue", "misfire": "skip", "misfireGrace": 5, "timeout": 90, "retries": 3, "retryDelay": 0.5}

    policy = read_definition(EVERY_DAY | config).policy

    assert policy == Policy(Overlap.QUEUE, Misfire.SKIP, 5.0, 90.0, 3, 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("overlap", "both"),
        ("overlap", 1),
        ("misfire", "run_twice"),
        ("misfireGrace", -1),
        ("misfireGrace", "60"),
        ("misfireGrace", True),
        ("misfireGrace", float("nan")),
        ("timeout", 0),
        ("timeout", []),
        ("retries", 1.5),
        ("retries", 101),
        ("retries", "many"),
        ("retryDelay", -0.1),
    ],
)
def test_a_field_that_is_wrong_is_named(field: str, value: object) -> None:
    with pytest.raises(PolicyInvalid, match=rf"config\.{field} is"):
        read_definition(EVERY_DAY | {field: value})


def test_config_without_expression_is_rejected_with_reason() -> None:
    with pytest.raises(UserError, match=r"config\.schedule is missing"):
        read_definition({"timezone": "Europe/Berlin"})


def test_the_pause_before_another_try_doubles_up_to_five_minutes() -> None:
    policy = Policy(retries=9, retry_delay_seconds=5.0)

    assert [policy.retry_after(attempt) for attempt in range(1, 11)] == [5, 10, 20, 40, 80, 160, 300, 300, 300, None]
