"""A short form of the benchmark of container statistics, with the design's target."""

from pathlib import Path

from libs.docker_runner.executable import Network
from tests.benchmarks.container_statistics import measure
from tests.support.bot_containers import bot_containers
from tools.engine.ensure import Engine


async def test_knowing_what_containers_use_costs_next_to_nothing(
    tmp_path: Path, scope: str, docker_engine: Engine
) -> None:
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        figures = await measure(bots, docker_engine.url, containers=6)

    assert figures.good, figures
