"""The runner on pods of a fake cluster whose kubelet runs the real init in containers."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.room import MIB
from libs.docker_runner.containers.container import ContainerState, EndReason, ManagedContainer
from libs.docker_runner.containers.endings import describe_end
from libs.docker_runner.errors import AlreadyRunning, StartFailed
from libs.docker_runner.executable import Entrypoint, Limits
from tests.support.eventually import eventually
from tests.support.fakes.fake_pods import FakePods
from tests.support.rigs.bot_pods import PodWorker, pod_worker
from tools.engine.ensure import Engine

FOREVER = (
    "import time\ndef main(id, config):\n n = 0\n"
    " while True:\n  print(f'tick {n} {time.time()}', flush=True)\n  n += 1\n  time.sleep(0.1)"
)


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(docker_engine: Engine, scope: str) -> AsyncIterator[FakePods]:
    async with FakePods(docker_engine.url, scope) as fake:
        yield fake


@pytest_asyncio.fixture(loop_scope="session")
async def worker(cluster: FakePods, tmp_path: Path, scope: str) -> AsyncIterator[PodWorker]:
    async with pod_worker(tmp_path / "one", scope, cluster.kubeconfig(tmp_path / "kubeconfig")) as worker:
        yield worker


async def output(worker: PodWorker, container: ManagedContainer) -> str:
    return b"".join([piece.data async for piece in worker.bots.runner.logs(container)]).decode()


async def ticks(worker: PodWorker, container: ManagedContainer) -> list[tuple[int, float]]:
    lines = [line.split() for line in (await output(worker, container)).splitlines() if line.startswith("tick")]
    return [(int(number), float(at)) for _, number, at in lines]


async def test_run_in_a_pod_has_its_result_output_and_use(worker: PodWorker) -> None:
    source = "def main(id, config):\n    print('hi')\n    return {'a': config['x'] + 1}"
    outcome, text = await worker.bots.run(source, config={"x": 1}, run_id="r1")

    assert (outcome.result, text) == ({"a": 2}, 'hi\n{"a": 2}\n')
    assert outcome.ended.reason is EndReason.FINISHED
    assert outcome.ended.peak_memory_bytes is not None
    assert list(outcome.ended.last_lines) == ["hi", '{"a": 2}']


async def test_node_run_in_a_pod_returns_its_result(worker: PodWorker) -> None:
    source = "exports.main = async (id, config) => { console.log('hi'); return { a: config.x + 1 } }"
    outcome, text = await worker.bots.run(
        source, runtime="nodejs20", config={"x": 1}, entrypoint=Entrypoint.BACKTEST, limits=Limits(256 * MIB)
    )

    assert (outcome.result, text) == ({"a": 2}, 'hi\n{"a":2}\n')


async def test_run_leaves_no_pod_and_takes_two_calls(cluster: FakePods, worker: PodWorker) -> None:
    await worker.bots.list()
    cluster.calls.clear()
    await worker.bots.run("def main(id, config): return 1")

    assert await worker.bots.list() == []
    assert cluster.pods == {}
    assert [call.split()[0] for call in cluster.calls if call.startswith(("POST", "DELETE"))] == ["POST", "DELETE"]
    assert len(cluster.calls) <= 4


async def test_raised_error_in_a_pod_is_the_failure(worker: PodWorker) -> None:
    outcome, text = await worker.bots.run("def main(id, config): raise ValueError('no money')")

    assert outcome.ended.reason is EndReason.ERROR
    assert outcome.failure is not None
    assert (outcome.failure.message, outcome.failure.type) == ("no money", "ValueError")
    assert "Traceback" in text


async def test_stopped_pod_gets_its_grace_and_its_name_is_free_at_once(worker: PodWorker) -> None:
    source = (
        "import signal, sys, time\ndef main(id, config):\n"
        " signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)))\n"
        " print('up', flush=True)\n time.sleep(600)"
    )
    first = await worker.bots.runner.start(worker.bots.executable(source, run_id="r1"))
    await eventually(lambda: _printed(worker, first, "up"))
    ended = await worker.bots.runner.stop(first, 20.0)
    assert "bye" in await output(worker, first)
    await worker.bots.runner.remove(first)
    second = await worker.bots.runner.start(worker.bots.executable(source, run_id="r2"))

    assert ended.reason is EndReason.STOPPED
    assert (second.name, second.container_id != first.container_id) == (first.name, True)


async def test_second_start_of_a_bot_is_refused_while_its_pod_exists(worker: PodWorker) -> None:
    await worker.bots.runner.start(worker.bots.executable(FOREVER, run_id="r1"))

    with pytest.raises(AlreadyRunning):
        await worker.bots.runner.start(worker.bots.executable("def main(id, config): pass", run_id="r2"))


async def test_killed_workers_bot_is_adopted_without_a_gap_or_a_lost_line(
    cluster: FakePods, tmp_path: Path, scope: str
) -> None:
    kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
    async with pod_worker(tmp_path / "one", scope, kubeconfig) as first:
        container = await first.bots.runner.start(first.bots.executable(FOREVER, run_id="r1"))
        await eventually(lambda: _printed(first, container, "tick 5"))
    # A lease later.
    await asyncio.sleep(5.0)
    async with pod_worker(tmp_path / "two", scope, kubeconfig, epoch=2) as second:
        (adopted,) = await eventually(lambda: second.bots.list())
        await eventually(lambda: _printed(second, adopted, "tick 80"))
        found = await ticks(second, adopted)

    assert (adopted.container_id, adopted.run_id) == (container.container_id, "r1")
    assert [number for number, _ in found] == list(range(len(found)))
    gaps = [after - before for (_, before), (_, after) in itertools.pairwise(found)]
    assert max(gaps) < 2.0
    assert len([call for call in cluster.calls if call.startswith("POST")]) == 1


async def test_bot_without_an_owner_ends_by_its_lease(cluster: FakePods, tmp_path: Path, scope: str) -> None:
    kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
    async with pod_worker(tmp_path / "one", scope, kubeconfig) as first:
        container = await first.bots.runner.start(first.bots.executable(FOREVER, run_id="r1"))
        await eventually(lambda: _printed(first, container, "tick 5"))
    gone_at = time.time()
    await asyncio.sleep(8.0)
    async with pod_worker(tmp_path / "two", scope, kubeconfig, epoch=2) as second:
        await eventually(lambda: second.bots.list())
        ended = await eventually(lambda: second.bots.runner.exit_info(container))
        await eventually(lambda: _printed(second, container, "tick"))
        last = (await ticks(second, container))[-1][1]

    assert ended is not None
    assert ended.reason is EndReason.LEASE_LOST
    assert last < gone_at + 7.2


async def test_unreachable_pod_counts_as_lost_only_when_its_bot_is_dead(
    cluster: FakePods, worker: PodWorker, tmp_path: Path, scope: str
) -> None:
    cluster.kubelet_is_dead = True
    container = await worker.bots.runner.start(worker.bots.executable(FOREVER, run_id="r1"))
    await eventually(lambda: _printed(worker, container, "tick 5"))
    process = cluster.container(container.name)
    await cluster.unplug(container.name)
    cut_at = time.monotonic()
    ended = await eventually(lambda: worker.bots.runner.exit_info(container), every_seconds=0.02)
    lost_after = time.monotonic() - cut_at
    alive = await asyncio.to_thread(_processes, process)

    assert ended is not None
    assert ended.reason is EndReason.NODE_LOST
    assert "node was lost" in describe_end(ended)
    # The init stays, to hand over what the bot left.
    assert [command for command in alive if "start.py" in command] == []
    assert 5.0 < lost_after < 9.5
    await worker.bots.runner.remove(container)
    cluster.kubelet_is_dead = False
    again = await worker.bots.runner.start(worker.bots.executable(FOREVER, run_id="r2"))
    assert again.run_id == "r2"
    await asyncio.to_thread(process.remove, force=True)


async def test_deleted_object_of_a_running_pod_is_no_evidence(cluster: FakePods, worker: PodWorker) -> None:
    cluster.kubelet_is_dead = True
    container = await worker.bots.runner.start(worker.bots.executable(FOREVER, run_id="r1"))
    await cluster.delete(container.name)
    ended = await eventually(lambda: worker.bots.runner.exit_info(container))

    assert ended is not None
    assert ended.exit_code == 137


async def test_state_of_a_pod_comes_from_and_to_the_worker(cluster: FakePods, worker: PodWorker) -> None:
    source = (
        "import pathlib, time\ndef main(id, config):\n"
        " pathlib.Path('/state/a.txt').write_text('kept')\n print('up', flush=True)\n time.sleep(600)"
    )
    container = await worker.bots.runner.start(worker.bots.executable(source, run_id="r1"))
    folder = worker.bots.settings.temp_dir / "runs"

    saved = await eventually(lambda: [path for path in folder.rglob("saved") if b"kept" in path.read_bytes()])
    assert len(saved) == 1
    await worker.bots.runner.stop(container, 0)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ((403, 'pods "x" is forbidden: exceeded quota: bots'), "quota exceeded"),
        ((403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'), "admission refused"),
    ],
)
async def test_refused_pod_has_its_reason(
    cluster: FakePods, worker: PodWorker, refusal: tuple[int, str], reason: str
) -> None:
    cluster.refusal = refusal

    with pytest.raises(StartFailed, match=reason):
        await worker.bots.runner.start(worker.bots.executable(FOREVER))


async def test_pod_without_a_node_gives_its_start_back_with_the_reason(cluster: FakePods, worker: PodWorker) -> None:
    cluster.unschedulable = "0/2 nodes are available: 2 Insufficient memory."

    with pytest.raises(StartFailed, match=r"no node has room: 0/2 nodes.*Insufficient memory"):
        await worker.bots.runner.start(worker.bots.executable(FOREVER))
    assert cluster.pods == {}


async def test_away_api_server_stops_no_bot(cluster: FakePods, worker: PodWorker) -> None:
    container = await worker.bots.runner.start(worker.bots.executable(FOREVER, run_id="r1"))
    await eventually(lambda: _printed(worker, container, "tick 2"))
    cluster.is_away = True
    before = len(await ticks(worker, container))
    await asyncio.sleep(9)
    cluster.is_away = False

    assert len(await ticks(worker, container)) > before + 40
    assert (await worker.bots.list())[0].state is ContainerState.RUNNING


async def _printed(worker: PodWorker, container: ManagedContainer, text: str) -> bool:
    return text in await output(worker, container)


def _processes(container: object) -> list[str]:
    return [" ".join(row) for row in container.top()["Processes"]]  # type: ignore[attr-defined]
