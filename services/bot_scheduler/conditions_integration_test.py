"""In which state schedules are counted, from their documents and from what runs."""

from libs.core.store.holds import HoldTarget
from tests.support.eventually import eventually
from tests.support.fakes.fake_host import FakeHost
from tests.support.rigs.schedule_rig import ScheduleRig, schedule_rig

__all__ = ["schedule_rig"]

NEVER_SOON = "0 0 1 1 *"


async def test_each_schedule_counts_in_one_state(rig: ScheduleRig) -> None:
    await rig.deploy("runs", "* * * * * *")
    await rig.deploy("waits", NEVER_SOON)
    await rig.deploy("paused", NEVER_SOON)
    await rig.set("paused", **{"scheduler.paused": True})
    await rig.deploy("disabled", NEVER_SOON, enabled=False)
    await rig.deploy("nonsense", NEVER_SOON)
    await rig.set("nonsense", **{"config.schedule": "every full moon"})
    await rig.deploy("killed", NEVER_SOON)
    await rig.entities.holds.hold(HoldTarget.entity("killed"), by="a test", reason="")

    async with rig.owned_by(FakeHost(run_seconds=None)) as owner:
        expected = dict.fromkeys(("running", "waiting", "paused", "disabled", "rejected", "killed"), 1)
        await eventually(lambda: owner.scheduler.states() == expected)
