import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.aio.backoff import Backoff, Setbacks


def test_waits_double_up_to_the_cap() -> None:
    backoff = Backoff(1, 5, jitter=0)

    assert [backoff.next_seconds() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_after_a_reset_waits_begin_anew() -> None:
    backoff = Backoff(1, 60, jitter=0)
    for _ in range(3):
        backoff.next_seconds()
    backoff.reset()

    assert backoff.failures == 0
    assert backoff.next_seconds() == 1


def test_an_outage_of_years_does_not_overflow() -> None:
    backoff = Backoff(0.1, 5, jitter=0)
    for _ in range(100_000):
        backoff.next_seconds()

    assert backoff.next_seconds() == 5


@given(draw=st.floats(0, 1, exclude_max=True), jitter=st.floats(0, 1), failures=st.integers(1, 30))
def test_jitter_shortens_a_wait_by_its_share_at_most(draw: float, jitter: float, failures: int) -> None:
    jittered = Backoff(1, 60, jitter=jitter, draw=lambda: draw)
    plain = Backoff(1, 60, jitter=0)

    for _ in range(failures):
        wait, whole = jittered.next_seconds(), plain.next_seconds()
        assert whole * (1 - jitter) <= wait <= whole


@pytest.mark.parametrize(
    ("initial_seconds", "cap_seconds", "factor", "jitter"),
    [(0, 5, 2, 0.5), (6, 5, 2, 0.5), (1, 5, 0.5, 0.5), (1, 5, 2, 1.5)],
)
def test_waits_that_make_no_sense_are_refused(
    initial_seconds: float, cap_seconds: float, factor: float, jitter: float
) -> None:
    with pytest.raises(ValueError, match="no backoff"):
        Backoff(initial_seconds, cap_seconds, factor=factor, jitter=jitter)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_failed_key_waits_until_its_delay_is_over() -> None:
    clock = Clock()
    setbacks = Setbacks(1, 60, clock=clock)

    wait = setbacks.failed("a")

    assert setbacks.left_seconds("a") == pytest.approx(wait)
    assert setbacks.first_left_seconds() == pytest.approx(wait)
    clock.now += wait
    assert setbacks.left_seconds("a") == 0
    assert setbacks.first_left_seconds() is None


def test_failures_of_one_thing_do_not_make_another_wait() -> None:
    setbacks = Setbacks(1, 60, clock=Clock())

    setbacks.failed("a")

    assert setbacks.left_seconds("b") == 0


def test_setbacks_in_a_row_wait_longer_until_it_works() -> None:
    setbacks = Setbacks(1, 60, clock=Clock())

    waits = [setbacks.failed("a") for _ in range(5)]
    setbacks.worked("a")

    assert waits[4] >= 8
    assert setbacks.left_seconds("a") == 0
    assert setbacks.failed("a") <= 1


def test_setbacks_of_what_is_gone_are_forgotten() -> None:
    setbacks = Setbacks(1, 60, clock=Clock())
    for key in ("a", "b"):
        setbacks.failed(key)

    setbacks.forget_all_but(["b", "c"])

    assert setbacks.left_seconds("a") == 0
    assert setbacks.left_seconds("b") > 0
