"""The states of dependencies become values of one metric."""

from prometheus_client import CollectorRegistry

from libs.core.http.health import Readiness
from libs.core.observability.health_metrics import ReadinessCollector


def test_each_dependency_is_1_or_0_as_it_was_reported_last() -> None:
    readiness, registry = Readiness(), CollectorRegistry()
    registry.register(ReadinessCollector(readiness))
    readiness.expect("nats")
    readiness.report("mongodb", True)
    readiness.report("mongodb", False)
    readiness.report("docker", True)

    states = {
        name: registry.get_sample_value("runtime_dependency_ok", {"dependency": name})
        for name in ("nats", "mongodb", "docker")
    }

    assert states == {"nats": 0, "mongodb": 0, "docker": 1}
