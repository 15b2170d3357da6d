"""`python -m tests.deploy.metrics_of_module MODULE`: the metrics that are declared once MODULE is imported, as JSON."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from prometheus_client.metrics import MetricWrapperBase

from libs.core.observability.metrics import Declared

_SUFFIXES = {"counter": "_total", "info": "_info"}


@dataclass(frozen=True)
class ShownMetric:
    """One metric as it is exposed; *kind* is Prometheus's type, of an info ``info``."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...]


def of_loaded_modules() -> Iterator[ShownMetric]:
    """Those of our modules that this process has imported."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith(("libs.", "services.")):
            for value in vars(module).values():
                if isinstance(value, Declared):
                    yield ShownMetric(value.name, value.kind, value.meaning, value.labels)
                elif isinstance(value, MetricWrapperBase):
                    (family,) = value.describe()
                    name = family.name + _SUFFIXES.get(family.type, "")
                    yield ShownMetric(name, family.type, family.documentation, tuple(value._labelnames))


if __name__ == "__main__":
    importlib.import_module(sys.argv[1])
    found = {metric.name: metric for metric in of_loaded_modules()}
    print(json.dumps([asdict(found[name]) for name in sorted(found)]))
