"""What Prometheus sees of a worker with a bot that runs and a bot that keeps dying."""

import asyncio
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.eventually import eventually
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

RUNS = "import time\n\ndef main(id, config):\n    print('up', flush=True)\n    while True: time.sleep(1)\n"
DIES = "def main(id, config):\n    raise ValueError('no prices')\n"
KEY = "a-key-of-somebodys-exchange"


async def shown(service: Deployment, process: str) -> str:
    url = f"http://127.0.0.1:{service.processes[process].http_port}/metrics"

    def get() -> str:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(get)


async def values(service: Deployment, process: str) -> dict[str, float]:
    """What a process shows, by `name` or `name{label=value}`."""
    text = await shown(service, process)
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_bots_their_containers_and_their_deaths_show_as_numbers_and_their_configs_nowhere(
    tmp_path: Path, docker_engine: Engine
) -> None:
    settings = {**PATIENT, "METRICS_PER_BOT": "true", "MAX_BOTS_PER_PARTITION": "100"}
    async with deployment(tmp_path, docker_engine, settings=settings) as service:
        await service.start(workers=1)
        service.platform.upload("runs.zip", zipped({"main.py": RUNS}))
        service.platform.upload("dies.zip", zipped({"main.py": DIES}))
        await service.platform.create_bot("steady", {"key": KEY}, key="runs.zip")
        # The others come when its segment is there: made at once, each might get its own, and one worker has but one.
        await eventually(lambda: service.in_state("steady", "running"))
        await service.platform.create_bot("poor", {"key": KEY}, key="dies.zip")
        await service.platform.create_bot("off", {"key": KEY, "enabled": False}, key="runs.zip")

        async def all_is_known() -> dict[str, float]:
            seen = await values(service, "w1")
            assert seen["runtime_entities{state=running}"] == 1
            assert seen["runtime_entities{state=disabled}"] == 1
            assert seen["runtime_restarts_total{reason=error}"] >= 1
            # Counted when it ends, and written into its document after that.
            assert seen["runtime_bot_restarts_total{id=poor}"] >= 1
            assert seen["runtime_bot_memory_bytes{id=steady}"] > 0
            return seen

        worker = await eventually(all_is_known, within_seconds=90, every_seconds=0.5)
        assert worker["runtime_containers_memory_bytes"] > 0
        assert worker["runtime_containers_cpu_seconds_total"] > 0
        assert worker["runtime_containers_memory_limit_bytes"] >= 512 * 1024 * 1024
        assert worker["runtime_containers"] >= 1
        assert 0 < worker["runtime_lease_age_seconds"] < 30
        assert worker["runtime_bot_up{id=steady}"] == 1
        assert worker["runtime_operation_seconds_count{operation=bots,outcome=ok,system=reconcile}"] >= 1
        assert worker["runtime_operation_seconds_count{operation=create,outcome=ok,system=docker}"] >= 2

        async def all_is_owned() -> bool:
            master = await values(service, "master")
            assert master["runtime_segments{state=owned}"] == 1
            assert master["runtime_workers{state=owning}"] == 1
            return master["runtime_segment_wait_seconds"] == 0

        await eventually(all_is_owned)
        for process in ("w1", "master"):
            assert KEY not in await shown(service, process)
