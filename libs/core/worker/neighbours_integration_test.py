"""Workers of one engine, with a real MongoDB: a neighbour continues what a dead or leaving one had.

The fake containers of a segment run on as long as its keepalive is refreshed; the first law is checked at the end.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from libs.core.store.client import Database, Mongo
from libs.core.worker.worker import EngineFolders
from tests.support.eventually import eventually
from tests.support.rigs.coordination import Cluster, RunningMaster, RunningWorker, owned_by, running_cluster

ENGINE = "one-engine"


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(mongo_uri: str, database_name: str) -> AsyncIterator[Cluster]:
    mongo = Mongo(mongo_uri)
    database: Database = mongo.database(database_name)
    async with running_cluster(database, target=16) as cluster:
        yield cluster
    await mongo.close()


def worker(cluster: Cluster, folder: Path, name: str, host: str = ENGINE) -> RunningWorker:
    return cluster.worker(name, host=host, folders=EngineFolders(folder / "shared", folder))


async def two_workers(
    cluster: Cluster, folder: Path, masters: list[RunningMaster] | None = None
) -> tuple[RunningWorker, RunningWorker]:
    """Return workers of one engine that own the segments 1 and 2, and 3 and 4."""
    await cluster.segments({1: 1, 2: 1})
    master = cluster.master()
    if masters is not None:
        masters.append(master)
    a = worker(cluster, folder, "a")
    await eventually(lambda: a.owns == [1, 2])
    b = worker(cluster, folder, "b")
    await eventually(lambda: b.worker.snapshot().master_id is not None)
    # To the worker with the fewest.
    await cluster.segments({3: 1, 4: 1})
    await eventually(lambda: b.owns == [3, 4])
    await all_run(cluster)
    return a, b


async def all_run(cluster: Cluster) -> None:
    await eventually(lambda: all(cluster.world.alive(segment) for segment in (1, 2, 3, 4)))


def starts(cluster: Cluster) -> int:
    return len(cluster.world.containers)


def stops(*workers: RunningWorker) -> list[str]:
    return [call for one in workers for call in one.handler.calls if call.startswith("stop")]


async def test_containers_of_a_killed_worker_run_on_under_its_neighbour_and_the_master_leaves_them_there(
    cluster: Cluster, tmp_path: Path
) -> None:
    a, b = await two_workers(cluster, tmp_path)

    await a.kill()

    await eventually(lambda: b.owns == [1, 2, 3, 4])
    await eventually(lambda: sorted(b.worker.snapshot().assigned) == [1, 2, 3, 4])
    assert (starts(cluster), stops(a, b)) == (4, [])
    again = worker(cluster, tmp_path, "a")
    await eventually(lambda: again.worker.snapshot().master_id is not None)
    await asyncio.sleep(1.0)
    assert (b.owns, again.owns, starts(cluster), stops(a, b)) == ([1, 2, 3, 4], [], 4, [])


async def test_segments_are_taken_over_without_any_master_and_kept_when_one_returns(
    cluster: Cluster, tmp_path: Path
) -> None:
    masters: list[RunningMaster] = []
    a, b = await two_workers(cluster, tmp_path, masters)
    await masters[0].stop()

    await a.kill()

    await eventually(lambda: b.owns == [1, 2, 3, 4])
    cluster.master(1)
    await eventually(lambda: sorted(b.worker.snapshot().assigned) == [1, 2, 3, 4])
    assert (starts(cluster), stops(a, b)) == (4, [])


async def test_leaving_worker_hands_its_segments_to_its_neighbour_and_stops_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    a, b = await two_workers(cluster, tmp_path)

    await a.leave()

    assert b.owns == [1, 2, 3, 4]
    await eventually(lambda: sorted(b.worker.snapshot().assigned) == [1, 2, 3, 4])
    assert (starts(cluster), stops(a, b)) == (4, [])
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [
        f"{b.worker.snapshot().instance_id}.worker"
    ]


async def test_last_worker_of_an_engine_stops_its_containers_before_another_engine_starts_them(
    cluster: Cluster, tmp_path: Path
) -> None:
    a, b = await two_workers(cluster, tmp_path)
    other = worker(cluster, tmp_path, "c", host="another-engine")
    await eventually(lambda: other.worker.snapshot().master_id is not None)
    await a.leave()
    await eventually(lambda: b.owns == [1, 2, 3, 4])

    await b.leave()

    assert sorted(call.split("/")[0] for call in stops(b)) == ["stop 1", "stop 2", "stop 3", "stop 4"]
    await eventually(lambda: other.owns == [1, 2, 3, 4])


async def test_neighbour_that_dies_during_a_takeover_is_followed_by_the_third(cluster: Cluster, tmp_path: Path) -> None:
    a, b = await two_workers(cluster, tmp_path)
    c = worker(cluster, tmp_path, "c")
    await eventually(lambda: c.worker.snapshot().master_id is not None)

    await asyncio.gather(a.kill(), b.kill())

    await eventually(lambda: c.owns == [1, 2, 3, 4])
    assert (starts(cluster), stops(a, b, c)) == (4, [])


async def test_two_neighbours_share_what_a_killed_worker_had_and_no_segment_has_two_owners(
    cluster: Cluster, tmp_path: Path
) -> None:
    a, b = await two_workers(cluster, tmp_path)
    c = worker(cluster, tmp_path, "c")
    await eventually(lambda: c.worker.snapshot().master_id is not None)
    before = await cluster.epochs()

    await a.kill()

    await eventually(lambda: owned_by([b, c]) == [1, 2, 3, 4])
    assert await cluster.epochs() == {one: epoch + (one in (1, 2)) for one, epoch in before.items()}
    assert (starts(cluster), stops(a, b, c)) == (4, [])
