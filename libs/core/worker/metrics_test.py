from dataclasses import replace

from prometheus_client import CollectorRegistry

from libs.core.worker.metrics import WorkerCollector
from libs.core.worker.worker import OwnedStatus, WorkerSnapshot

OWNER = WorkerSnapshot(
    worker_id="w",
    instance_id="w-1",
    host="h",
    master_id="m",
    assigned=[3, 4],
    held=[OwnedStatus(3, 7, 3.5), OwnedStatus(4, 1, 4.5)],
    running=2,
    draining=False,
    impediment="",
    room=None,
)
STANDBY = replace(OWNER, assigned=[], held=[], running=0)


def shown(snapshot: WorkerSnapshot, entities: dict[str, int]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(WorkerCollector(lambda: snapshot, life_seconds=5.0, entities=lambda: entities))
    return registry


def test_worker_shows_its_containers_and_entities_and_the_age_of_its_oldest_proof() -> None:
    registry = shown(OWNER, {"running": 2, "disabled": 1})

    assert registry.get_sample_value("runtime_lease_age_seconds") == 1.5
    assert registry.get_sample_value("runtime_segments_held") == 2
    assert registry.get_sample_value("runtime_containers") == 2
    assert registry.get_sample_value("runtime_entities", {"state": "running"}) == 2
    assert registry.get_sample_value("runtime_entities", {"state": "disabled"}) == 1


def test_a_worker_without_a_segment_has_no_lease_that_could_be_old() -> None:
    registry = shown(STANDBY, {})

    assert registry.get_sample_value("runtime_lease_age_seconds") == 0
    assert registry.get_sample_value("runtime_entities", {"state": "running"}) is None
