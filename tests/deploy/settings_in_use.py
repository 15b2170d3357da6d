"""Which variables a service reads, and whether it would start with those that a deployment gives it."""

import inspect
from collections.abc import Mapping

from libs.core.config import container_settings, settings
from libs.core.config.settings_loader import Group, load, rows
from libs.core.process.service import ServiceDefinition

# Read by libraries and not by our settings.
FOREIGN = frozenset({"DOCKER_HOST", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"})
MODULES = (settings, container_settings)


def unknown_variables(given: Mapping[str, str], service: ServiceDefinition) -> set[str]:
    """Variables that nobody reads: most likely a slip of the pen."""
    return set(given) - {row.name for row in rows(groups(), service)} - FOREIGN


def load_everything(given: Mapping[str, str], service: ServiceDefinition) -> None:
    """Read all groups of settings from *given*.

    Raises:
        SettingsError: the service would not start.
    """
    for group in groups():
        load(group, environ=given, service=service)


def groups() -> list[type[Group]]:
    """All groups, in the order in which they are written."""
    classes = [found for module in MODULES for found in vars(module).values() if inspect.isclass(found)]
    return [found for found in classes if issubclass(found, Group) and found is not Group]
