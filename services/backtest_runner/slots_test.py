from dataclasses import dataclass

from services.backtest_runner.slots import Slots


@dataclass(eq=False)
class Pool:
    """Backtests that wait, by their order, and how many run."""

    slots: Slots
    waiting: list[str]
    slots_taken: int = 0

    @property
    def next_order(self) -> tuple[bool, str] | None:
        return (True, self.waiting[0]) if self.waiting else None

    def refill(self) -> None:
        while self.waiting and self.slots.has_free:
            self.waiting.pop(0)
            self.slots_taken += 1

    def end_one(self) -> None:
        self.slots_taken -= 1
        self.slots.refill()


def pools(slots: Slots, *waiting: list[str]) -> list[Pool]:
    made = [Pool(slots, orders) for orders in waiting]
    for pool in made:
        slots.join(pool, pool.refill)
    return made


def test_pools_share_the_slots_of_their_worker() -> None:
    slots = Slots(3)
    a, b = pools(slots, ["1", "3", "5"], ["2", "4"])

    slots.refill()

    assert (a.slots_taken, b.slots_taken) == (3, 0)
    assert not slots.has_free


def test_slot_that_becomes_free_goes_to_the_backtest_that_waits_longest_in_any_pool() -> None:
    slots = Slots(1)
    a, b = pools(slots, ["1", "3"], ["2", "4"])
    slots.refill()

    a.end_one()

    assert (a.waiting, b.waiting) == (["3"], ["4"])
    assert (a.slots_taken, b.slots_taken) == (0, 1)


def test_slots_of_a_pool_that_leaves_go_to_the_others() -> None:
    slots = Slots(1)
    a, b = pools(slots, ["1"], ["2"])
    slots.refill()

    slots.leave(a)

    assert b.slots_taken == 1
