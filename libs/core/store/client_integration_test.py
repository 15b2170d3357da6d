import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pymongo import CursorType

from libs.core.config.connection_settings import MongoSettings
from libs.core.config.settings_loader import load
from libs.core.http.health import Readiness
from libs.core.leases.lease import Holder
from libs.core.observability.metrics import registry
from libs.core.store.client import (
    DEPENDENCY,
    Database,
    Mongo,
    StoreConflict,
    StoreDenied,
    StoreRejected,
    StoreUnavailable,
    translated,
    uri_file_of,
)
from libs.core.store.leases import LeaseStore
from tests.support.eventually import eventually
from tests.support.faults.tcp_proxy import TcpProxy
from tools.stack.mongod import MongoServer
from tools.stack.ports import free_port


@pytest_asyncio.fixture(loop_scope="session")
async def mongo(mongo_uri: str) -> AsyncIterator[Mongo]:
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    yield mongo
    await mongo.close()


@pytest.fixture
def dead_uri() -> str:
    return f"mongodb://127.0.0.1:{free_port()}/?directConnection=true"


async def test_a_document_of_the_same_id_is_a_conflict_that_names_the_key(mongo: Mongo, database_name: str) -> None:
    things = mongo.database(database_name)["things"]
    with translated():
        await things.insert_one({"_id": "b1"})

    with pytest.raises(StoreConflict) as caught, translated():
        await things.insert_one({"_id": "b1"})
    assert caught.value.key == {"_id": "b1"}


async def test_many_documents_of_which_some_exist_are_a_conflict(mongo: Mongo, database_name: str) -> None:
    things = mongo.database(database_name)["things"]

    with pytest.raises(StoreConflict), translated():
        await things.insert_many([{"_id": 1}, {"_id": 1}], ordered=False)


@pytest.mark.parametrize("filters", [{"$nonsense": 1}, {"a": {"$nonsense": 1}}])
async def test_a_request_that_makes_no_sense_is_rejected(
    mongo: Mongo, database_name: str, filters: dict[str, object]
) -> None:
    with pytest.raises(StoreRejected), translated():
        await mongo.database(database_name)["things"].find_one(filters)


@pytest.mark.parametrize("value", [2**70, object(), "\ud800", b"x" * 17_000_000], ids=["int", "object", "half", "big"])
async def test_a_document_that_cannot_be_stored_is_rejected(mongo: Mongo, database_name: str, value: object) -> None:
    with pytest.raises(StoreRejected), translated():
        await mongo.database(database_name)["things"].insert_one({"value": value})


async def test_a_server_that_is_not_there_is_unavailable_within_the_timeout(dead_uri: str) -> None:
    mongo = Mongo(dead_uri, timeout_seconds=0.2)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(StoreUnavailable, match="Connect call failed") as caught:
        await mongo.ping()
    took = loop.time() - begun
    await mongo.close()

    assert took < 10
    assert "Topology" not in str(caught.value)


async def test_wrong_credentials_name_the_setting_and_not_the_password(mongod: MongoServer) -> None:
    mongo = Mongo(f"mongodb://me:geheim@{mongod.address}/?directConnection=true")
    with pytest.raises(StoreUnavailable, match="MONGO_URI") as caught:
        await mongo.ping()
    await mongo.close()

    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("for_leases", [False, True])
async def test_replaced_password_is_used_for_new_connections_without_a_restart(
    mongod: MongoServer, mongo: Mongo, database_name: str, tmp_path: Path, for_leases: bool
) -> None:
    user = f"user-of-{database_name}"
    users = mongo.database("admin")
    await users.command("createUser", user, pwd="first", roles=["readWriteAnyDatabase", "clusterMonitor"])
    file = tmp_path / "uri"

    def write(password: str) -> None:
        # Each connection that was idle is replaced by a new one, which has to log in.
        options = "directConnection=true&maxIdleTimeMS=1"
        written = tmp_path / "new"
        written.write_text(f"mongodb://{user}:{password}@{mongod.address}/?{options}\n")
        written.replace(file)

    write("first")
    settings = load(MongoSettings, environ={"MONGO_URI_FILE": str(file)})
    own = (Mongo.for_leases if for_leases else Mongo)(settings.uri, timeout_seconds=60, uri_file=uri_file_of(settings))
    following = asyncio.create_task(own.follow_files(0.05))

    async def logs_in() -> bool:
        with translated():
            await own.database(database_name).command("listCollections", nameOnly=True)
        return True

    async def is_refused() -> bool:
        with contextlib.suppress(StoreDenied):
            return not await logs_in()
        return True

    try:
        await logs_in()
        await users.command("updateUser", user, pwd="second")
        await eventually(is_refused)
        write("second")

        await eventually(logs_in)
    finally:
        following.cancel()
        await asyncio.wait([following])
        await own.close()
        await users.command("dropUser", user)


def test_connection_string_that_is_set_itself_is_not_replaced_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "uri").write_text("mongodb://in-the-file")
    settings = load(MongoSettings, environ={"MONGO_URI": "mongodb://itself", "MONGO_URI_FILE": str(tmp_path / "uri")})

    assert uri_file_of(settings) is None


async def test_unknown_host_is_waited_for(database_name: str) -> None:
    readiness = Readiness()
    mongo = Mongo("mongodb://nowhere.invalid/", timeout_seconds=0.2)
    waiting = asyncio.create_task(mongo.wait_until_up(readiness))
    await eventually(lambda: DEPENDENCY in readiness.states)
    waiting.cancel()
    await asyncio.wait([waiting])
    await mongo.close()

    assert not readiness.ready
    assert "nowhere.invalid" in readiness.states[DEPENDENCY].detail


async def test_late_server_is_waited_for_and_readiness_shows_reason(tmp_path: Path) -> None:
    server = MongoServer(tmp_path)
    readiness = Readiness()
    mongo = Mongo(server.uri, timeout_seconds=0.5)
    waiting = asyncio.create_task(mongo.wait_until_up(readiness))
    try:
        await eventually(lambda: DEPENDENCY in readiness.states)
        state = readiness.states[DEPENDENCY]
        await server.launch()
        await asyncio.wait_for(waiting, 60)
    finally:
        waiting.cancel()
        await mongo.close()
        await server.stop()

    assert (state.ok, readiness.ready) == (False, True)
    assert "Connect call failed" in state.detail


async def test_watching_follows_a_server_that_goes_and_comes_back(tmp_path: Path) -> None:
    readiness = Readiness()
    async with MongoServer.start(tmp_path) as server:
        mongo = Mongo(server.uri, timeout_seconds=0.3)
        watching = asyncio.create_task(mongo.watch(readiness, interval_seconds=0.05))
        try:
            await eventually(lambda: readiness.ready)
            await server.kill()
            await eventually(lambda: not readiness.ready)
            await server.launch()
            await eventually(lambda: readiness.ready, within_seconds=20)
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            await mongo.close()


async def test_a_frozen_server_is_unavailable_and_does_not_hold_the_caller(tmp_path: Path) -> None:
    async with MongoServer.start(tmp_path) as server:
        mongo = Mongo(server.uri, timeout_seconds=0.3, answer_timeout_seconds=0.5)
        await eventually(lambda: answers(mongo))
        server.pause()
        try:
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(mongo.ping(), 15)
        finally:
            server.resume()
            await mongo.close()


async def answers(mongo: Mongo) -> bool:
    await mongo.ping()
    return True


async def test_writes_wait_for_a_majority(mongo: Mongo, database_name: str) -> None:
    assert mongo.database(database_name).write_concern.document == {"w": "majority"}


async def test_commands_are_counted_and_timed(mongo: Mongo, database_name: str) -> None:
    labels = {"system": "mongodb", "operation": "count", "outcome": "ok"}
    before = registry.get_sample_value("runtime_operation_seconds_count", labels) or 0
    with translated():
        await mongo.database(database_name)["things"].estimated_document_count()

    assert registry.get_sample_value("runtime_operation_seconds_count", labels) == before + 1


async def test_closing_twice_is_harmless(mongo_uri: str) -> None:
    mongo = Mongo(mongo_uri)
    await mongo.ping()
    await mongo.close()
    await mongo.close()

    with pytest.raises(Exception, match="close"):
        await mongo.ping()


async def test_connection_that_passes_nothing_on_is_no_answer_long_before_other_operations_give_up(
    mongod: MongoServer,
) -> None:
    async with TcpProxy.before(mongod.port) as proxy:
        mongo = Mongo(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true", answer_timeout_seconds=600.0)
        await mongo.ping()
        proxy.hold_back()
        # Otherwise only the driver's own check of its servers would end it.
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(mongo.ping(), 8.0)
        await mongo.close()


def with_connections(most: int, uri: str) -> str:
    return f"{uri}{'&' if '?' in uri else '?'}maxPoolSize={most}"


async def test_lease_is_renewed_while_other_work_uses_all_connections(mongo_uri: str, database_name: str) -> None:
    busy, own = Mongo(with_connections(3, mongo_uri), timeout_seconds=60), Mongo.for_leases(mongo_uri)
    database = busy.database(database_name)
    await database["partitions"].insert_one({"_id": 1, "bot_count": 1})
    leases = LeaseStore(own.database(database_name), 60.0)
    lease = await leases.acquire(1, Holder("a", "a-1", "host"), timeout_seconds=20.0)
    # Three at a time, so that the others wait for a connection.
    slow = {"$where": "sleep(5000) || true"}
    load = [asyncio.create_task(database["partitions"].find_one(slow)) for _ in range(9)]
    try:
        await eventually(lambda: _operations(own, database_name, at_least=3))

        renewed = await leases.renew(lease, timeout_seconds=2.5)

        assert renewed.proven_until > lease.proven_until
        assert sum(task.done() for task in load) < 6
    finally:
        await asyncio.gather(*load, return_exceptions=True)
        await busy.close()
        await own.close()


async def _operations(mongo: Mongo, database_name: str, *, at_least: int) -> bool:
    running = mongo.database("admin").aggregate(
        [{"$currentOp": {}}, {"$match": {"ns": f"{database_name}.partitions", "op": "query"}}]
    )
    return len(await (await running).to_list()) >= at_least


async def test_operations_that_are_cancelled_twice_while_they_wait_for_a_connection_leave_the_pool_usable(
    mongo_uri: str, database_name: str
) -> None:
    only_connection = Mongo(with_connections(1, mongo_uri), timeout_seconds=20)
    database = only_connection.database(database_name)
    await database.create_collection("stream", capped=True, size=4096)
    await database["stream"].insert_one({})
    reading = asyncio.create_task(_read_for_a_second(database))
    await asyncio.sleep(0.2)
    waiting = [asyncio.create_task(database["things"].find_one({})) for _ in range(20)]
    await asyncio.sleep(0.2)

    for _ in range(2):
        for task in waiting:
            task.cancel()
        await asyncio.sleep(0)

    await asyncio.wait([reading, *waiting], timeout=20)
    async with asyncio.timeout(20):
        found = await database["things"].find_one({})
    assert found is None
    await only_connection.close()


async def _read_for_a_second(database: Database) -> None:
    """Hold a connection: the server answers when the second is over."""
    cursor = database["stream"].find(cursor_type=CursorType.TAILABLE_AWAIT).max_await_time_ms(1000)
    async with cursor:
        await cursor.next()
        with contextlib.suppress(StopAsyncIteration):
            await cursor.next()
