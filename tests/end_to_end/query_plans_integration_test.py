"""Every query of real processes over a filled database, by the server's own profiler: none scans a collection.

Reading the whole of a small collection, or all segments of a service, is no scan: what is read is what is wanted.
"""

import functools
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

from libs.core.process.service import BOT_RUNNER, ServiceDefinition
from libs.core.run_record import RunRecord
from libs.core.store.runs import RunStore
from tests.support.eventually import eventually
from tests.support.rigs.platform import Platform, platform
from tests.support.servers.idle_engine import idle_engine
from tools.dev.http import get_json
from tools.dev.service import ServiceProcess
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer
from tools.stack.ports import free_port
from tools.stack.s3 import S3Server

pytestmark = pytest.mark.timeout(300)

ENTITIES, PER_SEGMENT, RUNS = 2000, 10, 3000
SECONDS = 120.0
# Read as a whole, because all of it is wanted.
WHOLE = ("partitions", "cordons", "holds", "outbox", "tombstones")
# What one answer may look at besides what it returns.
PAGE = 300
PATHS = (
    "/api/v1/summary",
    "/api/v1/entities",
    "/api/v1/entities?segment=3",
    "/api/v1/entities?prefix=e1",
    "/api/v1/entities/e5",
    "/api/v1/runs",
    "/api/v1/runs?failed=true",
    "/api/v1/runs?entity=e5",
    "/api/v1/audit",
    "/api/v1/audit?entity=e5",
)


class Query(NamedTuple):
    """One query as the profiler recorded it."""

    collection: str
    wanted: str
    plan: str
    examined: int
    returned: int

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Query":
        command = entry["command"]
        wanted: object = next((command[name] for name in ("filter", "q", "query", "pipeline") if name in command), {})
        found = (entry.get(name, 0) for name in ("nreturned", "nMatched", "ndeleted"))
        collection = entry["ns"].partition(".")[2]
        return cls(collection, repr(wanted), entry["planSummary"], entry.get("docsExamined", 0), max(found))

    @property
    def counts(self) -> bool:
        """Whether it counts for a service's status: one pass in the server over the entities, or over a day's runs."""
        return "'$group': {'_id': {'segment': '$segment_id'" in self.wanted or "{'_id': '$reason'" in self.wanted


@dataclass
class Observed:
    """The processes of a service, and the queries that they have made since all indexes were there."""

    service: ServiceDefinition
    queries: list[Query]

    def of(self, collection: str) -> list[Query]:
        return [query for query in self.queries if query.collection == collection]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=[BOT_RUNNER], ids=lambda service: service.name)
async def observed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    nats_server: NatsServer,
    s3_server: S3Server,
) -> AsyncIterator[Observed]:
    """A master and a worker whose database is full, after a look at each page and a change of each kind."""
    service: ServiceDefinition = request.param
    folder = tmp_path_factory.mktemp("plans")
    async with AsyncExitStack() as stack:
        mongod = await stack.enter_async_context(MongoServer.start(folder / "mongod"))
        mongo = await stack.enter_async_context(AsyncMongoClient[dict[str, Any]](mongod.uri))
        database = mongo[service.database]
        await fill(database, service)
        settings = {
            "MONGO_URI": mongod.uri,
            "NATS_URL": nats_server.url,
            "MINIO_ENDPOINT": s3_server.endpoint,
            "MINIO_ACCESS_KEY_ID": s3_server.access_key,
            "MINIO_SECRET_ACCESS_KEY": s3_server.secret_key,
            "DOCKER_HOST": await stack.enter_async_context(idle_engine(folder / "engine.sock")),
            "TEMP_DIR": str(folder / "temp"),
            "KEEPALIVE_DIR": str(folder / "keepalive"),
            "SPEC_DIR": str(folder / "specs"),
            # This engine has no image for the helpers that secure the network of bots.
            "BOT_NETWORK": "none",
            "GRPC_PORT": str(free_port()),
            "MASTER_HOST": "127.0.0.1",
            "HTTP_HOST": "127.0.0.1",
        }
        processes = []
        for role in ("master", "worker"):
            process = ServiceProcess(
                role,
                [service.name, role, "--mode", "standalone"],
                settings,
                http_port=free_port(),
                log_path=folder / f"{role}.log",
                tethered=True,
            )
            process.launch()
            stack.push_async_callback(process.process.kill)
            processes.append(process)
        for process in processes:
            await process.wait_ready()
        master = processes[0]
        # The first start makes the indexes; what is observed is what a master does from its start on.
        await master.process.stop()
        await database.command("profile", 2)
        master.launch()
        await master.wait_ready()
        for path in PATHS:
            await eventually(functools.partial(answered, master, path), within_seconds=SECONDS)
        client = await stack.enter_async_context(platform(nats_server, s3_server))
        await announce(client, service)
        await eventually(functools.partial(gone, database[service.collection]), within_seconds=SECONDS)
        await eventually(functools.partial(repaired, database, service), within_seconds=SECONDS)
        await database.command("profile", 0)
        entries = database["system.profile"].find({"planSummary": {"$exists": True}, "op": {"$ne": "getmore"}})
        found = [Query.of(entry) async for entry in entries if ".system." not in entry["ns"]]
        yield Observed(service, found)


async def fill(database: Any, service: ServiceDefinition) -> None:
    """Write entities that do not run, their segments, and a history."""
    entities = [
        {
            "id": f"e{number}",
            "segment_id": number // PER_SEGMENT + 1,
            "config": {"enabled": False, "schedule": "@yearly"},
            "custom": {"version": "1", "config": {"runtime": "python3.11", "entrypoints": {"bot": "main.py"}}},
        }
        for number in range(ENTITIES)
    ]
    now = datetime.now(UTC)
    runs = [
        RunRecord(
            run_id=f"r{number}",
            entity_id=f"e{number % 20}",
            segment_id=1,
            worker_id="w",
            host="h",
            epoch=1,
            started_at=now - timedelta(minutes=number + 1),
            ended_at=now - timedelta(minutes=number),
            reason=("finished", "crashed")[number % 2],
        )
        for number in range(RUNS)
    ]
    segments = [{"_id": number + 1, "bot_count": PER_SEGMENT} for number in range(ENTITIES // PER_SEGMENT)]
    if service.completed_subject is None:  # a backtest would be run, however it is
        await database[service.collection].insert_many(entities)
        await database["partitions"].insert_many(segments)
    await RunStore(database).start_many(runs)


async def answered(process: ServiceProcess, path: str) -> bool:
    """Whether the process answers with what is asked for."""
    answer = await get_json(process.http_port, path)
    return answer is not None and answer[0] in (200, 404)


async def announce(client: Platform, service: ServiceDefinition) -> None:
    """Announce a new entity, change it, and remove it, one event after another."""
    payload = client.payload("new", {"enabled": False, "schedule": "@yearly"}, key="none.zip")
    await client.publish(service.created_subject, payload)
    if service.updated_subject is not None and service.deleted_subject is not None:
        await client.publish(service.updated_subject, payload | {"config": {"enabled": False, "schedule": "@hourly"}})
        await client.publish(service.deleted_subject, {"id": "new", "config": {}})


async def gone(entities: Any) -> bool:
    """Whether the announced entity has come and gone."""
    return await entities.find_one({"id": "new"}) is None


async def repaired(database: Any, service: ServiceDefinition) -> bool:
    """Whether the master has counted the entities of all segments, as it does every few seconds."""
    counted = {"ns": f"{database.name}.{service.collection}", "command.pipeline.$group._id": "$segment_id"}
    return await database["system.profile"].find_one(counted) is not None


def test_no_query_scans_a_collection(observed: Observed) -> None:
    scans = [query for query in observed.queries if "COLLSCAN" in query.plan and not query.counts]

    assert [query for query in scans if query.collection not in WHOLE] == []


def test_no_query_examines_more_documents_than_it_returns(observed: Observed) -> None:
    wasteful = [query for query in observed.queries if query.examined > query.returned + PAGE]

    assert [query for query in wasteful if not query.counts] == []


def test_queries_of_every_collection_are_observed(observed: Observed) -> None:
    seen = {query.collection for query in observed.queries}

    assert {observed.service.collection, "partitions", "runs", "cordons", "audit"} <= seen
