"""The data sets that a bot names: in its config or in its description. Pure."""

from collections.abc import Mapping
from typing import Any

from libs.core.storage.data_sets import NAME_RULE, is_data_name
from libs.docker_runner.errors import DataRejected

MOST = 32
"""The maximum number of data sets of one bot."""
_SHOWN_CHARACTERS = 100


def data_names(config: Mapping[str, Any], description: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names in `config.dataSets` and in the description's `dataSets`, each once and in order.

    Only a list refers to data sets: a bot may have used values of other types for other purposes.

    Raises:
        DataRejected: an entry is not a name, or there are too many.
    """
    found: list[str] = []
    for field, value in (
        ("config.dataSets", config.get("dataSets")),
        ("custom.config.dataSets", description.get("dataSets")),
    ):
        for entry in value if isinstance(value, list) else []:
            if not is_data_name(entry):
                shown = repr(entry)[:_SHOWN_CHARACTERS]
                raise DataRejected(field, f"has {shown}, which is no name: a name has {NAME_RULE}")
            found.append(entry)
    names = tuple(sorted(set(found)))
    if len(names) > MOST:
        raise DataRejected("config.dataSets", f"names {len(names)} data sets; at most {MOST} are mounted")
    return names
