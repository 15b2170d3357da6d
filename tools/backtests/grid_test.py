from typing import Any

import pytest

from tools.backtests.grid import Point, axes, points
from tools.bots.config_edit import MASK, ConfigEditInvalid


def _points(*texts: str, config: dict[str, Any] | None = None) -> list[Point]:
    return points("ma", config or {}, axes(texts, (), 1000))


def test_points_are_the_product_with_last_parameter_fastest() -> None:
    found = _points("fast=5:10:5", "slow=20,50", config={"cash": 1000, "fast": 1})

    assert [dict(point.parameters) for point in found] == [
        {"fast": 5, "slow": 20},
        {"fast": 5, "slow": 50},
        {"fast": 10, "slow": 20},
        {"fast": 10, "slow": 50},
    ]
    assert found[1].config == {"cash": 1000, "fast": 5, "slow": 50}
    assert found[1].backtest_id == "ma-fast=5-slow=50"


def test_dotted_key_leads_into_object_and_keeps_its_other_values() -> None:
    first, second = _points("risk.max=0.1,-0.5", config={"risk": {"min": 1}})

    assert first.config == {"risk": {"min": 1, "max": 0.1}}
    assert second.config == {"risk": {"min": 1, "max": -0.5}}
    assert [first.backtest_id, second.backtest_id] == ["ma-max=0.1", "ma-max=-0.5"]


def test_ids_name_whole_keys_where_last_parts_are_equal() -> None:
    [found] = _points("entry.max=1", "exit.max=2")

    assert found.backtest_id == "ma-entry.max=1-exit.max=2"


@pytest.mark.parametrize(
    "texts",
    [
        ("symbol=a b,a/b,a_b",),
        ("symbol=é,ü,🤖",),
        ('rules=[1],{"a": 2},"' + "x" * 300 + '"',),
        tuple(f"parameter_number_{number}=1,2" for number in range(8)),
        ('a="1-b=2",1', "b=2,3"),
    ],
)
def test_ids_are_distinct_short_and_safe_in_a_shell(texts: tuple[str, ...]) -> None:
    ids = [point.backtest_id for point in _points(*texts)]

    assert len(set(ids)) == len(ids)
    assert all(len(one) <= 160 and one.startswith("ma-") for one in ids)
    assert all(c.isascii() and (c.isalnum() or c in "._+-=") for one in ids for c in one)


def test_secret_values_are_in_the_config_only() -> None:
    found = _points("api_key=abc,def")

    assert [point.config for point in found] == [{"api_key": "abc"}, {"api_key": "def"}]
    assert [point.parameters for point in found] == [{"api_key": MASK}, {"api_key": MASK}]
    assert not any(value in point.backtest_id for point in found for value in ("abc", "def"))


@pytest.mark.parametrize(
    ("texts", "set_keys", "message"),
    [
        (["a=1,2", "a=3,4"], [], "'a' is given twice"),
        (["a=1,2"], ["a"], "'a' is given twice; give it once, by --sweep or by --set"),
        (["a=1,2", "a.b=3,4"], [], "overlap"),
        (["a.b=1,2"], ["a"], "overlap"),
        (["a=1:50:1", "b=1:50:1"], [], "this sweep has 2,500 backtests (50 x 50), and the limit is 1,000"),
    ],
)
def test_invalid_grid_is_rejected_with_remedy(texts: list[str], set_keys: list[str], message: str) -> None:
    with pytest.raises(ConfigEditInvalid) as raised:
        axes(texts, set_keys, 1000)

    assert message in str(raised.value)


def test_keys_with_common_beginning_do_not_overlap() -> None:
    assert len(axes(["fast=1,2", "faster=1,2"], ["fas"], 1000)) == 2


def test_key_through_value_that_is_no_object_is_rejected() -> None:
    with pytest.raises(ConfigEditInvalid, match="'risk' is not an object"):
        _points("risk.max=1,2", config={"risk": 5})
