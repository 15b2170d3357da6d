"""A short form of the idle benchmark."""

from pathlib import Path

from libs.core.process.service import BOT_RUNNER
from tests.benchmarks.idle import measure
from tools.engine.ensure import Engine

MOST_MB = 100.0
MOST_CORE_PERCENT = 30.0


async def test_an_idle_master_and_an_idle_worker_cost_little(tmp_path: Path, docker_engine: Engine) -> None:
    measured = await measure(tmp_path, docker_engine, seconds=3.0, services=[BOT_RUNNER])

    # Memory is the same on a busy machine; a processor's share is not, and the benchmark itself holds to the targets.
    assert {one.name: one.resident_mb for one in measured if one.resident_mb > MOST_MB} == {}
    assert {one.name: one.core_percent for one in measured if one.core_percent > MOST_CORE_PERCENT} == {}
    assert len(measured) == 2
