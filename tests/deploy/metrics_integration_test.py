"""deploy/METRICS.md says what real processes show, and the metrics obey their rules."""

import asyncio
import functools
import re
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from libs.core.process.service import SERVICES
from tests.deploy.metrics_declared import Where, declared
from tests.deploy.metrics_of_module import ShownMetric
from tests.deploy.metrics_table import LABELS, everything, in_document, tables
from tests.support.eventually import eventually
from tests.support.servers.idle_engine import idle_engine
from tools.dev.http import get_json
from tools.dev.service import ServiceProcess
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer
from tools.stack.ports import free_port
from tools.stack.s3 import S3Server

pytestmark = pytest.mark.timeout(300)

NOT_BASE_UNITS = {"milliseconds", "ms", "microseconds", "us", "minutes", "hours", "days", "kb", "mb", "mib", "percent"}
PER_BOT = re.compile(r"runtime_bot_(up|restarts_total|cpu_seconds_total|memory_bytes)")
OF_BOTS = re.compile(f"{PER_BOT.pattern}|runtime_bot_value")
PLAIN = ("bot-runner", "worker-without-single-bots")
TALKS_TO = {
    "master": {"mongodb", "grpc", "http", "master"},
    "worker": {"mongodb", "nats", "grpc", "http", "storage", "docker", "containers"},
}
# Of a machine that has nothing else to do, by ten; this one may have.
SCRAPE_SECONDS = 0.2


class Shown(NamedTuple):
    """What one process answered on /metrics: our metrics by name with their type, all label sets, and how fast."""

    kinds: dict[str, str]
    labels: dict[str, set[frozenset[tuple[str, str]]]]
    seconds: float

    @property
    def systems(self) -> set[str]:
        """Those that it has talked to."""
        operations = self.labels.get("runtime_operation_seconds", set())
        return {value for labels in operations for name, value in labels if name == "system"}


def metrics() -> list[ShownMetric]:
    return [metric for metric, _ in everything().values()]


def test_tables_of_metrics_equal_their_declarations() -> None:
    assert in_document() == tables(), "python -m tests.deploy.metrics_table writes them anew"


def test_a_metrics_name_is_a_noun_and_a_base_unit() -> None:
    names = [metric.name for metric in metrics()]

    assert [name for name in names if not re.fullmatch(r"runtime(_[a-z]+)+", name)] == []
    assert [name for name in names if set(name.split("_")) & NOT_BASE_UNITS] == []
    assert [m for m in metrics() if m.name.endswith("_total") != (m.kind == "counter")] == []
    assert [m for m in metrics() if m.kind == "histogram" and not m.name.endswith("_seconds")] == []


def test_description_of_each_metric_is_a_sentence() -> None:
    assert [metric for metric in metrics() if not re.fullmatch(r"[A-Z][^|\n]+\.", metric.meaning)] == []


def test_each_label_has_a_documented_bound() -> None:
    labels = {label for metric in metrics() for label in metric.labels}

    assert labels == LABELS.keys(), "say in LABELS which values it has, and why they are few"
    # Prometheus gives these two to each target, and would rename ours.
    assert not {"service", "role"} & labels
    assert [m for m in metrics() if ("id" in m.labels) != (PER_BOT.fullmatch(m.name) is not None)] == []


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shown(
    tmp_path_factory: pytest.TempPathFactory, mongod: MongoServer, nats_server: NatsServer, s3_server: S3Server
) -> AsyncIterator[dict[Where, Shown]]:
    """What a master and a worker of each service show once they know each other; all of it, also of single bots."""
    folder = tmp_path_factory.mktemp("metrics")
    async with AsyncExitStack() as stack:
        settings = {
            "MONGO_URI": mongod.uri,
            "NATS_URL": nats_server.url,
            "MINIO_ENDPOINT": s3_server.endpoint,
            "MINIO_ACCESS_KEY_ID": s3_server.access_key,
            "MINIO_SECRET_ACCESS_KEY": s3_server.secret_key,
            "DOCKER_HOST": await stack.enter_async_context(idle_engine(folder / "engine.sock")),
            "TEMP_DIR": str(folder / "temp"),
            "MASTER_HOST": "127.0.0.1",
            "HTTP_HOST": "127.0.0.1",
        }
        ports = {service.name: str(free_port()) for service in SERVICES}
        processes = {}
        for service, role in (*declared(), PLAIN):
            name = f"{service}-{role}"
            of_bots = str((service, role) != PLAIN)
            more = {"GRPC_PORT": ports[service], "METRICS_PER_BOT": of_bots, "METRICS_BOT_VALUES": of_bots}
            process = ServiceProcess(
                name,
                [service, role.partition("-")[0], "--worker-id", name, "--mode", "standalone"],
                settings | more,
                http_port=free_port(),
                log_path=folder / f"{name}.log",
                tethered=True,
            )
            process.launch()
            stack.push_async_callback(process.process.kill)
            processes[service, role] = process
        for process in processes.values():
            await eventually(functools.partial(knows_the_other, process), within_seconds=120)
        for (_, role), process in processes.items():
            with suppress(AssertionError):  # that it never did; a test tells which
                await eventually(functools.partial(talks_to_all, role, process))
        yield {where: await quickest_scrape(process) for where, process in processes.items()}


async def knows_the_other(process: ServiceProcess) -> bool:
    answer = await get_json(process.http_port, "/api/v1/status")
    status = answer[1] if answer is not None and answer[0] == 200 else {}
    return bool(status.get("master_id") if "running" in status else status.get("workers"))


async def talks_to_all(role: str, process: ServiceProcess) -> bool:
    """Whether it has talked to every system by now, each of which it does in its own time."""
    return TALKS_TO[role.partition("-")[0]] <= (await asyncio.to_thread(scrape, process)).systems


async def quickest_scrape(process: ServiceProcess) -> Shown:
    """One that nothing else on the machine held up: what is slow by itself is slow each time."""
    shown = await asyncio.to_thread(scrape, process)
    for _ in range(30):
        if shown.seconds < SCRAPE_SECONDS:
            break
        shown = await asyncio.to_thread(scrape, process)
    return shown


def scrape(process: ServiceProcess) -> Shown:
    begun = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{process.http_port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    seconds = time.perf_counter() - begun
    kinds = dict(re.findall(r"^# TYPE (runtime_\w+) (\w+)$", text, re.MULTILINE))
    labels: dict[str, set[frozenset[tuple[str, str]]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("runtime_"):
                name = re.sub(r"_(bucket|count|sum)$", "", sample.name)
                labels.setdefault(name, set()).add(frozenset(sample.labels.items()))
    return Shown(kinds, labels, seconds)


async def test_real_processes_export_exactly_the_metrics_of_the_table(shown: dict[Where, Shown]) -> None:
    kinds = {"info": "gauge"}
    promised = {
        where: {metric.name: kinds.get(metric.kind, metric.kind) for metric in found}
        for where, found in declared().items()
    }
    promised[PLAIN] = {
        name: kind for name, kind in promised["bot-runner", "worker"].items() if not OF_BOTS.fullmatch(name)
    }

    assert {where: found.kinds for where, found in shown.items()} == promised


async def test_real_processes_export_only_labels_of_the_table(shown: dict[Where, Shown]) -> None:
    allowed = {metric.name: {*metric.labels, "le"} for metric in metrics()}
    allowed["runtime_process_info"] = {"service", "role", "version"}

    beyond = {
        (where, name): names
        for where, found in shown.items()
        for name, label_sets in found.labels.items()
        if (names := {label for labels in label_sets for label, _ in labels} - allowed[name])
    }
    assert beyond == {}


async def test_each_process_measures_each_system_that_it_uses(shown: dict[Where, Shown]) -> None:
    for (service, role), found in shown.items():
        assert TALKS_TO[role.partition("-")[0]] <= found.systems, (service, role)


async def test_a_scrape_takes_milliseconds(shown: dict[Where, Shown]) -> None:
    assert {where: found.seconds for where, found in shown.items() if found.seconds >= SCRAPE_SECONDS} == {}
