"""Keys: ordinary ids verbatim, hostile ones safe, and no two ids on one key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.logs.keys import day_of_key, log_key


@pytest.mark.parametrize(
    "entity_id",
    ["b1", "5f3c-aa", "my bot", "größe 🚀", "a/b", "UPPER.case_x-1", "a.b..c", "'; DROP TABLE --", "$HOME", "*?[x]"],
)
def test_an_ordinary_id_stands_in_its_key_as_it_is(entity_id: str) -> None:
    assert log_key(entity_id, "20260131") == f"logs/{entity_id}/20260131.log"


@pytest.mark.parametrize(
    ("entity_id", "folder"),
    [
        ("../x", "%2E%2E/x"),
        ("..", "%2E%2E"),
        ("a/./b", "a/%2E/b"),
        ("/etc", "%2F/etc"),
        ("a//b", "a/%2F/b"),
        ("", "%2F"),
        ("a\\b", "a%5Cb"),
        ("a\nb\x00", "a%0Ab%00"),
        ("100%", "100%25"),
        ("a\ud800", "a%ED%A0%80"),
    ],
)
def test_a_hostile_id_is_encoded(entity_id: str, folder: str) -> None:
    assert log_key(entity_id, "20260131") == f"logs/{folder}/20260131.log"


def test_a_long_id_is_shortened_and_still_its_own() -> None:
    one, other = log_key("x" * 300, "20260131"), log_key("x" * 299 + "y", "20260131")

    assert one != other
    assert one.startswith("logs/" + "x" * 100)
    assert all(len(segment) <= 255 for segment in one.split("/"))


IDS = st.one_of(
    st.text(st.characters()),
    st.text(st.sampled_from("/.%\\a\n2F"), max_size=12),
    st.text(st.sampled_from("/.%é🚀\n"), min_size=150, max_size=1200),
)


@given(IDS)
def test_every_key_is_one_that_servers_take(entity_id: str) -> None:
    key = log_key(entity_id, "20260131")

    assert len(key.encode()) <= 1024
    assert not {"", ".", ".."} & set(key.split("/"))
    assert all(len(segment.encode()) <= 255 for segment in key.split("/"))
    assert key.isprintable() or not any(ord(character) < 32 for character in key)


@given(IDS, IDS)
def test_no_two_ids_share_a_key(one: str, other: str) -> None:
    assert (log_key(one, "20260131") == log_key(other, "20260131")) == (one == other)


@given(IDS)
def test_the_day_can_be_read_from_the_key(entity_id: str) -> None:
    assert day_of_key(entity_id, log_key(entity_id, "20260131")) == "20260131"
    assert day_of_key(entity_id, log_key(entity_id, "20260131", "a1b2")) == "20260131"
    assert day_of_key(entity_id, log_key(entity_id + "x", "20260131")) is None
    assert day_of_key(entity_id, log_key(entity_id, "20260131") + ".part") is None
