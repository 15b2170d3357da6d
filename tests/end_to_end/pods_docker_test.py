"""Bots as pods: real processes and servers, a fake API server, and the real init in each pod."""

import itertools
from functools import partial
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.fakes.fake_pods import FakePods
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tools.engine.ensure import Engine

CODE = """
import time
def main(id, config):
    number = 0
    while True:
        print("tick", number, time.monotonic(), flush=True)
        number += 1
        time.sleep(0.1)
"""
SECONDS = 90
GAP_SECONDS = 2.0


async def test_bot_in_a_pod_outlives_its_worker_and_its_log_loses_no_line(
    tmp_path: Path, docker_engine: Engine
) -> None:
    async with FakePods(docker_engine.url, f"test-{tmp_path.name}") as cluster:
        kubeconfig = str(cluster.kubeconfig(tmp_path / "kubeconfig"))
        settings = {"ENGINE": "kubernetes", "BOTS_NAMESPACE": "bots", "KUBECONFIG": kubeconfig}
        async with deployment(tmp_path, docker_engine, settings=settings) as made:
            processes = [made.start_process("master", "master")]
            for name in ("w1", "w2"):
                processes.append(made.start_process("worker", name, TEMP_DIR=str(tmp_path / name)))
            for process in processes:
                await process.wait_ready()
            made.platform.upload("bot.zip", zipped({"main.py": CODE}))
            await made.platform.create_bot("b1", {}, key="bot.zip")
            first = await eventually(partial(worker_of, made), within_seconds=SECONDS)
            await eventually(partial(has_logged, made, 50), within_seconds=SECONDS)

            # What is stored is released in the pod a moment later; until then, the next worker would store it again.
            # When more is stored, what was before is released.
            released = len(ticks(made))
            await eventually(partial(has_logged, made, released + 50), within_seconds=SECONDS)
            await made.processes[first].process.kill()

            other = "w2" if first == "w1" else "w1"
            await eventually(partial(is_owned_by, made, other), within_seconds=SECONDS)
            reached = len(ticks(made))
            await eventually(partial(has_logged, made, reached + 100), within_seconds=SECONDS)
            found = ticks(made)
            await made.platform.delete_bot("b1")
            await eventually(lambda: cluster.pods == {}, within_seconds=SECONDS)

    numbers = [number for number, _ in found]
    back = [(before, after) for before, after in itertools.pairwise(numbers) if after != before + 1]
    assert numbers[0] == 0
    # Nothing is lost. Only what was stored last may be there again, from a place after what was released.
    assert len(back) <= 1
    assert all(released <= after <= before for before, after in back), back
    assert max(after - before for (_, before), (_, after) in itertools.pairwise(found)) < GAP_SECONDS
    assert len([call for call in cluster.calls if call.startswith("POST")]) == 1


async def worker_of(made: Deployment) -> str:
    """The worker that runs the bot; empty while none does."""
    status = (await made.document("b1") or {}).get("status", {})
    return str(status["worker"]) if status.get("state") == "running" else ""


async def is_owned_by(made: Deployment, worker: str) -> bool:
    document = await made.mongo[made.service.database]["partitions"].find_one({"lease.worker_id": worker})
    return document is not None


def ticks(made: Deployment) -> list[tuple[int, float]]:
    storage = made.platform.storage
    found = storage.list_objects("logs", prefix="logs/b1/", recursive=True)
    names = sorted(item.object_name or "" for item in found)
    stored = b"".join(storage.get_object("logs", name).data for name in names).decode()
    # The last line may be stored in part.
    lines = [line.split() for line in stored.split("\n")[:-1] if line.startswith("tick ")]
    return [(int(number), float(at)) for _, number, at in lines]


async def has_logged(made: Deployment, count: int) -> bool:
    return len(ticks(made)) >= count
