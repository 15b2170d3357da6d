"""Queries from the query port of a master over the stream to a worker, with a real MongoDB and real gRPC."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest_asyncio
from aiohttp import web
from pydantic import SecretStr

from libs.core.config.process_settings import HttpSettings
from libs.core.config.query_settings import QuerySettings
from libs.core.http.app import HttpApp
from libs.core.http.health import Readiness
from libs.core.master.leader_proxy import LeaderProxy
from libs.core.master.query_port import PATH, QueryHandler, QueryPort
from libs.core.master.query_router import QueryRouter
from libs.core.queries.messages import Answerer, Query, QueryAnswer, QueryFault, failed
from libs.core.queries.request import BODY_BYTES
from libs.core.store.client import Database
from libs.core.store.entities import EntityStore
from libs.core.store.holds import HoldStore, HoldTarget
from libs.core.store.partitions import PartitionStore
from libs.core.store.processes import KnownProcess
from tests.support.eventually import eventually
from tests.support.rigs.coordination import Cluster, owned_by, running_cluster

LOCALHOST = "127.0.0.1"
TOKEN = "sixteen-letters-or-more"
TIMEOUT_SECONDS = 20.0


@dataclass
class Asked:
    """The query ports of masters, of which the first leads."""

    cluster: Cluster
    ports: list[QueryPort]
    session: aiohttp.ClientSession

    async def ask(self, port: int = 0, token: str = TOKEN, body: bytes | None = None, **fields: object) -> Any:
        """Return the HTTP status and the answer."""
        body = body or json.dumps({"bot_id": "bot", "query_path": "/status", **fields}).encode()
        url = f"http://{LOCALHOST}:{self.ports[port].port}{PATH}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.session.post(url, data=body, headers=headers) as answer:
            assert answer.content_type == "application/json"
            return answer.status, await answer.json()


def http_settings(**more: object) -> HttpSettings:
    return HttpSettings.model_validate({"port": 0, "host": "0.0.0.0", "token": SecretStr(TOKEN), **more})


@contextlib.asynccontextmanager
async def asked_master(cluster: Cluster, number: int) -> AsyncIterator[QueryPort]:
    master = cluster.master(number).master
    entities = EntityStore(cluster.database, "bots", PartitionStore(cluster.database, "bots", 10))
    proxy, handler = LeaderProxy(master.leader_directory), QueryHandler()
    router = QueryRouter(entities, master, "bot", owner_seconds=TIMEOUT_SECONDS)
    handler.open(router, proxy, TIMEOUT_SECONDS)
    app = HttpApp(http_settings(), Readiness())
    app.accept(f"token-of-master-{number}")
    app.add_routes([web.post(PATH, handler.handle)])
    await app.start()
    port = QueryPort(QuerySettings(port=0), http_settings(), handler)
    await port.start()
    name = f"master-{number}"
    here = KnownProcess(name, "master", "h", [LOCALHOST], app.port, f"token-of-master-{number}")
    await cluster.processes.seen(here)
    await eventually(lambda: master.leader == "master-0")
    try:
        yield port
    finally:
        await port.close()
        await app.close()
        await proxy.close()


@pytest_asyncio.fixture(loop_scope="session")
async def asked(database: Database) -> AsyncIterator[Asked]:
    """A master, and a bot with queries in segment 1."""
    async with asked_masters(database, 1) as asked:
        yield asked


@contextlib.asynccontextmanager
async def asked_masters(database: Database, masters: int) -> AsyncIterator[Asked]:
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running_cluster(database))
        await cluster.segments({1: 1, 2: 1})
        await deploy(database, "bot", 1, {"bot": "main.py", "query": "query.py"})
        ports = [await stack.enter_async_context(asked_master(cluster, number)) for number in range(masters)]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Asked(cluster, ports, session)


async def deploy(database: Database, bot_id: str, segment: int, entrypoints: dict[str, str]) -> None:
    custom = {"version": "1", "config": {"entrypoints": entrypoints}}
    await database["bots"].insert_one({"id": bot_id, "segment_id": segment, "config": {}, "custom": custom})


def naming(name: str) -> Answerer:
    """Return an answerer that answers with the query and its worker."""

    async def answer(query: Query) -> QueryAnswer:
        data = {"worker": name, "bot": query.entity_id, "path": query.path, "params": json.loads(query.parameters)}
        return QueryAnswer(json.dumps({"status": "ok", "data": data}).encode())

    return answer


async def test_any_master_answers_with_the_answer_of_the_owner(database: Database) -> None:
    async with asked_masters(database, 2) as asked:
        workers = [asked.cluster.worker(name, answerer=naming(name)) for name in ("a", "b")]
        await eventually(lambda: owned_by(workers) == [1, 2])
        owner = next(name for name, worker in zip("ab", workers, strict=True) if 1 in worker.owns)

        answers = [await asked.ask(port, params={"n": 1}) for port in (0, 1)]

    data = {"worker": owner, "bot": "bot", "path": "/status", "params": {"n": 1}}
    assert answers == [(200, {"status": "ok", "data": data})] * 2


async def test_query_of_a_bot_whose_segment_has_no_owner_waits_for_one(asked: Asked) -> None:
    asking = asyncio.create_task(asked.ask())
    asked.cluster.worker("a", answerer=naming("a"))

    status, answer = await asking

    assert (status, answer["data"]["worker"]) == (200, "a")


async def test_query_is_asked_again_where_the_segment_has_moved(asked: Asked) -> None:
    async def leaving(query: Query) -> QueryAnswer:
        asked.cluster.worker("b", answerer=naming("b"))
        await a.worker.drain()
        return failed(QueryFault.MOVED, "gone")

    a = asked.cluster.worker("a", answerer=leaving)
    await eventually(lambda: a.owns == [1, 2])

    status, answer = await asked.ask()

    assert (status, answer["data"]["worker"]) == (200, "b")


async def test_query_that_finds_the_segment_moved_twice_is_a_typed_error(asked: Asked) -> None:
    async def never_there(query: Query) -> QueryAnswer:
        asks.append(query.segment_id)
        return failed(QueryFault.MOVED, "gone")

    asks: list[int] = []
    a = asked.cluster.worker("a", answerer=never_there)
    await eventually(lambda: 1 in a.owns)

    status, answer = await asked.ask(timeout_sec=2)

    assert (status, answer["status"], asks) == (503, "error", [1])


async def test_bot_without_an_owner_is_a_typed_error(asked: Asked) -> None:
    status, answer = await asked.ask(timeout_sec=1)

    assert status == 503
    assert answer == {"status": "error", "error": "no worker owns this bot now: it moves or waits; try again later"}


async def test_unknown_bot_and_bot_without_queries_are_different_errors(asked: Asked, database: Database) -> None:
    await deploy(database, "plain", 1, {"bot": "main.py"})

    assert (await asked.ask(bot_id="none"))[0] == 404
    assert await asked.ask(bot_id="plain") == (409, {"status": "error", "error": "this bot has no entrypoint `query`"})


async def test_killed_bot_is_not_asked_and_a_stopped_one_is(asked: Asked, database: Database) -> None:
    a = asked.cluster.worker("a", answerer=naming("a"))
    await eventually(lambda: 1 in a.owns)
    holds, target = HoldStore(database), HoldTarget.entity("bot")
    await holds.hold(target, graceful=True)
    stopped = await asked.ask()
    await holds.hold(target)

    status, answer = await asked.ask()

    assert stopped[0] == 200
    assert (status, answer["status"]) == (503, "error")
    assert "was killed" in answer["error"]


async def test_worker_of_an_older_version_is_not_asked(asked: Asked) -> None:
    old = asked.cluster.worker("old")
    await eventually(lambda: 1 in old.owns)

    status, answer = await asked.ask()

    assert status == 503
    assert answer["error"] == "the worker of this bot has an older version, which answers no queries"


async def test_worker_that_takes_too_long_is_a_timeout_and_answers_the_next_query(asked: Asked) -> None:
    async def slow(query: Query) -> QueryAnswer:
        if query.path == "/slow":
            await asyncio.Event().wait()
        return QueryAnswer(b'{"status": "ok"}')

    a = asked.cluster.worker("a", answerer=slow)
    await eventually(lambda: 1 in a.owns)

    assert (await asked.ask(query_path="/slow", timeout_sec=0.2))[0] == 504
    assert await asked.ask() == (200, {"status": "ok"})


async def test_master_waits_longer_than_the_worker(database: Database) -> None:
    async def late(query: Query) -> QueryAnswer:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return failed(QueryFault.TIMEOUT, "the engine was slow")

    async with running_cluster(database) as cluster:
        await cluster.segments({1: 1})
        master = cluster.master().master
        a = cluster.worker("a", answerer=late)
        await eventually(lambda: a.owns == [1] and master.owner_of(1) is not None)
        owner = master.owner_of(1)
        assert owner is not None

        async with asyncio.timeout(TIMEOUT_SECONDS):
            answer = await master.ask(owner, Query("bot", "/status", "{}", 0.2, segment_id=1))

    assert answer == failed(QueryFault.TIMEOUT, "the engine was slow")


async def test_answerer_that_fails_is_an_internal_error_and_the_worker_lives(asked: Asked) -> None:
    async def broken(query: Query) -> QueryAnswer:
        raise RuntimeError("a defect")

    a = asked.cluster.worker("a", answerer=broken)
    await eventually(lambda: 1 in a.owns)

    assert (await asked.ask())[0] == 500
    assert 1 in a.owns
    assert not a.task.done()


async def test_large_answers_delay_no_heartbeat(asked: Asked) -> None:
    async def large(query: Query) -> QueryAnswer:
        return QueryAnswer(b'{"status": "ok", "data": "' + b"x" * 3_000_000 + b'"}')

    a = asked.cluster.worker("a", answerer=large)
    await eventually(lambda: 1 in a.owns)

    answers = await asyncio.gather(*(asked.ask() for _ in range(4)))

    assert {(status, len(answer["data"])) for status, answer in answers} == {(200, 3_000_000)}
    assert 1 in a.owns


async def test_queries_need_the_token(asked: Asked) -> None:
    for token in ("", "another-token-of-this-test"):
        status, answer = await asked.ask(token=token)

        assert (status, answer["status"]) == (401, "error")


async def test_malformed_and_too_large_requests_are_refused(asked: Asked) -> None:
    assert (await asked.ask(body=b"{"))[0] == 400
    assert (await asked.ask(body=b" " * (BODY_BYTES + 1)))[0] == 413
