"""One trace for one event, over every process that had to do with it, into the container and out to the result."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from libs.core.process.service import BACKTEST_RUNNER, BOT_SCHEDULER
from tests.support.eventually import eventually
from tests.support.rigs.backtests import Backtests, listening
from tests.support.rigs.deployment import PATIENT, Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.trace_collector import SeenSpan, TraceCollector, trace_collector
from tools.engine.ensure import Engine

PRODUCER = "00f067aa0ba902b7"
SECRET = "k3y-of-an-account"
OUTPUT = "pr1nted-by-the-code"
CODE = f"""
import os, time

def main(id, config):
    print({OUTPUT!r}, flush=True)
    print("TRACEPARENT=" + os.environ.get("TRACEPARENT", ""), flush=True)
    while config.get("forever"):
        time.sleep(0.1)
    return {{"metrics": {{"traceparent": os.environ.get("TRACEPARENT", "")}}}}
"""


def headers_of(trace_id: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{PRODUCER}-01", "tracestate": "vendor=abc"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def collector() -> AsyncIterator[TraceCollector]:
    async with trace_collector() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def backtests(
    tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine, collector: TraceCollector
) -> AsyncIterator[Backtests]:
    folder = tmp_path_factory.mktemp("traced-backtests")
    async with (
        deployment(folder, docker_engine, service=BACKTEST_RUNNER, settings={**PATIENT, **collector.settings}) as made,
        listening(made) as found,
    ):
        await made.start(workers=1)
        found.upload("main.zip", CODE)
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bots(
    tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine, collector: TraceCollector
) -> AsyncIterator[Deployment]:
    folder = tmp_path_factory.mktemp("traced-bots")
    # So that the first round after the event is the one that the event wakes.
    settings = {**PATIENT, **collector.settings, "ASSIGN_INTERVAL_SECONDS": "60", "SETTLE_SECONDS": "0"}
    async with deployment(folder, docker_engine, settings=settings) as made:
        await made.start(workers=1)
        made.platform.upload("main.zip", zipped({"main.py": CODE}))
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def schedules(
    tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine, collector: TraceCollector
) -> AsyncIterator[Deployment]:
    folder = tmp_path_factory.mktemp("traced-schedules")
    async with deployment(
        folder, docker_engine, service=BOT_SCHEDULER, settings={**PATIENT, **collector.settings}
    ) as made:
        await made.start(workers=1)
        made.platform.upload("main.zip", zipped({"main.py": CODE}))
        yield made


async def test_a_backtests_trace_leads_from_the_producer_to_the_completion_event(
    backtests: Backtests, collector: TraceCollector
) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await backtests.create("traced", {"key": SECRET}, headers=headers_of(trace_id))

    event = await backtests.done("traced")

    assert event["success"] is True
    await eventually(lambda: collector.has(trace_id, "carry out backtest", "publish the0.backtest.completed"))
    received = [PRODUCER, "process the0.backtest.created"]
    owned = [*received, "carry out backtest"]
    assert collector.way_to(trace_id, "claim backtest") == [*owned, "claim backtest"]
    started = [*owned, "run backtest", "start container"]
    assert collector.way_to(trace_id, "fetch code") == [*started, "fetch code"]
    assert collector.way_to(trace_id, "create container") == [*started, "create container"]
    published = [*owned, "hand over backtest", "publish the0.backtest.completed"]
    assert collector.way_to(trace_id, published[-1]) == published
    assert backtests.headers["traced"]["traceparent"] == traceparent(collector, trace_id, published[-1])
    inside = backtests.analysis("traced")["metrics"]["traceparent"]
    assert inside == traceparent(collector, trace_id, "start container")
    run = await backtests.deployment.mongo[BACKTEST_RUNNER.database]["runs"].find_one({"entity_id": "traced"})
    assert run is not None
    assert run["trace_id"] == trace_id


async def test_a_bots_trace_leads_from_the_producer_over_the_assignment_into_its_container(
    bots: Deployment, collector: TraceCollector
) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    payload = bots.platform.payload("traced", {"key": SECRET, "forever": True}, key="main.zip")
    await bots.platform.publish("the0.bot.created", payload, headers_of(trace_id))

    container = await eventually(lambda: bots.running_with("traced", "TRACEPARENT"))

    # Each process sends its spans at its own times.
    of_master, of_worker = ["assign segments"], [
        "process the0.bot.created",
        "apply events",
        "acquire segment",
        "start bot",
    ]
    await eventually(lambda: collector.has(trace_id, *of_master, *of_worker))
    received = [PRODUCER, "process the0.bot.created"]
    started = [*received, "start bot", "start container"]
    assert collector.way_to(trace_id, "run container") == [*started, "run container"]
    assert f"TRACEPARENT={traceparent(collector, trace_id, 'start container')}" in bots.output(container)
    assigned = [*received, "apply events", "assign segments", "acquire segment"]
    assert collector.way_to(trace_id, "acquire segment") == assigned
    span = collector.named(trace_id, "start bot")
    assert span is not None
    assert span.attributes.items() >= {"runtime.id": "traced", "runtime.segment": 1}.items()
    assert span.resource.items() >= {"service.name": "bot-runner", "runtime.role": "worker"}.items()
    lines = [json.loads(line) for line in bots.processes["w1"].process.log_path.read_text().splitlines()]
    assert [line["trace_id"] for line in lines if line["event"] == "bot started"] == [trace_id]


async def test_a_worker_joins_its_master_in_one_trace(bots: Deployment, collector: TraceCollector) -> None:
    def registered() -> list[SeenSpan]:
        found = [span for span in collector.spans if span.name == "register worker"]
        return [span for span in found if span.resource["service.name"] == "bot-runner"]

    span, *_ = await eventually(registered)

    await eventually(lambda: collector.has(span.trace_id, "join master"))
    assert collector.way_to(span.trace_id, "register worker") == ["", "join master", "register worker"]
    assert span.attributes["runtime.worker"] == "w1"
    assert span.resource["runtime.role"] == "master"


async def test_each_firing_of_a_schedule_has_a_trace_of_its_own_that_is_linked_to_the_events(
    schedules: Deployment, collector: TraceCollector
) -> None:
    trace_id = "a3ce929d0e0e47364bf92f3577b34da6"
    payload = schedules.platform.payload("traced", {"key": SECRET, "schedule": "* * * * * *"}, key="main.zip")
    await schedules.platform.publish("the0.bot-schedule.created", payload, headers_of(trace_id))

    def firings() -> list[SeenSpan]:
        return [span for span in collector.spans if span.name == "fire schedule" and trace_id in span.links]

    await eventually(lambda: len(firings()) > 1)
    fired, another = firings()[:2]
    assert len({trace_id, fired.trace_id, another.trace_id}) == 3
    started = ["", "fire schedule", "run schedule", "start container"]
    assert collector.way_to(fired.trace_id, "start container") == started
    run = await schedules.mongo[BOT_SCHEDULER.database]["runs"].find_one({"trace_id": fired.trace_id})
    assert run is not None
    # 3 and not 1: a trace that begins here has a random id, which a producer need not promise.
    inside = traceparent(collector, fired.trace_id, "start container", flags=3)
    assert f"TRACEPARENT={inside}" in run["last_lines"]


async def test_spans_contain_no_config_and_no_output_and_every_call_has_a_parent(
    backtests: Backtests, bots: Deployment, schedules: Deployment, collector: TraceCollector
) -> None:
    await eventually(lambda: any(span.attributes.get("db.system") == "mongodb" for span in collector.spans))
    # Whatever waits is sent when a process ends.
    for deployed in (backtests.deployment, bots, schedules):
        for process in deployed.processes.values():
            await process.process.stop(grace_seconds=60)
            assert process.process.exit_code == 0

    assert b"start container" in collector.received
    assert SECRET.encode() not in collector.received
    assert OUTPUT.encode() not in collector.received
    assert bots.s3_server.secret_key.encode() not in collector.received
    assert [span for span in collector.spans if span.kind == "CLIENT" and not span.parent_id] == []
    assert [span for span in collector.spans if "readyz" in str(span.attributes)] == []


def traceparent(collector: TraceCollector, trace_id: str, name: str, flags: int = 1) -> str:
    span = collector.named(trace_id, name)
    assert span is not None
    return f"00-{trace_id}-{span.span_id}-{flags:02x}"
