"""The queue and the states of backtests, as Prometheus sees them."""

from prometheus_client import CollectorRegistry

from services.backtest_runner.metrics import QueueCollector
from tests.support.eventually import eventually
from tests.support.rigs.backtest_rig import BacktestRig, backtest_rig

__all__ = ["backtest_rig"]


def seen(rig: BacktestRig, name: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(QueueCollector(lambda: [rig.pool] if rig.pool is not None else []))
    return registry.get_sample_value(name)


async def test_backtests_that_wait_for_a_slot_make_the_queue(rig: BacktestRig) -> None:
    assert seen(rig, "runtime_backtest_queue_length") == 0
    for backtest_id in ("a", "b", "c"):
        await rig.announce(backtest_id)
    await rig.announce("off", enabled=False)

    async with rig.owned_by(rig.host(run_seconds=None), size=1):
        pool = rig.pool
        assert pool is not None
        expected = {"waiting": 2, "starting": 0, "running": 1, "finishing": 0, "held": 1}
        await eventually(lambda: pool.states() == expected)

        assert seen(rig, "runtime_backtest_queue_length") == 2
        age = seen(rig, "runtime_backtest_queue_age_seconds")
        assert age is not None
        # The ids that show a document's age in MongoDB have whole seconds.
        assert 0 <= age < 120
        await eventually(lambda: (seen(rig, "runtime_backtest_queue_age_seconds") or 0) > age)


async def test_the_age_of_an_empty_queue_is_nothing(rig: BacktestRig) -> None:
    await rig.announce("a")

    async with rig.owned_by(rig.host()):
        await eventually(lambda: rig.over("a"))

        assert seen(rig, "runtime_backtest_queue_age_seconds") == 0
