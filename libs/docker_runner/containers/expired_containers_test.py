"""When a keepalive file counts as expired, in virtual time."""

import pytest

from libs.docker_runner.containers.expired_containers import KeepaliveAges

HERE = "boot-of-this-host"
LIFE_SECONDS = 5.0


def text(deadline: float, boot_id: str = HERE, counter: int = 1) -> str:
    return f"{boot_id} {deadline:.3f} 4.750 {counter}\n"


def expired_at(content: str | None, *times: float) -> list[bool]:
    ages = KeepaliveAges(LIFE_SECONDS, HERE)
    return ["k" in ages.expired({"k": content}, now) for now in times]


def test_keepalive_is_expired_a_second_after_its_deadline_and_not_before() -> None:
    assert expired_at(text(104.0), 100.0, 104.0, 105.0, 105.1) == [False, False, False, True]


def test_keepalive_that_was_found_expired_leaves_the_supervisor_a_second() -> None:
    assert expired_at(text(0.0), 100.0, 101.0, 101.1) == [False, False, True]


def test_refreshed_keepalive_is_not_expired() -> None:
    ages = KeepaliveAges(LIFE_SECONDS, HERE)
    for now in range(100, 200):
        assert ages.expired({"k": text(now + 4.75, counter=now)}, float(now)) == {}


@pytest.mark.parametrize(
    "content", [None, "", "nonsense", text(0.0, boot_id="another-kernel"), f"{HERE} soon 4.7 1"],
    ids=["missing", "empty", "nonsense", "another kernel's", "no number"],
)  # fmt: skip
def test_keepalive_without_a_readable_deadline_counts_after_a_life_and_five_seconds(content: str | None) -> None:
    assert expired_at(content, 100.0, 101.1, 109.9, 110.1) == [False, False, False, True]


def test_keepalive_of_another_kernel_that_is_refreshed_is_not_expired() -> None:
    ages = KeepaliveAges(LIFE_SECONDS, HERE)
    for now in range(100, 200):
        assert ages.expired({"k": text(1.0, "another-kernel", counter=now // 2)}, float(now)) == {}


def test_missing_keepalive_that_comes_back_is_not_expired_and_its_time_starts_again() -> None:
    ages = KeepaliveAges(LIFE_SECONDS, HERE)
    ages.expired({"k": None}, 100.0)
    assert ages.expired({"k": text(113.0)}, 109.0) == {}

    assert ages.expired({"k": None}, 111.0) == {}
    assert ages.expired({"k": None}, 120.9) == {}
    assert ages.expired({"k": None}, 121.1) == {"k": None}


def test_keepalives_expire_each_by_itself() -> None:
    ages = KeepaliveAges(LIFE_SECONDS, HERE)
    ages.expired({"a": text(101.0), "b": text(104.0)}, 100.0)

    assert ages.expired({"a": text(101.0), "b": text(104.0)}, 103.0) == {"a": text(101.0)}
