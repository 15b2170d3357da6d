"""`runtime worker drain` beside a master and workers: it returns when they own nothing, or reports what stays."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from libs.core.process.service import BOT_RUNNER
from libs.core.room import MIB, Demand, Need, Room
from libs.core.store.client import Mongo
from tests.support.eventually import eventually
from tests.support.rigs.coordination import Cluster, FakeHandler, running_cluster
from tests.support.rigs.terminal import Terminal
from tools.cli.exit_codes import ExitCode

WAITED_FOR_LONG_SECONDS = "300"


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(mongo_uri: str) -> AsyncIterator[Cluster]:
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    database = mongo.database(BOT_RUNNER.database)
    try:
        async with running_cluster(database) as cluster:
            yield cluster
    finally:
        # The name of the database is fixed, and the server is shared.
        await database.client.drop_database(BOT_RUNNER.database)
        await mongo.close()


@pytest_asyncio.fixture(loop_scope="session")
async def terminal(mongo_uri: str, tmp_path: Path) -> Terminal:
    return Terminal(tmp_path / "home", {"MONGO_URI": mongo_uri})


async def test_drain_returns_when_the_worker_owns_nothing(cluster: Cluster, terminal: Terminal) -> None:
    await cluster.segments({1: 1, 2: 1})
    cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: a.owns == [1, 2])
    b = cluster.worker("b")
    await eventually(lambda: len(a.owns) == len(b.owns) == 1)

    done = await terminal.succeed("worker", "drain", "a", "--timeout", WAITED_FOR_LONG_SECONDS)

    assert done.out == "a (bot-runner) is drained and owns nothing.\n"
    assert a.owns == []
    await eventually(lambda: b.owns == [1, 2])
    assert (await terminal.run("worker", "drain", "a", "--timeout", WAITED_FOR_LONG_SECONDS)).code == ExitCode.OK
    listed = (await terminal.succeed("worker", "ls", "--output", "json")).json()
    assert [one["drained"] for one in listed] == [True, False]


async def test_drain_reports_staying_segment_with_reason(cluster: Cluster, terminal: Terminal) -> None:
    await cluster.segments({1: 1})
    cluster.master()
    handler = FakeHandler(cluster.world, "host-of-a", demands={1: Demand(Need(512 * MIB))})
    a = cluster.worker("a", handler=handler)
    await eventually(lambda: a.owns == [1])
    cluster.worker("b", handler=FakeHandler(cluster.world, "host-of-b", room=Room(Need(), Need(), Need(512 * MIB))))

    done = await terminal.run("worker", "drain", "a", "--reason", "new disk")

    why = "it needs 512 MiB, the roomiest worker has 0 MiB (b)"
    assert done.code == ExitCode.TIMEOUT, done
    assert f"segment 1 stays on a (bot-runner) for now: {why}" in done.err
    assert f"error: a (bot-runner) is cordoned and still owns segment 1: {why}" in done.err
    assert a.owns == [1]
