"""Cordons and drains with real masters, workers and MongoDB: what moves, what stays, and what outlives a restart."""

from collections.abc import AsyncIterator

import pytest_asyncio

from libs.core.master.status import SegmentState
from libs.core.room import MIB, Demand, Need, Room
from libs.core.store.client import Database
from tests.support.eventually import eventually
from tests.support.rigs.coordination import AT_ONCE_SECONDS, Cluster, FakeHandler, owned_by, running_cluster


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(database: Database) -> AsyncIterator[Cluster]:
    async with running_cluster(database) as cluster:
        yield cluster


async def test_cordoned_worker_keeps_its_segment_and_is_given_no_new_one(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    master = cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: a.owns == [1])
    epochs = await cluster.epochs()

    await cluster.cordons.cordon("a", reason="new memory")
    await eventually(lambda: [worker.cordon_reason for worker in master.master.snapshot().workers] == ["new memory"])
    await cluster.segments({2: 1})
    master.master.changed()
    await eventually(lambda: master.master.counts().segments[SegmentState.WAITING] == 1)
    b = cluster.worker("b")
    await eventually(lambda: b.owns == [2], AT_ONCE_SECONDS)

    assert a.owns == [1]
    assert (await cluster.epochs())[1] == epochs[1]
    roles = {worker.worker_id: worker.role for worker in master.master.snapshot().workers}
    assert roles == {"a": "cordoned", "b": "owning"}


async def test_cordon_that_cannot_be_read_keeps_no_segment_from_a_worker(cluster: Cluster) -> None:
    await cluster.database["cordons"].insert_one({"_id": "b", "drain": True})
    await cluster.cordons.cordon("c")
    await cluster.segments({1: 1})
    cluster.master()

    a = cluster.worker("a")

    await eventually(lambda: a.owns == [1])
    assert list(await cluster.cordons.current()) == ["c"]


async def test_drained_worker_gives_each_segment_to_another_one_and_gets_none_until_it_is_uncordoned(
    cluster: Cluster,
) -> None:
    await cluster.segments({1: 1, 2: 1, 3: 1})
    cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: a.owns == [1, 2, 3])
    await cluster.cordons.cordon("a")
    b = cluster.worker("b")

    await cluster.cordons.cordon("a", drain=True)
    await eventually(lambda: (a.owns, b.owns) == ([], [1, 2, 3]), AT_ONCE_SECONDS)
    assert [call for call in a.handler.calls if call.startswith("stop")]
    await eventually(lambda: stays(cluster, "a"))
    await cluster.cordons.uncordon("a")

    # More than the target of one is with b, and a is open again.
    await eventually(lambda: len(a.owns) == 1 and owned_by([a, b]) == [1, 2, 3], AT_ONCE_SECONDS)


async def test_segment_of_a_drained_worker_stays_until_another_worker_has_room(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    master = cluster.master()
    handler = FakeHandler(cluster.world, "host-of-a", demands={1: Demand(Need(512 * MIB))})
    a = cluster.worker("a", handler=handler)
    await eventually(lambda: a.owns == [1])
    small = FakeHandler(cluster.world, "host-of-b", room=Room(Need(900 * MIB), Need(130 * MIB), Need(512 * MIB)))
    b = cluster.worker("b", handler=small)

    await cluster.cordons.cordon("a", drain=True)
    reason = "it needs 512 MiB, the roomiest worker has 130 MiB (b)"
    await eventually(lambda: stays(cluster, "a", {1: reason}), AT_ONCE_SECONDS)
    assert a.owns == [1]
    assert master.master.snapshot().notices == [f"a is drained and keeps segment 1: {reason}"]
    small.room = Room(Need(900 * MIB), Need(600 * MIB), Need(512 * MIB))

    await eventually(lambda: (a.owns, b.owns) == ([], [1]), AT_ONCE_SECONDS)
    await eventually(lambda: stays(cluster, "a", {}))


async def test_only_worker_that_is_drained_keeps_its_segments(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: a.owns == [1])

    await cluster.cordons.cordon("a", drain=True)

    alone = {1: "no other worker accepts segments"}
    await eventually(lambda: stays(cluster, "a", alone), AT_ONCE_SECONDS)
    assert a.owns == [1]


async def test_cordon_outlives_the_leading_master_and_the_process_of_its_worker(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    first = cluster.master(0)
    a = cluster.worker("a")
    b = cluster.worker("b")
    await eventually(lambda: owned_by([a, b]) == [1])
    idle, name = (b, "b") if a.owns else (a, "a")
    await cluster.cordons.cordon(name)
    await eventually(lambda: "cordoned" in [worker.role for worker in first.master.snapshot().workers])

    await idle.leave()
    await first.stop()
    second = cluster.master(1)
    again = cluster.worker(name)
    await eventually(lambda: second.master.leads and len(second.master.snapshot().workers) == 2, AT_ONCE_SECONDS)
    await cluster.segments({2: 1})
    second.master.changed()

    await eventually(lambda: owned_by([a, b]) == [1, 2], AT_ONCE_SECONDS)
    assert again.owns == []


async def stays(cluster: Cluster, worker_id: str, expected: dict[int, str] | None = None) -> bool:
    """Whether the leading master has recorded exactly these staying segments."""
    cordon = (await cluster.cordons.current())[worker_id]
    return cordon.heeded and cordon.stays == (expected or {})


async def test_shortage_is_reported_with_roomiest_worker(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    master = cluster.master()
    need = Need(512 * MIB)
    handler = FakeHandler(cluster.world, "host-of-a", demands={1: Demand(need, need)})
    handler.room = Room(Need(900 * MIB), Need(100 * MIB), need)
    a = cluster.worker("a", handler=handler)
    await eventually(lambda: a.owns == [1])
    for name, free in (("b", 130 * MIB), ("c", 120 * MIB)):
        other = FakeHandler(cluster.world, f"host-of-{name}", room=Room(Need(900 * MIB), Need(free), need))
        cluster.worker(name, handler=other)

    def reports_missing(missing: int) -> bool:
        report = master.master.counts().room
        return report.missing is not None and report.missing.memory_bytes == missing

    await eventually(lambda: reports_missing(382 * MIB))
    notice = "entities in 1 segment wait for room: the largest needs 512 MiB, the roomiest worker has 130 MiB (b)"
    await eventually(lambda: master.master.snapshot().notices == [notice])
    await cluster.cordons.cordon("b")
    await eventually(lambda: reports_missing(392 * MIB))  # c
    handler.demands[1] = Demand(need)

    await eventually(lambda: not master.master.snapshot().notices and master.master.counts().room.segments == 0)
