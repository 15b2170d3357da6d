"""Doubles without a fraction become integers, as far as they are written as such."""

import json
import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from libs.core.store.numbers import with_integers

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53).map(float)
VALUES = st.recursive(
    NUMBERS | st.integers() | st.booleans() | st.text() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (5.0, "5"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (float(2**53), "9007199254740992"),
        (1.8e18, "1800000000000000000"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (-1e300, "-1e+300"),
        (True, "true"),
        (5, "5"),
    ],
)
def test_a_number_is_written_as_the_older_runtime_wrote_it(value: object, written: str) -> None:
    assert json.dumps(with_integers(value)) == written


def test_non_finite_number_is_unchanged() -> None:
    assert with_integers(math.inf) == math.inf
    assert math.isnan(float(str(with_integers(math.nan))))


@given(VALUES)
def test_every_value_stays_equal_and_keeps_its_shape(value: Any) -> None:
    converted = with_integers(value)

    assert converted == value
    assert json.loads(json.dumps(converted)) == value
