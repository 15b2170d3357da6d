"""What one schedule's run, container or document does wrong costs the other schedules of its segment nothing."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from libs.core.store.holds import HoldTarget
from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.executable import Executable
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.schedule_rig import ScheduleRig, schedule_rig

__all__ = ["schedule_rig"]

ERRORS = [OSError(5, "Input/output error"), ValueError("a defect"), ExceptionGroup("several", [KeyError("x")])]


@dataclass
class Rotten(FakeHost):
    """A host on which one call for the schedule ``bad`` raises, as often as it is made."""

    spoilt: str = ""
    error: Exception = field(default_factory=OSError)
    asked: int = 0

    async def start(self, executable: Executable) -> ManagedContainer:
        self._refuse("start", executable.id)
        return await super().start(executable)

    async def stop(
        self, container: ManagedContainer, grace_seconds: float = 30.0, reason: EndReason = EndReason.STOPPED
    ) -> Ended:
        self._refuse("stop", container.id)
        return await super().stop(container, grace_seconds, reason)

    async def remove(self, container: ManagedContainer) -> Ended:
        self._refuse("remove", container.id)
        return await super().remove(container)

    def _refuse(self, call: str, schedule_id: str) -> None:
        if schedule_id == "bad" and call == self.spoilt:
            self.asked += 1
            raise self.error


@pytest.mark.parametrize("call", ["stop", "remove"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_kill_switch_ends_the_others_when_one_run_cannot_be_ended(
    rig: ScheduleRig, call: str, error: Exception
) -> None:
    host = Rotten(run_seconds=None, spoilt=call, error=error)
    for schedule_id in ("bad", "good", "other"):
        await rig.deploy(schedule_id)
    async with rig.owned_by(host) as owner:
        await eventually(lambda: len(host.containers) == 3)
        await rig.entities.holds.hold(HoldTarget.everything())
        owner.wake()

        await eventually(lambda: not host.alive("good") and not host.alive("other"))
        await eventually(lambda: host.asked >= 2)
        host.spoilt = ""
        await eventually(lambda: not host.containers)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_container_of_no_firing_that_cannot_be_ended_keeps_no_schedule_from_firing(
    rig: ScheduleRig, error: Exception
) -> None:
    host = Rotten(run_seconds=None)
    await rig.deploy("bad")
    async with rig.owned_by(host):
        await eventually(lambda: host.alive("bad"))
    await rig.entities.delete("bad")
    host.spoilt, host.error = "stop", error
    await rig.deploy("good")

    async with rig.owned_by(host) as owner:
        await eventually(lambda: host.alive("good"))
        await eventually(lambda: host.asked >= 2)
        await rig.entities.holds.hold(HoldTarget.everything())
        owner.wake()
        await eventually(lambda: not host.alive("good"))
        host.spoilt = ""
        await eventually(lambda: not host.containers)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_start_that_fails_unexpectedly_is_tried_again_while_others_fire(
    rig: ScheduleRig, error: Exception
) -> None:
    host = Rotten(spoilt="start", error=error)
    for schedule_id in ("bad", "good"):
        await rig.deploy(schedule_id)
    async with rig.owned_by(host):
        await eventually(lambda: host.asked >= 2)
        await eventually(lambda: starts_of(host, "good") >= 3)
        host.spoilt = ""
        await eventually(lambda: "bad" in [start.entity_id for start in host.starts])


def starts_of(host: FakeHost, schedule_id: str) -> int:
    return [start.entity_id for start in host.starts].count(schedule_id)


BROKEN = [
    {"revision": "seven"},
    {"config": ["a", "list"]},
    {"config": {"schedule": {"$": 1}, "timeout": []}},
    {"scheduler": "a word"},
    {"scheduler": {"fired_at": "yesterday"}},
    {"scheduler": {"firing": {"at": "never", "run_id": []}}},
    {"scheduler": {"firing": "a word"}},
    {"scheduler": {"queued": 7}},
    {"scheduler": {"trigger": {"id": 1}}},
    {"next_execution_time": float("inf")},
    {"next_execution_time": "soon"},
    {"status": "a word"},
    {"trace": {"traceparent": ["x"]}, "event": "none"},
]


@pytest.mark.parametrize("fields", BROKEN, ids=repr)
async def test_a_broken_document_hides_no_other_schedule_of_its_segment(
    rig: ScheduleRig, fields: dict[str, Any]
) -> None:
    host = FakeHost()
    for schedule_id in ("a", "bad", "z"):
        await rig.deploy(schedule_id)
    await rig.collection.update_one({"id": "bad"}, {"$set": fields})

    async with rig.owned_by(host):
        await eventually(lambda: min(starts_of(host, "a"), starts_of(host, "z")) >= 2)
        # One that is put right is fired like the others.
        await rig.collection.delete_one({"id": "bad"})
        await rig.deploy("bad")
        before = len(host.starts)
        await eventually(lambda: "bad" in [start.entity_id for start in host.starts[before:]])
