import pytest

from tools.cli.health_options import health_of, health_text


@pytest.mark.parametrize(
    ("wait_seconds", "no_wait", "no_rollback", "asked"),
    [
        (10.0, False, False, {"rollback": {"window_seconds": 10.0}}),
        (3.0, False, False, {"rollback": {"window_seconds": 3.0}}),
        (10.0, False, True, {}),
        (0.0, False, False, {}),
        (10.0, True, False, {}),
    ],
)
def test_workers_are_asked_for_a_rollback_in_the_window_that_the_command_watches(
    wait_seconds: float, no_wait: bool, no_rollback: bool, asked: object
) -> None:
    health = health_of(wait_seconds, no_wait, no_rollback)

    assert health.fields == asked
    assert health.is_watched is (wait_seconds > 0 and not no_wait)


def test_healthy_bot_is_shown_as_healthy_with_its_window() -> None:
    data = {"state": "running", "healthy_seconds": 10.0, "worker": "w1", "segment": 4, "detail": ""}

    assert health_text(data) == "running, healthy for 10 s, on w1 (segment 4)"
