from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.backtests.axis import axis
from tools.bots.config_edit import ConfigEditInvalid


def _typed(values: Any) -> list[tuple[type, Any]]:
    return [(type(value), value) for value in values]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=5:30:5", [5, 10, 15, 20, 25, 30]),
        ("a=5:29:10", [5, 15, 25]),
        ("a=30:5:-10", [30, 20, 10]),
        ("a=-1:1:1", [-1, 0, 1]),
        ("a=7:7:1", [7]),
        ("a=0.1:0.5:0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("a=1:2:0.5", [1.0, 1.5, 2.0]),
        ("a=1:2.5:1", [1, 2]),
        ("a=.5:1:.25", [0.5, 0.75, 1.0]),
        ("a=1e-3:3e-3:1e-3", [0.001, 0.002, 0.003]),
        ("a= 1 : 3 : 1 ", [1, 2, 3]),
        ("a=20,50,100", [20, 50, 100]),
        ("a=1,1.0,true,null,x,BTC-USD", [1, 1.0, True, None, "x", "BTC-USD"]),
        ('a="1,2",[1,2],{"b": [3, 4]}', ["1,2", [1, 2], {"b": [3, 4]}]),
        ('a="09:30:00"', ["09:30:00"]),
        ("a=BINANCE:BTC,KRAKEN:BTC", ["BINANCE:BTC", "KRAKEN:BTC"]),
        ("a= x , y ", ["x", "y"]),
        ("a=5", [5]),
        ('a=""', [""]),
    ],
)
def test_values_are_typed_and_in_order(text: str, values: list[Any]) -> None:
    found = axis(text, 1000)

    assert found.key == "a"
    assert _typed(found.values) == _typed(values)


@given(
    start=st.integers(-(10**6), 10**6),
    step=st.integers(1, 10**4),
    count=st.integers(1, 200),
    digits=st.integers(1, 6),
)
def test_decimal_range_has_exactly_the_written_decimals(start: int, step: int, count: int, digits: int) -> None:
    def written(number: int) -> str:
        return f"{Decimal(number).scaleb(-digits):f}"

    text = f"a={written(start)}:{written(start + step * (count - 1))}:{written(step)}"

    assert axis(text, 1000).values == [float(written(start + step * number)) for number in range(count)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "is not KEY=VALUE"),
        ("=1,2", "is not a key"),
        ("a..b=1,2", "is not a key"),
        ("a=", "has an empty value"),
        ("a=1,,2", "has an empty value"),
        ("a=1,2,", "has an empty value"),
        ("a=5:30", "write KEY=START:STOP:STEP"),
        ("a=5:30:", "write KEY=START:STOP:STEP"),
        ("a=1:2:3:4", "write KEY=START:STOP:STEP"),
        ("a=x:y:z", "needs quotes"),
        ("a=09:30,", "has an empty value"),
        ("a=5:30:0", "has the step 0"),
        ("a=5:30:-5", "never reaches 30 by -5; give a positive step"),
        ("a=30:5:5", "never reaches 5 by 5; give a negative step"),
        ("a=5:10:1,20", "within a list"),
        ("a=1,2,1", "has the value 1 twice"),
        ("a=1:1.0000000000000001:1e-17", "twice"),
        ("a=[1,2", "looks like JSON but is invalid"),
        ('a={"b":1}x', "a comma is missing"),
        ("a=1,1e999", "beyond 1e308"),
        ("a=1,99999999999999999999", "beyond 64 bits"),
        ("a=1e999:2e999:1e999", "beyond 1e308"),
        ("a=99999999999999999998:99999999999999999999:1", "beyond 64 bits"),
        ("a=0:1:1e-9", "1,000,000,001 values, and a sweep at most 1,000 backtests"),
        ("a=0:1e999:1e-999", "more than 10^15 values"),
        (f"a=0:{'9' * 41}:1", "more than 40 characters"),
        (f"a={','.join(map(str, range(1001)))}", "1,001 values, and a sweep at most 1,000"),
    ],
)
def test_invalid_parameter_is_rejected_with_remedy(text: str, message: str) -> None:
    with pytest.raises(ConfigEditInvalid) as raised:
        axis(text, 1000)

    assert message in str(raised.value)
