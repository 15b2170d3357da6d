"""What a kill switch covers."""

from datetime import UTC, datetime, timedelta

import pytest

from libs.core.store.holds import Hold, Holds, HoldTarget, SelectorInvalid

DOCUMENT = {
    "id": "b1",
    "config": {"enabled": True, "size": 5, "pairs": [{"name": "BTC"}, {"name": "ETH"}]},
    "custom": {"config": {"author": "alice", "note": None}},
}


@pytest.mark.parametrize(
    ("selector", "covered"),
    [
        ("custom.config.author=alice", True),
        ("custom.config.author = alice ", True),
        ("custom.config.author=Alice", False),
        ("custom.config.author=", False),
        ("custom.config.owner=alice", False),
        ("config.enabled=true", True),
        ("config.size=5", True),
        ("config.pairs.name=ETH", True),
        ("config.pairs.name=XRP", False),
        ("custom.config.note=null", True),
        ("id=b1", True),
        ("custom=alice", False),
    ],
)
def test_a_selector_covers_those_with_the_value_in_the_field(selector: str, covered: bool) -> None:
    assert HoldTarget.selector(selector).matches(DOCUMENT) is covered


@pytest.mark.parametrize("text", ["", "alice", "=alice", "custom..author=alice", ".a=b"])
def test_invalid_selector_is_refused_with_example(text: str) -> None:
    with pytest.raises(SelectorInvalid, match=r"custom\.config\.author=alice"):
        HoldTarget.selector(text)


def test_hold_covers_one_entity_or_all() -> None:
    assert HoldTarget.entity("b1").matches(DOCUMENT)
    assert not HoldTarget.entity("b2").matches(DOCUMENT)
    assert HoldTarget.everything().matches({})


def test_entitys_own_hold_takes_precedence_over_broader_one() -> None:
    early, late = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=1)
    broad, own = Hold(HoldTarget.everything(), early), Hold(HoldTarget.entity("b1"), late)
    holds = Holds([broad, own])
    assert holds.on(DOCUMENT) == own
    assert holds.on({"id": "b2"}) == broad
    assert Holds().on(DOCUMENT) is None


def test_a_kill_counts_before_a_graceful_stop_however_broad_either_is() -> None:
    early, late = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=1)
    own_stop = Hold(HoldTarget.entity("b1"), early, graceful=True)
    kill_of_all = Hold(HoldTarget.everything(), late)
    assert Holds([own_stop]).on(DOCUMENT) == own_stop
    assert Holds([own_stop, kill_of_all]).on(DOCUMENT) == kill_of_all
    assert (own_stop.state, kill_of_all.state) == ("stopped", "killed")


def test_a_hold_is_found_by_exactly_its_target_and_kind() -> None:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    own_stop, own_kill = Hold(HoldTarget.entity("b1"), now, graceful=True), Hold(HoldTarget.entity("b1"), now)
    holds = Holds([own_stop, own_kill])
    assert holds.exactly(HoldTarget.entity("b1"), graceful=True) == own_stop
    assert holds.exactly(HoldTarget.entity("b1"), graceful=False) == own_kill
    assert holds.exactly(HoldTarget.entity("b2"), graceful=True) is None
    assert holds.exactly(HoldTarget.everything(), graceful=True) is None


def test_targets_have_keys_of_their_own() -> None:
    targets = [
        HoldTarget.everything(),
        HoldTarget.entity("all"),
        HoldTarget.entity("a=b"),
        HoldTarget.selector("a=b"),
        HoldTarget.selector("id=all"),
    ]
    assert len({target.key for target in targets}) == len(targets)
