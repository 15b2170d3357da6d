"""The runner on a real engine: starts, runs, stops, and what is left afterwards."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from libs.core.room import MIB
from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, Label
from libs.docker_runner.containers.failure import Failure, FailureReason
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.engine.client import Engine as EngineClient
from libs.docker_runner.engine.events import ContainerEvent
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.executable import Entrypoint, Limits, Network
from libs.docker_runner.usage.sampler import UsageCollector, UsageSampler
from libs.docker_runner.usage.stats import Stats
from tests.support.eventually import eventually
from tests.support.rigs.bot_containers import BotContainers, bot_containers, watched
from tools.engine.ensure import Engine


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine) -> AsyncIterator[BotContainers]:
    # Nothing here has to do with networks, and without one a start is quicker.
    async with bot_containers(tmp_path, scope, docker_engine.url, network=Network.NONE) as bots:
        yield bots


FOREVER = "import time\ndef main(id, config):\n    print('up')\n    while True: time.sleep(1)"
STUBBORN = "import signal\nsignal.signal(15, signal.SIG_IGN)\n" + FOREVER
NODE = "exports.main = async (id, config) => { console.log('hi'); return { a: config.x + 1 } }"


async def output(bots: BotContainers, container: object) -> str:
    pieces = [piece.data async for piece in bots.runner.logs(container)]  # type: ignore[arg-type]
    return b"".join(pieces).decode()


async def test_a_python_run_has_its_result_output_and_use(bots: BotContainers) -> None:
    source = "def main(id, config):\n    print('hi')\n    return {'a': config['x'] + 1}"
    outcome, text = await bots.run(source, config={"x": 1}, run_id="r1")
    assert outcome.succeeded
    assert outcome.result == {"a": 2}
    assert text == 'hi\n{"a": 2}\n'
    assert outcome.ended.exit_code == 0
    assert outcome.ended.reason is EndReason.FINISHED
    assert outcome.ended.peak_memory_bytes is not None
    assert MIB < outcome.ended.peak_memory_bytes < 512 * MIB
    assert outcome.ended.cpu_seconds is not None
    assert 0 < outcome.ended.cpu_seconds < 10
    assert outcome.ended.duration_seconds is not None
    assert list(outcome.ended.last_lines) == ["hi", '{"a": 2}']


async def test_a_node_run_has_its_result_output_and_use(bots: BotContainers) -> None:
    outcome, text = await bots.run(NODE, runtime="nodejs20", config={"x": 1}, entrypoint=Entrypoint.BACKTEST)
    assert (outcome.result, outcome.result_error) == ({"a": 2}, None)
    assert text == 'hi\n{"a":2}\n'
    assert outcome.ended.peak_memory_bytes is not None


async def test_a_run_leaves_nothing(bots: BotContainers) -> None:
    outcome, _ = await bots.run("def main(id, config): return 1")
    assert await bots.list() == []
    assert bots.code.held == {}
    assert [path for path in (bots.settings.temp_dir / "runs").rglob("*") if path.is_file()] == []
    assert not outcome.output_path.exists()


@pytest.mark.parametrize("runtime", ["python3.11", "nodejs20"])
async def test_a_run_that_takes_too_long_is_killed(bots: BotContainers, runtime: str) -> None:
    source = {
        "python3.11": "import time\ndef main(id, config):\n print('up')\n time.sleep(60)",
        "nodejs20": "exports.main = () => { console.log('up'); return new Promise((r) => setTimeout(r, 60000)) }",
    }[runtime]
    # On a busy machine it has not begun after two seconds.
    for timeout_seconds in (2.0, 10.0, 50.0):
        outcome, text = await bots.run(source, runtime=runtime, timeout_seconds=timeout_seconds)
        assert outcome.ended.reason is EndReason.TIMEOUT
        assert outcome.result_error == f"timed out after {timeout_seconds:g} s"
        assert await bots.list() == []
        if text and outcome.ended.cpu_seconds is not None:
            break
    assert text == "up\n"
    assert outcome.ended.cpu_seconds is not None


async def test_cancelling_a_run_kills_and_removes_it(bots: BotContainers) -> None:
    seen = asyncio.Event()
    running = asyncio.create_task(bots.outcome(bots.executable(FOREVER), 60.0, on_output=lambda piece: seen.set()))
    await asyncio.wait_for(seen.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await bots.list() == []
    assert list((bots.settings.temp_dir / "outputs").rglob("*.log")) == []


async def test_a_raised_error_is_the_result_error(bots: BotContainers) -> None:
    outcome, text = await bots.run("def main(id, config): raise ValueError('no money')")
    assert (outcome.ended.reason, outcome.ended.exit_code) == (EndReason.ERROR, 1)
    assert outcome.failure == Failure(FailureReason.EXCEPTION, "no money", "ValueError")
    assert "Traceback" in text


async def test_ten_megabytes_of_output_are_all_there(bots: BotContainers) -> None:
    # Docker discards what it has not stored two seconds after a container's end, up to 1 MB on a busy machine.
    outcome, text = await bots.run(
        "import time\ndef main(id, config):\n for i in range(10): print('x' * (1 << 20))\n time.sleep(4)\n return 1"
    )
    assert outcome.succeeded
    assert len(text) == 10 * ((1 << 20) + 1) + 2


async def test_starting_twice_gives_the_container_that_runs(bots: BotContainers) -> None:
    executable = bots.executable(FOREVER)
    first, second = await asyncio.gather(bots.runner.start(executable), bots.runner.start(executable))
    assert first.container_id == second.container_id
    assert [one.container_id for one in await bots.list()] == [first.container_id]
    assert len(bots.code.held) == 1


async def test_a_dead_container_of_the_same_name_is_replaced(bots: BotContainers) -> None:
    executable = bots.executable("def main(id, config): return 1")
    first = await bots.runner.start(executable)
    await eventually(lambda: exited(bots))
    second = await bots.runner.start(executable)
    assert second.container_id != first.container_id
    assert [one.container_id for one in await bots.list()] == [second.container_id]


async def exited(bots: BotContainers) -> bool:
    return [one.state for one in await bots.list()] == [ContainerState.EXITED]


async def test_stopping_lets_the_bot_clean_up(bots: BotContainers) -> None:
    source = "import time\ndef main(id, config):\n try:\n  print('up')\n  time.sleep(60)\n finally: print('closed')"
    container = await bots.runner.start(bots.executable(source))
    await eventually(lambda: output(bots, container))
    ended = await bots.runner.stop(container, 60)
    assert (ended.reason, ended.exit_code) == (EndReason.STOPPED, 143)
    assert await output(bots, container) == "up\nclosed\n"
    assert (await bots.runner.remove(container)).reason is EndReason.STOPPED
    assert await bots.list() == []


async def test_one_that_is_stopped_as_soon_as_it_is_started_is_asked_to_end_all_the_same(bots: BotContainers) -> None:
    async def stopped(number: int) -> Ended:
        return await bots.runner.stop(await bots.runner.start(bots.executable(FOREVER, f"b{number}")), 120)

    for round_of_five in range(3):
        ended = await asyncio.gather(*(stopped(5 * round_of_five + number) for number in range(5)))
        assert [end.exit_code for end in ended] == [143] * 5
        assert all(end.reason is EndReason.STOPPED for end in ended)


async def test_a_bot_that_ignores_sigterm_dies_after_the_grace(bots: BotContainers) -> None:
    container = await bots.runner.start(bots.executable(STUBBORN))
    await eventually(lambda: output(bots, container))
    ended = await bots.runner.stop(container, 1)
    assert (ended.reason, ended.exit_code) == (EndReason.STOPPED, 137)


async def test_many_stop_at_once(bots: BotContainers) -> None:
    containers = await asyncio.gather(*(bots.runner.start(bots.executable(STUBBORN, f"b{n}")) for n in range(8)))
    for container in containers:
        await eventually(partial(output, bots, container))
    started = time.monotonic()
    ended = await asyncio.gather(*(bots.runner.stop(container, 2) for container in containers))
    assert {(one.reason, one.exit_code) for one in ended} == {(EndReason.STOPPED, 137)}
    # Each takes its grace: one after the other they would need this long on any machine.
    assert time.monotonic() - started < 8 * 2


async def test_container_that_was_removed_by_others_is_missing(bots: BotContainers) -> None:
    container = await bots.runner.start(bots.executable(FOREVER))
    await bots.runner.remove(container)
    assert (await bots.runner.remove(container)).reason in (EndReason.MISSING, EndReason.STOPPED)
    assert (await bots.runner.stop(container)).exit_code is None


@pytest.mark.parametrize("identity", ["../x", "a/b", "sp ace 😀", "i" * 300, "a\0b", "$(id)'\"\n", "=,;"])
async def test_any_id_runs_and_is_on_the_label(bots: BotContainers, identity: str) -> None:
    container = await bots.runner.start(bots.executable(FOREVER, identity))
    assert [one.id for one in await bots.list()] == [identity]
    assert (await bots.runner.remove(container)).reason is EndReason.STOPPED


async def test_events_are_delivered_at_once(bots: BotContainers) -> None:
    def shown(event: ContainerEvent) -> str:
        return f"{event.kind}:{event.id}:{event.segment}:{event.exit_code}"

    async with watched(bots) as events:
        assert [shown(event) for event in events] == ["resync::-1:None"]
        await bots.run("import sys\ndef main(id, config): sys.exit(3)")
        await eventually(lambda: len(events) == 4)
    assert [shown(event) for event in events[1:]] == ["started:b1:1:None", "died:b1:1:3", "removed:b1:1:None"]


async def test_exit_info_of_running_bot_is_none_and_leaves_it_running(bots: BotContainers) -> None:
    container = await bots.runner.start(bots.executable(FOREVER))

    assert await bots.runner.exit_info(container) is None

    found = await bots.runner.inspect(container)
    assert found is not None
    assert found.state is ContainerState.RUNNING


async def test_exit_info_of_ended_bot_is_its_end_until_it_is_removed(bots: BotContainers) -> None:
    container = await bots.runner.start(bots.executable("import sys\ndef main(id, config): sys.exit(3)"))
    ended = await eventually(lambda: bots.runner.exit_info(container))
    again = await bots.runner.exit_info(container)
    await bots.runner.remove(container)
    removed = await bots.runner.exit_info(container)

    assert ended is not None
    assert (ended.reason, ended.exit_code) == (EndReason.ERROR, 3)
    assert again == ended
    assert removed is not None
    assert removed.reason is EndReason.MISSING


async def test_exit_info_of_container_that_was_never_started_makes_its_start_fail(
    bots: BotContainers, docker_engine: Engine
) -> None:
    engine = EngineClient(docker_engine.url)
    image = bots.settings.images["python3.11"]
    labels = {Label.MANAGED: "true", Label.SERVICE: "bot-runner", Label.SCOPE: bots.scope, Label.ID: "unstarted"}
    made = await engine.create(f"unstarted-{bots.scope}", {"Image": image, "Cmd": ["true"], "Labels": labels})
    try:
        [unstarted] = [one for one in await bots.list() if one.container_id == made]
        assert unstarted.state is ContainerState.CREATED

        assert await bots.runner.exit_info(unstarted) is not None

        with pytest.raises(EngineRefused):
            await engine.start(made)
    finally:
        await engine.remove(made)
        await engine.close()


async def test_hog_is_killed_for_its_memory_and_recorded_as_such(bots: BotContainers) -> None:
    limits = Limits(memory_bytes=64 * MIB, tmp_bytes=16 * MIB)
    outcome, _ = await bots.run("def main(id, config):\n x = []\n while 1: x.append(bytearray(1 << 20))", limits=limits)
    assert (outcome.ended.reason, outcome.ended.oom_killed) == (EndReason.OOM, True)
    assert outcome.result_error == (
        "out of memory: it used more than its 64 MiB; raise config.resources.memoryMb or MEMORY_LIMIT_MB"
    )


async def test_statistics_of_a_running_bot(bots: BotContainers) -> None:
    container = await bots.runner.start(bots.executable(FOREVER))

    async def begun() -> Stats | None:
        stats = await bots.runner.stats(container)
        return stats if stats is not None and stats.memory_bytes > 0 and stats.cpu_seconds > 0 else None

    stats = await eventually(begun)
    assert stats is not None
    assert stats.memory_bytes < stats.memory_limit_bytes == 512 * MIB
    await bots.runner.remove(container)
    assert await bots.runner.stats(container) is None


@pytest.mark.parametrize("runtime", ["python3.11", "nodejs20"])
async def test_a_bots_own_notes_save_asking_the_engine(bots: BotContainers, runtime: str) -> None:
    source = {"python3.11": FOREVER, "nodejs20": "exports.main = () => new Promise((r) => setTimeout(r, 60000))"}[
        runtime
    ]
    container = await bots.runner.start(bots.executable(source, runtime=runtime))
    folders = RunFolders(bots.settings.temp_dir)
    noted = await eventually(lambda: folders.read_stats(container))
    assert noted is not None
    assert 0 < noted.memory_bytes < noted.memory_limit_bytes == 512 * MIB
    assert noted.pids >= 3
    assert noted.network_sent_bytes >= 0


async def test_what_bots_use_is_added_up_from_their_notes_and_their_ends(bots: BotContainers) -> None:
    registry = CollectorRegistry()
    registry.register(UsageCollector(bots.runner))
    sampler = UsageSampler(bots.runner, service="bot-runner", scope=bots.scope, owns=lambda segment: segment == 1)
    container = await bots.runner.start(bots.executable(FOREVER))
    await bots.runner.start(bots.executable(FOREVER, "not-ours", segment=2))

    async def sampled() -> float:
        await sampler.sample_once()
        return registry.get_sample_value("runtime_containers_memory_bytes") or 0

    assert await eventually(sampled, within_seconds=60) < 512 * MIB
    assert registry.get_sample_value("runtime_containers_memory_limit_bytes") == 512 * MIB
    ended = await bots.runner.remove(container)
    assert registry.get_sample_value("runtime_containers_cpu_seconds_total") == pytest.approx(ended.cpu_seconds)
    assert registry.get_sample_value("runtime_containers_memory_bytes") == 0


async def test_of_bots_that_can_note_nothing_the_engine_is_asked_once_a_minute(bots: BotContainers) -> None:
    now = [0.0]
    sampler = UsageSampler(
        bots.runner, service="bot-runner", scope=bots.scope, owns=lambda _: True, clock=lambda: now[0]
    )
    container = await bots.runner.start(bots.executable(FOREVER))
    # As in a sandbox whose kernel shows no control groups.
    (notes,) = (bots.settings.temp_dir / "runs").rglob("outcome")
    notes.unlink()
    seen = []
    for now[0] in (0.0, 10.0, 20.0, 70.0):
        await sampler.sample_once()
        seen += [usage.stats.cpu_seconds for usage in bots.runner.usage.latest]

    # Nothing at first, then an answer that stands until the next one.
    assert len(seen) == 3
    assert seen[0] == seen[1] > 0
    assert seen[2] > 0
    await bots.runner.remove(container)


async def test_a_killed_bot_has_its_last_note_on_record(bots: BotContainers) -> None:
    container = await bots.runner.start(bots.executable(FOREVER))
    folders = RunFolders(bots.settings.temp_dir)
    await eventually(lambda: folders.read_stats(container))
    ended = await bots.runner.stop(container, 0)
    assert ended.cpu_seconds is not None
    assert ended.peak_memory_bytes is not None


async def test_result_over_the_limit_is_reported_as_such(bots: BotContainers) -> None:
    outcome, _ = await bots.run("def main(id, config): return 'x' * 5000", limits=Limits(result_bytes=1000))
    assert outcome.result is None
    assert outcome.result_error == "main returned more than 1000 bytes of JSON"
    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.RESULT_TOO_LARGE
