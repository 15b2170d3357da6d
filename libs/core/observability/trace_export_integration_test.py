"""What a process sends to a collector, and that one which is away is none of its business."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.servers.trace_collector import trace_collector
from tools.dev.http import get_json
from tools.dev.service import ServiceProcess
from tools.stack.mongod import MongoServer
from tools.stack.ports import free_port


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MongoServer]:
    """A separate one, since a master's database has a fixed name."""
    async with MongoServer.start(tmp_path_factory.mktemp("mongod")) as made:
        yield made


def master(folder: Path, server: MongoServer, **settings: str) -> ServiceProcess:
    own = {"HTTP_HOST": "127.0.0.1", "GRPC_PORT": str(free_port()), "LOG_FORMAT": "json"}
    settings = {"MONGO_URI": server.uri, **own, **settings}
    process = ServiceProcess(
        "master",
        ["bot-runner", "master", "--mode", "standalone"],
        settings,
        http_port=free_port(),
        log_path=folder / "master.log",
        tethered=True,
    )
    process.launch()
    return process


def lines(process: ServiceProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.process.log_path.read_text().splitlines()]


async def test_waiting_spans_are_sent_at_exit_with_their_resource(tmp_path: Path, server: MongoServer) -> None:
    settings = {
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=tests,runtime.role=chief",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
    }
    async with trace_collector() as collector:
        process = master(tmp_path, server, **{**collector.settings, **settings})
        await process.wait_ready()
        await get_json(process.http_port, "/api/v1/status")
        await process.process.stop(grace_seconds=60)

        assert process.process.exit_code == 0
        spans = {span.name: span for span in collector.spans}
        assert "GET /api/v1/status" in spans
        resource = spans["GET /api/v1/status"].resource
        assert resource["service.name"] == "bot-runner"
        assert (resource["deployment.environment"], resource["runtime.role"]) == ("tests", "chief")
        assert [name for name in spans if "readyz" in name] == []
        assert [span for span in collector.spans if span.kind == "CLIENT" and not span.parent_id] == []


async def test_missing_collector_logs_one_line_and_does_not_delay_exit(tmp_path: Path, server: MongoServer) -> None:
    process = master(
        tmp_path,
        server,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        OTEL_BSP_SCHEDULE_DELAY="100",
    )
    await process.wait_ready()

    def complaints() -> list[dict[str, Any]]:
        return [line for line in lines(process) if "traces" in line["event"] or "telemetry" in line["logger"]]

    async def asked_in_vain() -> bool:
        await get_json(process.http_port, "/api/v1/status")
        return bool(complaints())

    await eventually(asked_in_vain)
    await get_json(process.http_port, "/api/v1/status")
    await process.process.stop(grace_seconds=60)

    assert process.process.exit_code == 0
    assert [line["event"] for line in complaints()] == ["traces cannot be exported; spans are lost"]
    assert "UNAVAILABLE" in complaints()[0]["reason"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "OTEL_EXPORTER_OTLP_PROTOCOL='http/protobuf' is not support"),
        ("OTEL_PROPAGATORS", "pigeons", "traces cannot be exported: Propagator pigeons not found"),
    ],
)
async def test_invalid_variable_fails_before_start(
    tmp_path: Path, server: MongoServer, variable: str, value: str, words: str
) -> None:
    process = master(tmp_path, server, OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318", **{variable: value})

    assert await process.process.wait(60) == 2
    assert words in process.process.log_path.read_text()
