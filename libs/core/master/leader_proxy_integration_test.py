"""Requests to a standby, over HTTP, with the leader's answers."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from pydantic import SecretStr

from libs.core.config.process_settings import HttpSettings
from libs.core.http.app import HttpApp
from libs.core.http.health import Readiness
from libs.core.http.reader import HEADER
from libs.core.master.api import MasterApi
from libs.core.master.leader_proxy import FORWARDED, LeaderProxy
from libs.core.master.observatory import Observatory
from libs.core.master.page.handlers import StatusPage
from libs.core.process.service import BOT_RUNNER
from libs.core.store.client import Database, Mongo
from libs.core.store.processes import KnownProcess
from tests.support.eventually import eventually
from tests.support.rigs.coordination import Cluster, running_cluster

TOKEN = "token-of-the-masters-in-this-test"
TOKENS = ("token-of-the-leader-alone", "")
PROXY = {"Authorization": "", "X-Forwarded-User": "ada"}


def settings_of(number: int) -> HttpSettings:
    """The authenticating proxy, at this address, stands before the standby alone."""
    proxies = () if number == 0 else HttpSettings().trusted_proxies
    return HttpSettings(
        port=0,
        host="127.0.0.1",
        token=SecretStr(TOKEN),
        user_header="X-Forwarded-User",
        trusted_proxies=proxies,
    )


@dataclass
class Masters:
    """A leader and a standby with their HTTP servers, and a worker that is registered with the leader."""

    cluster: Cluster
    leader: HttpApp
    standby: HttpApp
    session: aiohttp.ClientSession

    async def get(self, app: HttpApp, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        url = f"http://127.0.0.1:{app.port}{path}"
        async with self.session.get(url, headers={"Authorization": f"Bearer {TOKEN}"} | (headers or {})) as answer:
            return answer.status, await answer.text()


@contextlib.asynccontextmanager
async def http_of(cluster: Cluster, number: int) -> AsyncIterator[HttpApp]:
    master = cluster.master(number).master
    observatory = Observatory(BOT_RUNNER, cluster.database, master.snapshot)
    proxy = LeaderProxy(master.leader_directory)
    api = MasterApi()
    api.open(observatory, proxy)
    app = HttpApp(settings_of(number), Readiness())
    if TOKENS[number]:
        app.accept(TOKENS[number])
    app.add_routes([*api.routes(), *StatusPage(api).routes()])
    await app.start()
    name = f"master-{number}"
    await cluster.processes.seen(KnownProcess(name, "master", "h", ["127.0.0.1"], app.port, TOKENS[number]))
    await eventually(lambda: master.leader == "master-0")
    try:
        yield app
    finally:
        await app.close()
        await proxy.close()
        await observatory.close()


@pytest_asyncio.fixture(loop_scope="session")
async def masters(mongo_uri: str, database_name: str) -> AsyncIterator[Masters]:
    mongo = Mongo(mongo_uri)
    database: Database = mongo.database(database_name)
    async with (
        running_cluster(database) as cluster,
        http_of(cluster, 0) as leader,
        http_of(cluster, 1) as standby,
        aiohttp.ClientSession() as session,
    ):
        await cluster.segments({3: 1})
        worker = cluster.worker("a")
        await eventually(lambda: worker.owns == [3])
        yield Masters(cluster, leader, standby, session)
    await mongo.close()


@pytest.mark.parametrize("path", ["/api/v1/workers?limit=5", "/api/v1/summary"])
async def test_standby_answers_as_the_leader(masters: Masters, path: str) -> None:
    async def are_equal() -> Any:
        status, text = await masters.get(masters.standby, path)
        # Times differ between two answers.
        assert status == 200, text
        return '"a"' in text or '"leads": true' in text

    assert await eventually(are_equal)


async def test_page_of_a_standby_is_the_leaders(masters: Masters) -> None:
    status, text = await masters.get(masters.standby, "/workers")

    assert status == 200
    assert "<bdi>a</bdi>" in text


async def test_errors_of_the_leader_come_through_a_standby(masters: Masters) -> None:
    status, text = await masters.get(masters.standby, "/api/v1/entities/nobody")

    assert (status, "nobody" in text) == (404, True)


async def test_standby_vouches_for_the_user_of_its_proxy(masters: Masters) -> None:
    refused, _ = await masters.get(masters.leader, "/api/v1/workers", PROXY)
    status, text = await masters.get(masters.standby, "/api/v1/workers", PROXY)

    assert refused == 401
    assert (status, '"a"' in text) == (200, True)


async def test_client_cannot_use_the_header_that_names_a_reader_through_a_standby(masters: Masters) -> None:
    status, _ = await masters.get(masters.standby, "/api/v1/workers", {"Authorization": "", HEADER: "ada"})

    assert status == 401


async def test_standby_answers_for_itself_where_it_must(masters: Masters) -> None:
    refused, _ = await masters.get(masters.standby, "/api/v1/workers", {"Authorization": ""})
    _, own = await masters.get(masters.standby, "/api/v1/status")
    status, text = await masters.get(masters.standby, "/api/v1/workers", {FORWARDED: "1"})

    assert (status, "on standby" in text) == (503, True)
    assert refused == 401
    assert '"master_id": "master-1"' in own


async def test_standby_answers_itself_when_the_leader_is_unreachable(masters: Masters) -> None:
    await masters.leader.close()

    status, text = await masters.get(masters.standby, "/api/v1/workers")
    page, _ = await masters.get(masters.standby, "/")

    assert (status, page) == (503, 200)
    assert "master-0 leads" in text
