"""The users of bots."""

import pytest

from libs.core.room import MIB, Need
from libs.docker_runner.engine.users import UserRange, UsersUnusable

USERS = UserRange(100, 8)
ENTITY = Need(512 * MIB, 1.0)
UNKNOWN = Need()


def test_name_keeps_its_number_while_it_is_free() -> None:
    first = USERS.choose("bot-1", ())
    assert first is not None
    assert first in USERS
    assert USERS.choose("bot-1", {number for number in range(100, 108) if number != first}) == first


def test_names_have_different_numbers_mostly() -> None:
    assert len({UserRange(100, 1_000_000).choose(f"bot-{number}", ()) for number in range(100)}) > 95


def test_each_number_is_given_once_until_none_is_left() -> None:
    taken: set[int] = set()
    for number in range(8):
        chosen = USERS.choose(f"bot-{number}", taken)
        assert chosen is not None
        assert chosen not in taken
        taken.add(chosen)

    assert taken == set(range(100, 108))
    assert USERS.choose("one-more", taken) is None


def check(
    users: UserRange = USERS, *, user: int = 0, group: int | None = None, total: Need = UNKNOWN, need: Need = ENTITY
) -> None:
    users.check(worker_user=user, socket_group=group, total=total, entity=need)


@pytest.mark.parametrize("user", [99, 108])
def test_range_beside_those_of_worker_and_socket_that_suffices_is_taken(user: int) -> None:
    check(user=user, group=user, total=Need(8 * 512 * MIB, 0.0))
    check(total=Need(100 * 512 * MIB, 8.0))
    check(total=UNKNOWN)


@pytest.mark.parametrize("number", [100, 107])
def test_range_with_the_user_of_the_worker_or_the_group_of_the_socket_is_refused(number: int) -> None:
    with pytest.raises(UsersUnusable, match=rf"100 to 107 \(SANDBOX_UID_FIRST, SANDBOX_UID_COUNT\), contain {number}"):
        check(user=number)
    with pytest.raises(UsersUnusable, match=f"contain {number}, the group of the Docker engine's socket"):
        check(group=number)


@pytest.mark.parametrize("total", [Need(9 * 512 * MIB, 0.0), Need(9 * 512 * MIB, 9.0)])
def test_range_that_is_too_small_for_the_room_of_the_engine_is_refused(total: Need) -> None:
    with pytest.raises(UsersUnusable, match="are too few: the engine has room for 9 containers"):
        check(total=total)
