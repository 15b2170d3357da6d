from typing import Any

import pytest

from libs.core.store.entities import Entity
from tools.bots.redeploy import Flags, kept_fields


def deployed(defaults: dict[str, Any], flags: Flags | None = None, **changes: Any) -> Entity:
    """A bot as a first deploy left it, with some values of its config changed since (None: unset)."""
    flags = flags or Flags()
    config = flags.config_for(None, defaults)
    for name, value in changes.items():
        config[name] = value
    config = {name: value for name, value in config.items() if value is not None}
    return Entity.of({"id": "b", "config": config, "custom": {"deployed": flags.record(defaults)}})


def test_first_deploy_takes_the_folders_config_and_what_the_flags_replace() -> None:
    assert Flags({"b": 3}).config_for(None, {"a": 1, "b": 2}) == {"a": 1, "b": 3}


def test_value_that_a_flag_gave_stays_without_the_flag() -> None:
    known = deployed({"symbol": "BTC"}, Flags({"symbol": "ETH", "api_key": "k"}))

    assert Flags().config_for(known, {"symbol": "BTC"}) == {"symbol": "ETH", "api_key": "k"}


def test_value_set_after_last_deploy_stays() -> None:
    known = deployed({"symbol": "BTC"}, symbol="ETH", limit=5)

    assert Flags().config_for(known, {"symbol": "SOL"}) == {"symbol": "ETH", "limit": 5}


def test_value_of_the_folder_follows_the_folder() -> None:
    known = deployed({"symbol": "BTC", "old": 1, "same": 5})

    assert Flags().config_for(known, {"symbol": "SOL", "new": 2, "same": 5}) == {"symbol": "SOL", "new": 2, "same": 5}


def test_number_that_the_database_gave_another_type_still_is_the_folders() -> None:
    known = deployed({"limit": 5, "deep": {"list": [1]}}, limit=5.0, deep={"list": [1.0]})

    assert Flags().config_for(known, {"limit": 6, "deep": {}}) == {"limit": 6, "deep": {}}


def test_key_unset_after_last_deploy_stays_unset() -> None:
    known = deployed({"symbol": "BTC", "limit": 5}, limit=None)

    assert Flags().config_for(known, {"symbol": "BTC", "limit": 5}) == {"symbol": "BTC"}


def test_every_stored_value_counts_as_set_where_another_program_deployed_it() -> None:
    known = Entity.of({"id": "b", "config": {"symbol": "ETH"}, "custom": {}})

    assert Flags({"limit": 1}).config_for(known, {"symbol": "BTC", "new": 2}) == {"symbol": "ETH", "new": 2, "limit": 1}


def test_reset_keeps_nothing() -> None:
    known = deployed({"symbol": "BTC"}, Flags({"api_key": "k"}, runtime="nodejs20"))
    flags = Flags({"limit": 1}, reset=True)

    assert flags.config_for(known, {"symbol": "BTC"}) == {"symbol": "BTC", "limit": 1}
    assert flags.over(known) == flags


def test_runtime_and_entrypoint_stay_until_another_is_given() -> None:
    known = deployed({}, Flags(runtime="nodejs20", entrypoint="other.js"))

    assert Flags().over(known) == Flags(runtime="nodejs20", entrypoint="other.js")
    assert Flags(entrypoint="third.js").over(known) == Flags(runtime="nodejs20", entrypoint="third.js")
    assert Flags().over(deployed({})) == Flags()


@pytest.mark.parametrize("broken", [None, 5, {"flags": 5, "defaults": 7}, {"flags": {"runtime": 5}}])
def test_foreign_record_is_ignored(broken: Any) -> None:
    known = Entity.of({"id": "b", "config": {"a": 1}, "custom": {"deployed": broken}})

    assert Flags().over(known) == Flags()
    assert Flags().config_for(known, {}) == {"a": 1}


def test_fields_beside_the_contracts_are_repeated_but_for_the_request_of_a_rollback() -> None:
    event = {"fields": ["enabled", "rollback", "gone"]}
    known = Entity.of({"id": "b", "event": event, "enabled": False, "rollback": True, "status": {}})

    assert kept_fields(known) == {"enabled": False}
    assert kept_fields(None) == {}
