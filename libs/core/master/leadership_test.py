"""When another master is known to lead, and for how long it has."""

from libs.core.leases.lease import Holder
from libs.core.master.leadership import SETTLED_SECONDS, Sighting

FIRST, SECOND = Holder("first", "first-1", "host"), Holder("second", "second-1", "host")


def test_leader_is_known_until_its_lease_ends() -> None:
    sighting = Sighting()
    assert sighting.leader(0.0) is None

    sighting.see(FIRST, 5.0, now=100.0)

    assert sighting.leader(104.9) == "first"
    assert sighting.leader(105.0) is None


def test_leadership_is_settled_when_one_master_has_led_for_long_enough() -> None:
    sighting = Sighting()
    for second in range(int(SETTLED_SECONDS)):
        sighting.see(FIRST, 5.0, now=100.0 + second)

    assert not sighting.is_settled(100.0 + SETTLED_SECONDS - 0.1)
    assert sighting.is_settled(100.0 + SETTLED_SECONDS)


def test_failover_ends_the_settled_state() -> None:
    sighting = Sighting()
    sighting.see(FIRST, 5.0, now=0.0)

    sighting.see(SECOND, 5.0, now=50.0)

    assert sighting.leader(50.0) == "second"
    assert not sighting.is_settled(50.0 + SETTLED_SECONDS - 0.1)
    assert sighting.is_settled(50.0 + SETTLED_SECONDS)


def test_restarted_leader_of_the_same_name_is_another_one() -> None:
    sighting = Sighting()
    sighting.see(FIRST, 5.0, now=0.0)

    sighting.see(Holder("first", "first-2", "host"), 5.0, now=50.0)

    assert not sighting.is_settled(50.0)


def test_outage_of_the_store_does_not_end_the_settled_state() -> None:
    sighting = Sighting()
    sighting.see(FIRST, 5.0, now=0.0)

    assert sighting.is_settled(1000.0)
    assert sighting.leader(1000.0) is None


def test_master_that_led_in_between_knows_no_settled_leader() -> None:
    sighting = Sighting()
    sighting.see(FIRST, 5.0, now=0.0)

    sighting.forget()

    assert sighting.leader(1.0) is None
    assert not sighting.is_settled(100.0)
