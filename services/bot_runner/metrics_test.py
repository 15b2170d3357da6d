from collections.abc import Collection
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest

from libs.docker_runner.containers.container import ContainerState, Label, from_labels
from libs.docker_runner.usage.stats import Stats
from libs.docker_runner.usage.totals import Usage, UsageTally
from services.bot_runner.metrics import BotsCollector
from services.bot_runner.restarts import RestartHistory
from services.bot_runner.status import BotState, BotStatus, utc_now


@dataclass
class Segment:
    statuses: Collection[BotStatus]


def status(bot_id: str, state: BotState, restarts: int = 0) -> BotStatus:
    return BotStatus(bot_id, state, utc_now(), history=RestartHistory(restarts=restarts))


def test_each_bot_has_its_own_series() -> None:
    usage = UsageTally()
    container = from_labels({Label.ID: "a"}, container_id="c", name="n", state=ContainerState.RUNNING)
    usage.sampled({"c": Usage(container, Stats(100, 1000, 7.5, 1, 0, 0))}, ["c"])
    segments = [Segment([status("a", BotState.RUNNING, 3)]), Segment([status("b", BotState.BACKING_OFF, 9)])]
    registry = CollectorRegistry()
    registry.register(BotsCollector(lambda: segments, usage))

    values = {
        (name, bot): registry.get_sample_value(f"runtime_bot_{name}", {"id": bot})
        for name in ("up", "restarts_total", "cpu_seconds_total", "memory_bytes")
        for bot in ("a", "b")
    }

    assert values == {
        ("up", "a"): 1,
        ("up", "b"): 0,
        ("restarts_total", "a"): 3,
        ("restarts_total", "b"): 9,
        ("cpu_seconds_total", "a"): 7.5,
        ("cpu_seconds_total", "b"): None,
        ("memory_bytes", "a"): 100,
        ("memory_bytes", "b"): None,
    }


def test_a_hostile_id_stays_within_its_quotes() -> None:
    registry = CollectorRegistry()
    hostile = 'x"} 1\nruntime_bot_up{id="y'
    registry.register(BotsCollector(lambda: [Segment([status(hostile, BotState.RUNNING)])], UsageTally()))

    text = generate_latest(registry).decode()

    assert 'runtime_bot_up{id="x\\"} 1\\nruntime_bot_up{id=\\"y"} 1.0\n' in text


def test_without_a_segment_there_is_no_bot() -> None:
    registry = CollectorRegistry()
    registry.register(BotsCollector(list, UsageTally()))

    assert registry.get_sample_value("runtime_bot_up", {"id": "a"}) is None
