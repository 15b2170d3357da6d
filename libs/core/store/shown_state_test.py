"""The shown state of an entity, from its document and the lease of its segment."""

from datetime import UTC, datetime

import pytest

from libs.core.store.holds import Hold, HoldTarget
from libs.core.store.ownership import NOBODY, Ownership
from libs.core.store.shown_state import UNOWNED_STATES, Shown, StoredStatus, shown

LIVE = Ownership("w1")
LOST = Ownership("w1", lost_seconds=12.4)
KILL = Hold(HoldTarget.entity("b"), datetime(2026, 1, 1, tzinfo=UTC))
STOP = Hold(HoldTarget.everything(), datetime(2026, 1, 1, tzinfo=UTC), graceful=True)
WORDS = ["starting", "running", "backing-off", "rejected", "disabled", "killed", "stopped", "completing", "retrying"]


@pytest.mark.parametrize("word", WORDS)
def test_the_word_of_the_worker_stands_while_its_lease_lives(word: str) -> None:
    assert shown(StoredStatus(word, "w1"), LIVE) == Shown(word)
    assert shown(StoredStatus(word, "w1", enabled=False, hold=KILL), LIVE) == Shown(word)


@pytest.mark.parametrize("word", ["starting", "running"])
def test_entity_of_lost_worker_is_unknown_with_age(word: str) -> None:
    now = shown(StoredStatus(word, "w1"), LOST)

    assert now == Shown("unknown", "worker lost 12 s ago")
    assert now.text == "unknown (worker lost 12 s ago)"


@pytest.mark.parametrize("word", ["starting", "running"])
def test_running_entity_of_former_worker_is_unknown(word: str) -> None:
    assert shown(StoredStatus(word, "w0"), LIVE) == Shown("unknown", "its worker is gone; w1 takes over")


def test_running_entity_of_released_segment_waits() -> None:
    assert shown(StoredStatus("running", "w1"), NOBODY) == Shown("waiting", "no worker has its segment")


@pytest.mark.parametrize("owner", [NOBODY, LOST, None])
@pytest.mark.parametrize("word", ["", "waiting", "backing-off", "completing", "retrying", "killed", "disabled"])
def test_idle_entity_without_owner_waits_for_worker(owner: Ownership | None, word: str) -> None:
    assert shown(StoredStatus(word, "w1"), owner).text == "waiting"


@pytest.mark.parametrize("owner", [NOBODY, LOST, None])
@pytest.mark.parametrize("word", ["", *WORDS])
@pytest.mark.parametrize(("hold", "state"), [(KILL, "killed"), (STOP, "stopped")])
def test_held_entity_is_down_without_owner(owner: Ownership | None, word: str, hold: Hold, state: str) -> None:
    assert shown(StoredStatus(word, "w1", hold=hold), owner) == Shown(state)


@pytest.mark.parametrize("owner", [NOBODY, LOST])
@pytest.mark.parametrize(("word", "state"), [("", "off"), ("running", "off"), ("disabled", "disabled")])
def test_disabled_entity_is_down_without_owner(owner: Ownership, word: str, state: str) -> None:
    assert shown(StoredStatus(word, "w1", enabled=False), owner) == Shown(state)


@pytest.mark.parametrize("word", ["rejected", "paused"])
def test_settled_state_stays_without_owner(word: str) -> None:
    assert shown(StoredStatus(word, "w1"), LOST) == Shown(word)


@pytest.mark.parametrize("word", ["", "waiting"])
def test_entity_without_status_is_shown_by_its_intent(word: str) -> None:
    assert shown(StoredStatus(word), LIVE) == Shown("waiting")
    assert shown(StoredStatus(word, enabled=False), LIVE) == Shown("off")
    assert shown(StoredStatus(word, hold=STOP), LIVE) == Shown("stopped")


@pytest.mark.parametrize("owner", [LIVE, LOST])
def test_a_paused_schedule_is_paused_unless_it_is_held(owner: Ownership) -> None:
    assert shown(StoredStatus("paused", enabled=False), owner) == Shown("paused")
    assert shown(StoredStatus("paused", hold=KILL), owner) == Shown("killed")


@pytest.mark.parametrize("owner", [NOBODY, LOST, None])
@pytest.mark.parametrize("word", ["", "anything", *WORDS])
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("hold", [None, KILL, STOP])
def test_the_states_without_an_owner_are_a_fixed_few(
    owner: Ownership | None, word: str, enabled: bool, hold: Hold | None
) -> None:
    assert shown(StoredStatus(word, "w1", enabled, hold), owner).state in UNOWNED_STATES


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0 s"), (-0.2, "0 s"), (119, "119 s"), (121, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_the_time_since_a_loss_is_in_its_largest_unit(seconds: float, words: str) -> None:
    assert shown(StoredStatus("running", "w1"), Ownership("w1", seconds)).why == f"worker lost {words} ago"
