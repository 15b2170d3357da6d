"""When a container must be dead by its keepalive, in virtual time."""

import pytest

from libs.docker_runner.entrypoints.agent.keepalives import Keepalive

HERE, ELSEWHERE = "boot-1", "boot-2"


def refreshed(deadline: float, left: float = 4.75, boot_id: str = HERE, counter: int = 1) -> str:
    return f"{boot_id} {deadline:.3f} {left:.3f} {counter}\n"


def read(*texts: tuple[float, str | None]) -> Keepalive:
    """A keepalive that was read at these times."""
    keepalive = Keepalive(HERE, texts[0][0])
    for now, text in texts:
        keepalive.read(text, now)
    return keepalive


def test_a_frozen_container_must_be_dead_at_the_deadline_and_a_running_one_after_its_init_had_time() -> None:
    keepalive = read((100.0, refreshed(104.75)))

    assert keepalive.frozen_limit() == 104.75
    assert keepalive.running_limit(found_at=100.0) == 106.75


def test_a_refresh_extends_both_limits() -> None:
    keepalive = read((100.0, refreshed(104.75)), (102.0, refreshed(106.75, counter=2)))

    assert (keepalive.frozen_limit(), keepalive.running_limit(100.0)) == (106.75, 108.75)


def test_a_shorter_deadline_changes_nothing_as_in_the_init() -> None:
    keepalive = read((100.0, refreshed(104.75)), (101.0, refreshed(102.0, counter=2)))

    assert keepalive.frozen_limit() == 104.75


def test_a_given_up_keepalive_ends_frozen_ones_at_once_and_running_ones_after_their_init() -> None:
    keepalive = read((100.0, refreshed(104.75)), (101.0, refreshed(0.0, 0.0, counter=2)))

    assert keepalive.frozen_limit() == 0.0
    assert keepalive.running_limit(100.0) == 103.0


def test_a_keepalive_that_is_refreshed_after_it_was_given_up_counts_again() -> None:
    keepalive = read((100.0, refreshed(0.0, 0.0)), (101.0, refreshed(105.75, counter=2)))

    assert keepalive.frozen_limit() == 105.75


def test_a_deadline_is_bounded_by_the_seconds_left_as_in_the_init() -> None:
    keepalive = read((100.0, refreshed(900.0)))

    assert keepalive.frozen_limit() == 104.75


@pytest.mark.parametrize(("seen", "found", "limit"), [(100.0, 100.5, 102.5), (100.0, 110.0, 112.0)])
def test_an_agent_that_finds_an_expired_keepalive_leaves_the_init_its_time(
    seen: float, found: float, limit: float
) -> None:
    assert read((seen, refreshed(50.0))).running_limit(found) == limit


@pytest.mark.parametrize(
    "missing", [None, "", "boot-1 104.75", "boot-1 104.75 4.75", "boot-1 nan 4.75 1", "boot-1 104.75 inf 1", "a b c d"]
)
def test_a_missing_or_malformed_keepalive_counts_after_a_life_and_five_seconds(missing: str | None) -> None:
    keepalive = read((100.0, refreshed(104.75)), (102.0, missing))

    assert keepalive.frozen_limit() == keepalive.running_limit(100.0) == pytest.approx(102.0 + 4.75 + 5.0)


def test_a_keepalive_that_was_never_readable_counts_after_a_minute_and_five_seconds() -> None:
    assert read((100.0, None)).frozen_limit() == 165.0


def test_of_another_kernel_only_changes_count() -> None:
    keepalive = read(
        (100.0, refreshed(3.0, boot_id=ELSEWHERE)),
        (101.0, refreshed(3.0, boot_id=ELSEWHERE)),
        (102.0, refreshed(5.0, boot_id=ELSEWHERE, counter=2)),
        (105.0, refreshed(5.0, boot_id=ELSEWHERE, counter=2)),
    )

    assert keepalive.frozen_limit() == keepalive.running_limit(100.0) == pytest.approx(111.75)


def test_the_longest_life_counts_when_the_last_word_was_short() -> None:
    keepalive = read((100.0, refreshed(104.75)), (101.0, refreshed(101.5, 0.5, counter=2)), (102.0, None))

    assert keepalive.frozen_limit() == pytest.approx(111.75)


def final(deadline: float, left: float = 31.0, boot_id: str = HERE, counter: int = 9) -> str:
    return f"{boot_id} {deadline:.3f} {left:.3f} {counter} final\n"


@pytest.mark.parametrize(
    ("deadline", "left", "limit"), [(131.0, 31.0, 131.0), (101.5, 31.0, 101.5), (900.0, 5.0, 106.0)]
)
def test_last_deadline_is_the_limit_also_when_it_is_earlier_than_what_was_proven(
    deadline: float, left: float, limit: float
) -> None:
    keepalive = read((100.0, refreshed(104.75)), (101.0, final(deadline, left)))

    assert (keepalive.last_deadline, keepalive.frozen_limit()) == (limit, limit)


def test_last_deadline_of_another_kernel_counts_from_when_it_is_seen() -> None:
    assert read((100.0, final(7.0, boot_id=ELSEWHERE))).last_deadline == 131.0


def test_next_owners_deadline_is_not_extended_by_a_last_one() -> None:
    keepalive = read((100.0, final(131.0)), (101.0, refreshed(105.75)))

    assert (keepalive.last_deadline, keepalive.frozen_limit()) == (None, 105.75)


def test_next_owners_keepalive_of_another_kernel_has_a_life_of_its_own() -> None:
    keepalive = read((100.0, final(7.0, boot_id=ELSEWHERE)), (101.0, refreshed(7.0, boot_id=ELSEWHERE)))

    assert keepalive.frozen_limit() == 101.0 + 4.75 + 5.0


@pytest.mark.parametrize("text", ["final\n", f"{HERE} 900 31 9 finally\n", f"{HERE} 900 31 9 final 1\n"])
def test_other_forms_are_unreadable(text: str) -> None:
    assert read((100.0, text)).last_deadline is None
