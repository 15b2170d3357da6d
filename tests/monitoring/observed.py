"""All three services under a small load, and a Prometheus that reads them as Compose's does."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER, ServiceDefinition
from tests.monitoring.rules import FOLDER as RULES
from tests.monitoring.rules import ROOT
from tests.support.eventually import eventually
from tests.support.rigs.backtests import Backtests
from tests.support.rigs.deployment import Deployment, deployment
from tests.support.rigs.platform import zipped
from tests.support.servers.prometheus import PrometheusServer
from tools.bots.load import BOT, Kind, Load
from tools.engine.ensure import Engine

SCRAPE_SECONDS = 1
_WITHIN_SECONDS = 150
_OF_EACH_BOT = {"METRICS_PER_BOT": "true", "METRICS_BOT_VALUES": "true"}

_UNDER_LOAD = (
    'count(up{job="the0"} == 1) == 6',
    # Two scrapes at least since the first value, so that there is a rate.
    "min(count_over_time(runtime_bot_memory_bytes[1m])) > 2",
    "min(count_over_time(runtime_bot_value[1m])) > 2",
    "sum(runtime_containers_memory_limit_bytes) > 0",
    'sum(count_over_time(runtime_backtest_runs_total{reason="finished"}[1m])) > 2',
    'sum(count_over_time(runtime_schedule_runs_total{reason="finished"}[1m])) > 2',
    "sum(count_over_time(runtime_restarts_total[1m])) > 2",
    "sum(count_over_time(runtime_events_published_total[1m])) > 2",
    "sum(count_over_time(runtime_autoscaler_looks_total[1m])) > 2",
    "count(the0:operation_errors:ratio5m) > 3",
)
"""What Prometheus must have seen before it is asked the rest."""


@dataclass(frozen=True)
class Observed:
    """What is observed. *bot* is the id of one that goes on running."""

    prometheus: PrometheusServer
    bot: str


@asynccontextmanager
async def observed(folder: Path, engine: Engine) -> AsyncIterator[Observed]:
    """A master and a worker of each service; two bots and two backtests, of which one ends at once; a schedule."""
    async with AsyncExitStack() as stack:
        bots = await stack.enter_async_context(
            deployment(folder / "bot-runner", engine, service=BOT_RUNNER, settings=_OF_EACH_BOT)
        )
        backtests, schedules = _beside(bots, BACKTEST_RUNNER), _beside(bots, BOT_SCHEDULER)
        for made in (backtests, schedules):
            stack.push_async_callback(made.close)
        for made in (bots, backtests, schedules):
            # So that its autoscaler runs. There is no cluster, as in Compose.
            made.start_process("master", "master", mode="cluster", MASTER_SERVICE="127.0.0.1")
            made.start_process("worker", "worker")
        prometheus = await stack.enter_async_context(
            PrometheusServer.reading(folder / "prometheus", _config([bots, backtests, schedules]))
        )
        for made in (bots, backtests, schedules):
            for process in made.processes.values():
                await process.wait_ready()
        bot = await _load(bots, backtests, schedules)
        for expression in _UNDER_LOAD:
            await eventually(partial(prometheus.query, expression), _WITHIN_SECONDS, every_seconds=0.5)
        yield Observed(prometheus, bot)


def _beside(bots: Deployment, service: ServiceDefinition) -> Deployment:
    """Another service over the same servers."""
    return Deployment(
        service,
        bots.folder.parent / service.name,
        bots.mongod,
        bots.nats_server,
        bots.s3_server,
        bots.engine,
        bots.platform,
        bots.mongo,
    )


def _config(deployments: list[Deployment]) -> dict[str, Any]:
    """Compose's configuration, with addresses on this machine in place of those that Docker's DNS would tell."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}
    config["rule_files"] = [f"{RULES}/*.yml"]
    job, *_ = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [
        {
            "targets": [f"127.0.0.1:{process.http_port}"],
            "labels": {"__meta_dns_name": f"{made.service.name}-{role}"},
        }
        for made in deployments
        for role, process in made.processes.items()
    ]
    config["scrape_configs"] = [job]
    return config


async def _load(bots: Deployment, backtests: Deployment, schedules: Deployment) -> str:
    """Announce the load generator's bot to all three services; the id of the bot that goes on running."""
    files = {path.name: path.read_bytes() for path in BOT.iterdir() if path.is_file()}
    bots.platform.upload("load.zip", zipped(files))
    metric = b"""print('{"_metric": "lines", "value": %d}' % lines, flush=True)"""
    files["main.py"] = files["main.py"].replace(b"lines += 1", b"lines += 1; " + metric)
    bots.platform.upload("printing.zip", zipped(files))
    lasting = Load(Kind.BOTS, "small", count=1, per_second=1, hold_seconds=0)
    brief = {"run_seconds": 0, "interval_seconds": 0.1}
    await bots.platform.create_bot(lasting.id_of(0), lasting.config(), key="printing.zip")
    # One after the other, or each may get a segment of its own, and there is one worker.
    await eventually(partial(bots.document, lasting.id_of(0)), _WITHIN_SECONDS)
    await bots.platform.create_bot("brief", brief, key="load.zip")
    announced = Backtests(backtests)
    await announced.create("lasting", lasting.config(), key="load.zip")
    await eventually(partial(backtests.document, "lasting"), _WITHIN_SECONDS)
    await announced.create("brief", brief, key="load.zip")
    schedule = schedules.platform.payload("schedule", {**brief, "schedule": "*/2 * * * * *"}, key="load.zip")
    await schedules.platform.publish("the0.bot-schedule.created", schedule)
    return lasting.id_of(0)
