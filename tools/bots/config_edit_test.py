from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.bots.config_edit import (
    MASK,
    ConfigEditInvalid,
    KeyMissing,
    assignments,
    masked,
    with_values,
    without_keys,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=5", 5),
        ("a=5.5", 5.5),
        ("a=true", True),
        ("a=null", None),
        ("a=BTC-USD", "BTC-USD"),
        ('a="5"', "5"),
        ("a=", ""),
        ("a=b=c", "b=c"),
        ('a={"b": [1]}', {"b": [1]}),
        ("a=NaN", "NaN"),
    ],
)
def test_value_is_json_or_else_text(text: str, value: Any) -> None:
    assert assignments([text]) == [("a", value)]


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", "a.=1", 'a={"b"', 'a="x', "a=[1"])
def test_text_that_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigEditInvalid):
        assignments([text])


@pytest.mark.parametrize("value", ["1e999", "[1, -1e999]", "9223372036854775808", '{"b": -9223372036854775809}'])
def test_number_that_cannot_be_stored_is_refused(value: str) -> None:
    with pytest.raises(ConfigEditInvalid, match="beyond"):
        assignments([f"a={value}"])


def test_key_with_dots_leads_into_objects_and_makes_those_that_are_missing() -> None:
    config = {"limits": {"min": 1}, "other": 2}

    changed = with_values(config, [("limits.max", 5), ("new.deep.key", "x")])

    assert changed == {"limits": {"min": 1, "max": 5}, "other": 2, "new": {"deep": {"key": "x"}}}
    assert config == {"limits": {"min": 1}, "other": 2}


def test_key_through_a_value_that_is_no_object_is_refused() -> None:
    with pytest.raises(ConfigEditInvalid, match="'a' is not an object"):
        with_values({"a": 5}, [("a.b", 1)])


def test_unset_takes_keys_away_and_leaves_the_rest() -> None:
    config = {"limits": {"min": 1, "max": 5}, "other": 2}

    assert without_keys(config, ["limits.max", "other"]) == {"limits": {"min": 1}}
    assert config == {"limits": {"min": 1, "max": 5}, "other": 2}


@pytest.mark.parametrize("key", ["b", "a.b", "b.c"])
def test_key_that_is_not_there_cannot_be_unset(key: str) -> None:
    with pytest.raises(KeyMissing, match=key):
        without_keys({"a": {}}, [key])


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apiKey",
        "APIKey",
        "API_SECRET",
        "apisecret",
        "password",
        "dbPassword",
        "access-token",
        "privateKey",
        "binanceapikey",
        "seedPhrase",
        "X-Auth",
    ],
)
@pytest.mark.parametrize("value", ["s3cr3t", 1234, ["s3cr3t"], {"inner": "s3cr3t"}], ids=str)
def test_value_under_a_secret_name_is_masked_whatever_it_is(name: str, value: Any) -> None:
    assert masked({"outer": {name: value}}) == {"outer": {name: MASK}}


@pytest.mark.parametrize(
    "config",
    [
        {"symbol": "BTC-USD", "limits": {"max": 5}, "monkey": "x", "author": "alice", "pinned": 1, "tokenize": False},
        {"url": "https://example.com/path?x=1", "pairs": ["A", "B"], "enabled": True, "nothing": None},
    ],
)
def test_other_values_are_shown_as_they_are(config: dict[str, Any]) -> None:
    assert masked(config) == config


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("mongodb://user:s3cr3t@host/db", f"mongodb://user:{MASK}@host/db"),
        ("-----BEGIN PRIVATE KEY-----\nMII", MASK),
        ("eyJhbGciOi.eyJzdWIi.sig", MASK),
        ("sk-abcdefghijklmnop1234", MASK),
    ],
)
def test_text_that_is_a_secret_by_itself_is_masked_under_any_name(value: str, shown: str) -> None:
    assert masked({"x": value, "list": [value]}) == {"x": shown, "list": [shown]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
CONFIGS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@given(CONFIGS, st.lists(st.sampled_from("abcd"), min_size=1, max_size=3), JSON)
def test_set_value_is_read_and_unset(config: dict[str, Any], path: list[str], value: Any) -> None:
    key = ".".join(path)
    try:
        changed = with_values(config, [(key, value)])
    except ConfigEditInvalid:
        return
    found: Any = changed
    for name in path:
        found = found[name]
    assert found == value
    with pytest.raises(KeyMissing):
        without_keys(without_keys(changed, [key]), [key])
