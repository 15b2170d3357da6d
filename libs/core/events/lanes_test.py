"""Order within a lane, parallel lanes."""

from hypothesis import given
from hypothesis import strategies as st

from libs.core.events.lanes import Lanes


def test_a_lane_gives_its_items_in_order_and_none_while_it_is_busy() -> None:
    lanes: Lanes[int] = Lanes()
    lanes.put("a", 1)
    lanes.put("a", 2)
    lanes.put("b", 3)
    assert lanes.take(10) == {"a": [1, 2], "b": [3]}
    lanes.put("a", 4)
    assert not lanes
    lanes.done(["a"])
    assert lanes.take(10) == {"a": [4]}


def test_no_more_lanes_are_taken_once_there_are_enough_items() -> None:
    lanes: Lanes[int] = Lanes()
    for n in range(5):
        lanes.put(str(n), n)
    assert lanes.take(2) == {"0": [0], "1": [1]}
    assert lanes


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())))
def test_lanes_keep_all_items_in_order(steps: list[tuple[str, bool]]) -> None:
    lanes: Lanes[int] = Lanes()
    put: dict[str, list[int]] = {key: [] for key in "abc"}
    seen: dict[str, list[int]] = {key: [] for key in "abc"}
    busy: list[str] = []
    for n, (key, take) in enumerate(steps):
        lanes.put(key, n)
        put[key].append(n)
        if take:
            lanes.done(busy)
            taken = lanes.take(2)
            busy = list(taken)
            for lane, items in taken.items():
                seen[lane] += items
    lanes.done(busy)
    for lane, items in lanes.take(10**6).items():
        seen[lane] += items
    assert seen == put
