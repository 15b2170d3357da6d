"""How entities are spread over partitions with room."""

import random
from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from libs.core.store.partition_room import Preference, Room, spread

FREE = st.tuples(st.integers(1, 5), st.sampled_from(Preference))


@given(free=st.lists(FREE, max_size=8), count=st.integers(0, 40), seed=st.integers())
def test_a_spread_fills_the_preferred_rooms_first_and_none_beyond_its_room(
    free: list[tuple[int, Preference]], count: int, seed: int
) -> None:
    rooms = [Room(number, slots, preference) for number, (slots, preference) in enumerate(free)]

    chosen = spread(count, rooms, random.Random(seed))

    assert chosen.total() == min(count, sum(room.free for room in rooms))
    assert all(chosen[room.segment_id] <= room.free for room in rooms)
    for better in rooms:
        for worse in rooms:
            if better.preference < worse.preference and chosen[worse.segment_id]:
                assert chosen[better.segment_id] == better.free


def test_a_spread_is_random_among_equals() -> None:
    rooms = [Room(number, 10, Preference.OWNED) for number in range(4)]

    drawn = Counter(next(iter(spread(1, rooms, random.Random(seed)))) for seed in range(200))

    assert set(drawn) == {0, 1, 2, 3}
