from typing import Any

import pytest

from libs.core.secrets.withholding import SecretsMissing, completed, literal_secrets, withhold

CONFIG: dict[str, Any] = {
    "symbol": "BTC-USD",
    "size": 0.5,
    "api_key": "old",
    "exchange": {"name": "x", "secret": "s1", "url": "https://u:pw@h"},
    "ref": {"api_token": {"$secret": "exchange"}},
    "auth": True,
}


def test_literal_secrets_are_replaced_and_all_else_stays() -> None:
    stored, paths = withhold(CONFIG)

    assert stored == {
        "symbol": "BTC-USD",
        "size": 0.5,
        "api_key": None,
        "exchange": {"name": "x", "secret": None, "url": None},
        "ref": {"api_token": {"$secret": "exchange"}},
        "auth": True,
    }
    assert paths == [("api_key",), ("exchange", "secret"), ("exchange", "url")]
    assert literal_secrets(CONFIG) == ["old", "s1", "https://u:pw@h"]


def test_sealed_values_stay_also_below_a_secret_name() -> None:
    stored, paths = withhold({"credentials": {"id": "a", "key": {"$sealed": "xyz"}}})

    assert stored == {"credentials": {"id": None, "key": {"$sealed": "xyz"}}}
    assert paths == [("credentials", "id")]


def test_restored_config_has_the_present_secrets() -> None:
    stored, paths = withhold(CONFIG)
    present = {"symbol": "ETH", "api_key": "new", "exchange": {"secret": {"$secret": "s"}, "url": "https://u:new@h"}}

    restored = completed(stored, paths, present)

    assert restored == CONFIG | {
        "api_key": "new",
        "exchange": {"name": "x", "secret": {"$secret": "s"}, "url": "https://u:new@h"},
    }
    assert stored["api_key"] is None


@pytest.mark.parametrize("present", [{}, {"api_key": None}, {"api_key": {}, "exchange": 1}, {"exchange": {}}])
def test_secret_without_a_present_value_is_named_and_nothing_is_restored(present: dict[str, Any]) -> None:
    stored, paths = withhold({"exchange": {"secret": "s"}})

    with pytest.raises(SecretsMissing, match=r"exchange\.secret") as raised:
        completed(stored, paths, present)
    assert raised.value.paths == [("exchange", "secret")]


ACCOUNTS = [{"name": "a", "key": "ka"}, {"name": "b", "key": "kb"}]


def test_secrets_in_an_equal_list_are_restored_by_position() -> None:
    stored, paths = withhold({"accounts": ACCOUNTS})
    present = {"accounts": [{"name": "a", "key": "ka2"}, {"name": "b", "key": "kb2"}]}

    assert completed(stored, paths, present) == present


@pytest.mark.parametrize("now", [ACCOUNTS[::-1], ACCOUNTS[:1], [*ACCOUNTS, {"name": "c", "key": "k"}], {}])
def test_account_of_a_changed_list_never_gets_the_key_of_another(now: Any) -> None:
    stored, paths = withhold({"accounts": ACCOUNTS})

    with pytest.raises(SecretsMissing):
        completed(stored, paths, {"accounts": now})
