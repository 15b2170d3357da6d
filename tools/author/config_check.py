"""Check a config against the schema of its bot, and for the runtime's own fields."""

from collections.abc import Callable, Mapping
from typing import Any

from libs.core.errors import UserError
from libs.core.placement import placement_of
from libs.core.schema_parameters import RUNTIME_PARAMETERS, Schema, schema_of
from libs.docker_runner.data.names import data_names
from libs.docker_runner.executable import Network
from libs.docker_runner.sandbox.egress import egress_for
from libs.notifications.event import request_in
from tools.author.findings import Finding, refuse
from tools.author.json_schema import SchemaInvalid, Violation, violations

_CHECKS: tuple[Callable[[Mapping[str, Any]], object], ...] = (
    placement_of,
    lambda config: egress_for(config, Network.BRIDGE, guard=True),
    lambda config: data_names(config, {}),
    request_in,
)


def config_findings(
    description: Mapping[str, Any], kind: str, config: Mapping[str, Any], *, where: str, described_in: str
) -> list[Finding]:
    """Return what is wrong with *config* for a bot of *description* that runs as *kind*.

    Args:
        where: the origin of the config, for messages; *described_in* that of the schema.
    """
    return [
        *_schema_findings(description, kind, config, where, described_in),
        *(found for check in _CHECKS for found in refusals(check, config, where)),
    ]


def refuse_deployed(description: Mapping[str, Any], config: Mapping[str, Any], *, where: str) -> None:
    """Raise BotFolderInvalid if *config* is wrong for a bot or schedule whose *description* was deployed earlier."""
    refuse(config_findings(description, "bot", config, where=where, described_in="the description that was deployed"))


def _schema_findings(
    description: Mapping[str, Any], kind: str, config: Mapping[str, Any], where: str, described_in: str
) -> list[Finding]:
    schema = schema_of(description, kind)
    if schema is None:
        return []
    try:
        found = _violations(config, schema)
    except SchemaInvalid as error:
        return [Finding(f"{described_in}: schema", str(error), "correct the schema")]
    return [
        Finding(
            f"{where}: config.{one.path}" if one.path else f"{where}: config",
            one.reason,
            f"correct the config, or the `schema` of {described_in}",
        )
        for one in found
    ]


def _violations(config: Mapping[str, Any], schema: Schema) -> list[Violation]:
    """Return the violations; a schema that does not name the runtime's own fields allows them."""
    found = violations(config, schema)
    own = {name: value for name, value in config.items() if name not in RUNTIME_PARAMETERS}
    if not found or len(own) == len(config):
        return found
    return min(found, violations(own, schema), key=len)


def refusals(check: Callable[[Mapping[str, Any]], object], config: Mapping[str, Any], where: str) -> list[Finding]:
    """Return the error that *check* raises for *config*, if any, as a finding."""
    try:
        check(config)
    except UserError as error:
        return [Finding(where, str(error), "correct the config")]
    return []
