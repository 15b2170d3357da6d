"""Which variables a service reads, and whether it would start with those that a deployment gives it."""

from collections.abc import Mapping

from libs.core.config.groups import GROUPS
from libs.core.config.settings_loader import load, rows
from libs.core.process.service import ServiceDefinition

# Read by libraries and not by our settings.
FOREIGN = frozenset({"DOCKER_HOST", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"})


def unknown_variables(given: Mapping[str, str], service: ServiceDefinition) -> set[str]:
    """Variables that nobody reads: most likely a slip of the pen."""
    return set(given) - {row.name for row in rows(GROUPS, service)} - FOREIGN


def load_everything(given: Mapping[str, str], service: ServiceDefinition) -> None:
    """Read all groups of settings from *given*.

    Raises:
        SettingsError: the service would not start.
    """
    for group in GROUPS:
        load(group, environ=given, service=service)
