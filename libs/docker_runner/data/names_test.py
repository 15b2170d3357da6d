from typing import Any

import pytest

from libs.core.storage.data_sets import is_data_name
from libs.docker_runner.data.names import MOST, data_names
from libs.docker_runner.errors import DataRejected


@pytest.mark.parametrize(
    ("config", "description", "names"),
    [
        ({}, {}, ()),
        ({"dataSets": ["prices"]}, {}, ("prices",)),
        ({}, {"dataSets": ["prices"]}, ("prices",)),
        ({"dataSets": ["b", "a", "b"]}, {"dataSets": ["c", "a"]}, ("a", "b", "c")),
        ({"dataSets": []}, {}, ()),
        ({"dataSets": "prices"}, {"dataSets": 5}, ()),
        ({"dataSets": {"source": "binance"}}, {}, ()),
    ],
)
def test_names_are_those_of_config_and_description(
    config: dict[str, Any], description: dict[str, Any], names: tuple[str, ...]
) -> None:
    assert data_names(config, description) == names


@pytest.mark.parametrize("entry", ["", ".", "..", "a/b", "../x", "a" * 64, " a", "a\n", "é", 5, None, ["a"], ".hidden"])
def test_entry_that_is_no_name_is_rejected_with_its_field(entry: object) -> None:
    with pytest.raises(DataRejected) as raised:
        data_names({"dataSets": ["prices", entry]}, {})

    assert "config.dataSets has" in str(raised.value)
    assert not is_data_name(entry)


def test_too_many_data_sets_are_rejected() -> None:
    with pytest.raises(DataRejected, match=f"at most {MOST}"):
        data_names({"dataSets": [f"set{number}" for number in range(MOST + 1)]}, {})
