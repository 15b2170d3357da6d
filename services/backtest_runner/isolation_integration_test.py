"""What one backtest's run or document does wrong costs the other backtests of its segment nothing."""

from dataclasses import dataclass
from typing import Any

import pytest

from libs.core.store.holds import HoldTarget
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.executable import Executable
from tests.support.eventually import eventually
from tests.support.rigs.backtest_rig import BacktestRig, FakeHost, backtest_rig

__all__ = ["backtest_rig"]


@dataclass
class Rotten(FakeHost):
    """A host on which starts of the backtest ``bad`` raise an error, as long as it is spoilt."""

    spoilt: Exception | None = None
    asked = 0

    async def start(self, executable: Executable) -> ManagedContainer:
        if executable.id == "bad" and self.spoilt is not None:
            self.asked += 1
            raise self.spoilt
        return await super().start(executable)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("a defect")], ids=lambda error: type(error).__name__
)
async def test_a_run_that_fails_unexpectedly_is_tried_again_while_others_end(
    rig: BacktestRig, error: Exception
) -> None:
    host = Rotten(folder=rig.folder)
    host.spoilt = error
    for backtest_id in ("bad", "good"):
        await rig.announce(backtest_id)
    async with rig.owned_by(host):
        await eventually(lambda: rig.over("good"))
        await eventually(lambda: host.asked >= 1)
        host.spoilt = None
        await eventually(lambda: rig.over("bad"))


BROKEN = [
    {"backtest": "a word"},
    {"backtest": {"claim": {"run_id": "r"}}},
    {"backtest": {"claim": "r", "cancel": 7}},
    {"revision": "seven"},
    {"config": ["a", "list"]},
    {"custom": {"config": 7, "filePath": {"x": 1}}},
    {"trace": {"traceparent": ["x"]}},
]


@pytest.mark.parametrize("fields", BROKEN, ids=repr)
async def test_a_broken_document_hides_no_other_backtest_of_its_segment(
    rig: BacktestRig, fields: dict[str, Any]
) -> None:
    host = rig.host()
    for backtest_id in ("a", "bad", "z"):
        await rig.announce(backtest_id)
    await rig.database["backtests"].update_one({"id": "bad"}, {"$set": fields})

    async with rig.owned_by(host):
        await eventually(lambda: rig.over("a"))
        await eventually(lambda: rig.over("z"))


async def test_a_document_that_breaks_during_its_run_is_still_held_by_the_kill_switch(rig: BacktestRig) -> None:
    host = rig.host(run_seconds=None)
    await rig.announce("bad")
    async with rig.owned_by(host) as owned:
        await eventually(lambda: host.containers)
        await rig.database["backtests"].update_one({"id": "bad"}, {"$set": {"backtest": {"claim": {"run_id": "r"}}}})
        await rig.entities.holds.hold(HoldTarget.everything())
        owned.wake.set()

        await eventually(lambda: not host.containers)
