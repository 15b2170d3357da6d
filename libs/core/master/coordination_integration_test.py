"""Masters and workers together, with a real MongoDB and real gRPC: the assignments, while processes come and go."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.room import Demand, Need, Room
from libs.core.store.client import Database, Mongo
from libs.core.worker.segment_owner import WorkerSuperseded
from libs.core.worker.session import WorkerReplaced
from libs.core.worker.worker import EngineFolders
from tests.support.eventually import eventually
from tests.support.rigs.coordination import (
    AT_ONCE_SECONDS,
    SHORT_LIFE_SECONDS,
    Cluster,
    CutLeases,
    FakeHandler,
    owned_by,
    running_cluster,
)
from tools.stack.mongod import MongoServer


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(database: Database) -> AsyncIterator[Cluster]:
    async with running_cluster(database) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="session")
async def forgetful_cluster(database: Database) -> AsyncIterator[Cluster]:
    """One whose leases end soon when they are not renewed."""
    async with running_cluster(database, life_seconds=SHORT_LIFE_SECONDS) as cluster:
        yield cluster


async def test_each_worker_gets_a_segment_and_runs_it(cluster: Cluster) -> None:
    await cluster.segments({1: 1, 2: 3, 3: 0})
    cluster.master()

    workers = [cluster.worker(name) for name in ("a", "b", "c")]

    await eventually(lambda: owned_by(workers) == [1, 2])
    await eventually(lambda: cluster.world.alive(1) and cluster.world.alive(2))


async def test_segments_beyond_the_target_run_at_once_and_move_to_a_worker_that_comes(cluster: Cluster) -> None:
    await cluster.segments({1: 1, 2: 1, 3: 1, 4: 1})
    first = cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: a.owns == [1, 2, 3, 4])
    detail = first.readiness.states["segments"].detail
    assert detail == "4 segments are more than the 3 of --max-segment"

    b = cluster.worker("b")

    await eventually(lambda: (a.owns, b.owns) == ([1, 2, 3], [4]))
    await eventually(lambda: cluster.world.alive(4, "host-of-b"))
    assert a.handler.calls.count("stop 4/1") == 1
    assert [call for call in a.handler.calls if call.startswith("stop")] == ["stop 4/1"]


async def test_segments_wait_in_sight_while_there_is_no_worker(cluster: Cluster) -> None:
    await cluster.segments({1: 1, 2: 1})
    first = cluster.master()

    await eventually(lambda: [s.state.value for s in first.master.snapshot().segments] == ["waiting"] * 2)

    assert first.readiness.states["segments"].detail == "2 of 2 segments wait for a worker"
    assert first.readiness.ready


async def test_workers_that_start_together_share_the_segments_evenly(database: Database) -> None:
    async with running_cluster(database, target=16) as cluster:
        await cluster.segments(dict.fromkeys(range(1, 13), 1))
        cluster.master()

        workers = [cluster.worker(name) for name in ("a", "b", "c")]

        await eventually(lambda: owned_by(workers) == list(range(1, 13)))
        assert [len(worker.owns) for worker in workers] == [4, 4, 4]


async def test_killed_worker_of_six_segments_is_replaced_by_the_other_worker(database: Database) -> None:
    async with running_cluster(database, life_seconds=SHORT_LIFE_SECONDS, target=16) as cluster:
        await cluster.segments(dict.fromkeys(range(1, 13), 1))
        cluster.master()
        a, b = cluster.worker("a"), cluster.worker("b")
        await eventually(lambda: owned_by([a, b]) == list(range(1, 13)))
        kept = b.owns

        await a.kill()

        await eventually(lambda: b.owns == list(range(1, 13)))
        await eventually(lambda: all(cluster.world.alive(number, "host-of-b") for number in range(1, 13)))
        assert [call for call in b.handler.calls if call.startswith("stop")] == []
        assert {f"run {number}/1" for number in kept} <= set(b.handler.calls)


async def test_unwritable_keepalive_of_one_segment_moves_it_and_leaves_the_others(database: Database) -> None:
    async with running_cluster(database, life_seconds=SHORT_LIFE_SECONDS, target=16) as cluster:
        await cluster.segments({1: 1, 2: 1, 3: 1})
        cluster.master()
        a = cluster.worker("a")
        await eventually(lambda: a.owns == [1, 2, 3] and all(cluster.world.alive(n) for n in (1, 2, 3)))
        others = [cluster.world.alive(number) for number in (1, 3)]
        b = cluster.worker("b")

        a.handler.unwritable.add(2)

        await eventually(lambda: cluster.world.alive(2, "host-of-b"))
        assert (a.owns, b.owns) == ([1, 3], [2])
        assert [cluster.world.alive(number) for number in (1, 3)] == others


async def test_cut_renewals_of_one_segment_move_it_and_leave_the_others(database: Database) -> None:
    async with running_cluster(database, life_seconds=SHORT_LIFE_SECONDS, target=16) as cluster:
        await cluster.segments({1: 1, 2: 1, 3: 1})
        cluster.master()
        leases = CutLeases(database, SHORT_LIFE_SECONDS)
        a = cluster.worker("a", leases=leases)
        await eventually(lambda: a.owns == [1, 2, 3] and all(cluster.world.alive(n) for n in (1, 2, 3)))
        others = [cluster.world.alive(number) for number in (1, 3)]
        b = cluster.worker("b")

        leases.cut.add(2)

        await eventually(lambda: cluster.world.alive(2, "host-of-b"))
        assert (a.owns, b.owns) == ([1, 3], [2])
        assert [cluster.world.alive(number) for number in (1, 3)] == others


async def test_segment_whose_keepalive_cannot_be_written_runs_where_it_can_from_the_beginning(
    cluster: Cluster,
) -> None:
    await cluster.segments({1: 1, 2: 1})
    first = cluster.master()
    handler = FakeHandler(cluster.world, "host-of-a", unwritable={2})
    a = cluster.worker("a", handler=handler)
    await eventually(lambda: a.owns == [1])
    await eventually(lambda: [s.state.value for s in first.master.snapshot().segments] == ["owned", "waiting"])
    assert not cluster.world.alive(2)

    b = cluster.worker("b")

    await eventually(lambda: b.owns == [2] and cluster.world.alive(2, "host-of-b"))


async def test_containers_left_by_an_earlier_process_end_before_a_lease_without_a_keepalive_is_released(
    cluster: Cluster,
) -> None:
    await cluster.segments({1: 1})
    cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: a.owns == [1] and cluster.world.alive(1))
    b = cluster.worker("b")
    await a.kill()

    again = FakeHandler(cluster.world, "host-of-a", unwritable={1})
    cluster.worker("a", handler=again)

    await eventually(lambda: cluster.world.alive(1, "host-of-b"), within_seconds=AT_ONCE_SECONDS)
    assert again.calls == ["stop 1/2"]
    assert b.owns == [1]


async def test_failing_demand_of_one_segment_keeps_worker_and_segments(cluster: Cluster) -> None:
    await cluster.segments({1: 1, 2: 1})
    first = cluster.master()
    handler = FakeHandler(cluster.world, "host-of-a", failing_demands={2}, demands={1: Demand(Need(3))})

    a = cluster.worker("a", handler=handler)

    await eventually(lambda: a.owns == [1, 2] and cluster.world.alive(1) and cluster.world.alive(2))
    await eventually(
        lambda: [worker.demands for worker in first.master.snapshot().workers]
        == [{"1": Demand(Need(3)), "2": Demand()}]
    )
    assert not a.task.done()


async def test_segment_whose_acquisition_fails_unexpectedly_goes_to_another_worker(database: Database) -> None:
    async with running_cluster(database, target=16) as cluster:
        await cluster.segments({1: 1, 2: 1})
        cluster.master()
        leases = CutLeases(database, cluster.life_seconds)
        leases.broken.add(2)
        a = cluster.worker("a", leases=leases)
        await eventually(lambda: a.owns == [1])

        b = cluster.worker("b")

        await eventually(lambda: b.owns == [2] and cluster.world.alive(2, "host-of-b"))
        assert a.owns == [1]


async def test_segment_without_a_keepalive_is_refused_although_its_containers_cannot_be_stopped(
    database: Database,
) -> None:
    async with running_cluster(database, life_seconds=SHORT_LIFE_SECONDS, target=16) as cluster:
        await cluster.segments({1: 1})
        cluster.master()
        stuck = FakeHandler(cluster.world, "host-of-a", unwritable={1}, failing_stops=1_000_000)
        cluster.worker("a", handler=stuck)
        await eventually(lambda: stuck.calls)

        b = cluster.worker("b")

        await eventually(lambda: b.owns == [1] and cluster.world.alive(1, "host-of-b"))


async def test_engine_that_does_not_answer_gives_its_segments_up_one_after_another(database: Database) -> None:
    async with running_cluster(database, life_seconds=SHORT_LIFE_SECONDS, target=16) as cluster:
        await cluster.segments({1: 1, 2: 1})
        cluster.master()
        a = cluster.worker("a")
        await eventually(lambda: a.owns == [1, 2] and cluster.world.alive(1) and cluster.world.alive(2))
        a.handler.lost = True
        await eventually(lambda: a.worker.snapshot().impediment)
        assert a.owns == [1, 2]

        b = cluster.worker("b")

        await eventually(lambda: len(b.owns) == 1)
        assert sorted(a.owns + b.owns) == [1, 2]
        (moved,) = b.owns
        await eventually(lambda: cluster.world.alive(moved, "host-of-b"))
        assert a.handler.calls.count(f"stop {a.owns[0]}/1") == 0


async def test_entity_that_waits_for_room_moves_with_its_segment_to_an_engine_that_has_it(database: Database) -> None:
    async with running_cluster(database, target=16) as cluster:
        await cluster.segments({1: 1, 2: 1})
        cluster.master()
        a = cluster.worker("a", handler=(full := FakeHandler(cluster.world, "host-of-a")))
        await eventually(lambda: a.owns == [1, 2])
        b = cluster.worker("b", handler=FakeHandler(cluster.world, "host-of-b", room=Room(Need(9), Need(9), Need(1))))

        full.demands[2] = Demand(Need(3), lacking=Need(1))
        full.room = Room(Need(9), Need(0), Need(1))

        await eventually(lambda: (a.owns, b.owns) == ([1], [2]))


async def test_a_worker_that_leaves_hands_its_segment_over_at_once(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: cluster.world.alive(1))
    b = cluster.worker("b")

    await a.leave()

    assert a.handler.calls[-1] == "stop 1/1"
    assert not cluster.world.alive(1, "host-of-a")
    await eventually(lambda: cluster.world.alive(1, "host-of-b"), within_seconds=AT_ONCE_SECONDS)
    assert b.owns == [1]


async def test_a_killed_worker_is_known_to_be_gone_at_once(cluster: Cluster) -> None:
    first = cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: first.master.snapshot().workers)

    await a.kill()

    await eventually(lambda: first.master.snapshot().workers == [], within_seconds=AT_ONCE_SECONDS)
    assert first.master.leads


async def test_a_killed_workers_segment_moves_when_its_lease_has_run_out(forgetful_cluster: Cluster) -> None:
    cluster = forgetful_cluster
    await cluster.segments({1: 1})
    cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: a.owns == [1] and cluster.world.alive(1))
    b = cluster.worker("b")

    await a.kill()

    await eventually(lambda: b.owns == [1] and cluster.world.alive(1, "host-of-b"))


async def test_segments_of_the_last_two_workers_of_an_engine_that_die_at_once_move_when_the_leases_have_run_out(
    forgetful_cluster: Cluster, tmp_path: Path
) -> None:
    cluster = forgetful_cluster
    await cluster.segments({1: 1, 2: 1})
    cluster.master()
    folders = EngineFolders(tmp_path / "shared", tmp_path / "work")
    a, b = (cluster.worker(name, host="engine", folders=folders) for name in ("a", "b"))
    await eventually(lambda: owned_by([a, b]) == [1, 2] and len(a.owns) == 1 and cluster.world.alive(1))
    c = cluster.worker("c")
    await eventually(lambda: cluster.world.alive(2))

    await asyncio.gather(a.kill(), b.kill())

    await eventually(lambda: c.owns == [1, 2], within_seconds=AT_ONCE_SECONDS)
    await eventually(
        lambda: all(cluster.world.alive(one, "host-of-c") for one in (1, 2)), within_seconds=AT_ONCE_SECONDS
    )
    cluster.world.check_law()


async def test_worker_restarted_within_its_leases_keeps_its_segments_and_their_containers(database: Database) -> None:
    async with running_cluster(database, target=16) as cluster:
        await cluster.segments({1: 1, 2: 1, 3: 1, 4: 1})
        cluster.master()
        a, b = cluster.worker("a"), cluster.worker("b")
        await eventually(lambda: owned_by([a, b]) == [1, 2, 3, 4] and all(cluster.world.alive(n) for n in range(1, 5)))
        kept = b.owns
        containers = [cluster.world.alive(number) for number in kept]
        cluster.worker("c")

        await b.kill()
        again = cluster.worker("b")

        await eventually(lambda: again.owns == kept, within_seconds=AT_ONCE_SECONDS)
        assert [cluster.world.alive(number) for number in kept] == containers
        epochs = await cluster.epochs()
        assert [epochs[number] for number in kept] == [2, 2]


async def test_a_master_that_restarts_moves_and_interrupts_nothing(cluster: Cluster) -> None:
    await cluster.segments(dict.fromkeys(range(1, 6), 1))
    first = cluster.master()
    workers = [cluster.worker(f"w{number}") for number in range(5)]
    await eventually(lambda: owned_by(workers) == [1, 2, 3, 4, 5])
    before = [worker.owns for worker in workers]
    await first.stop()

    await eventually(lambda: not any(worker.worker.snapshot().master_id for worker in workers))
    assert [worker.owns for worker in workers] == before
    second = cluster.master()
    await eventually(lambda: len(second.master.snapshot().workers) == 5)
    await eventually(lambda: [s.state.value for s in second.master.snapshot().segments] == ["owned"] * 5)

    assert [worker.owns for worker in workers] == before
    # On a busy machine one may have come too late for a segment of its own.
    assert [sorted(worker.handler.calls) for worker in workers] == [
        [f"run {segment}/1" for segment in segments] for segments in before
    ]


async def test_master_whose_decision_fails_unexpectedly_leads_on_and_decides_again(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    leases = CutLeases(cluster.database, cluster.life_seconds)
    leases.failing_surveys = 2
    cluster.leases = leases
    first = cluster.master()

    a = cluster.worker("a")

    await eventually(lambda: a.owns == [1])
    assert leases.failing_surveys == 0
    assert first.master.leads
    assert not first.task.done()


async def test_second_master_takes_over_without_moves(cluster: Cluster) -> None:
    await cluster.segments({1: 1, 2: 1})
    first = cluster.master(0)
    await eventually(lambda: first.readiness.ready)
    second = cluster.master(1)
    workers = [cluster.worker("a"), cluster.worker("b")]
    await eventually(lambda: owned_by(workers) == [1, 2])
    before = [worker.owns for worker in workers]
    await eventually(lambda: second.master.leader == "master-0")
    assert not second.readiness.ready
    assert second.master.snapshot().workers == []

    await first.stop()

    await eventually(lambda: second.readiness.ready, within_seconds=AT_ONCE_SECONDS)
    await eventually(lambda: len(second.master.snapshot().workers) == 2)
    assert [worker.owns for worker in workers] == before
    assert all(len(worker.handler.calls) == 1 for worker in workers)


async def test_a_segment_that_becomes_empty_is_given_back_and_one_that_fills_is_given_out(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    first = cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: cluster.world.alive(1))

    await cluster.segments({1: 0, 2: 1})
    first.master.changed()

    await eventually(lambda: a.owns == [2])
    assert a.handler.calls[:2] == ["run 1/1", "stop 1/1"]
    assert set(await cluster.epochs()) == {2}


async def test_a_stop_that_fails_keeps_the_lease_until_it_has_worked(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    cluster.master()
    a = cluster.worker("a")
    await eventually(lambda: cluster.world.alive(1))
    b = cluster.worker("b")
    a.handler.failing_stops = 4

    await a.leave()

    assert a.handler.calls.count("stop 1/1") == 5
    await eventually(lambda: b.owns == [1] and cluster.world.alive(1))
    cluster.world.check_law()


async def test_a_handler_that_fails_is_run_again_under_the_same_lease(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    cluster.master()
    handler = FakeHandler(cluster.world, "host-of-a", failing_runs=2)

    a = cluster.worker("a", handler=handler)

    await eventually(lambda: cluster.world.alive(1))
    assert handler.calls == ["run 1/1"] * 3
    assert a.owns == [1]


async def test_segment_that_a_worker_claims_and_does_not_acquire_goes_to_another(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    cluster.master()
    false = cluster.false_worker("a", claims=1)
    await eventually(lambda: false.assigned == {1})

    b = cluster.worker("b")

    await eventually(lambda: b.owns == [1] and cluster.world.alive(1, "host-of-b"))
    await eventually(lambda: false.assigned == set())


async def test_a_worker_without_an_engine_is_passed_over_until_it_has_one(cluster: Cluster) -> None:
    await cluster.segments({1: 1, 2: 1})
    first = cluster.master()
    handler = FakeHandler(cluster.world, "host-of-a", impediment="the engine does not answer")
    a = cluster.worker("a", handler=handler)
    await eventually(lambda: len(first.master.snapshot().workers) == 1)
    b = cluster.worker("b")
    await eventually(lambda: b.owns == [1, 2])
    assert a.owns == []

    handler.impediment = ""

    await eventually(lambda: (a.owns, b.owns) == ([2], [1]))
    handler.impediment = "the engine does not answer"
    await eventually(lambda: any(worker.impediment for worker in first.master.snapshot().workers))
    assert a.owns == [2]


async def test_worker_gets_a_segment_as_soon_as_its_engine_is_ready_and_not_with_its_next_heartbeat(
    database: Database,
) -> None:
    async with running_cluster(database, heartbeat_seconds=60.0, death_seconds=120.0) as cluster:
        await cluster.segments({1: 1})
        first = cluster.master()
        handler = FakeHandler(cluster.world, "host-of-a", impediment="the network of bots is being set up")
        a = cluster.worker("a", handler=handler)
        await eventually(lambda: [worker.impediment for worker in first.master.snapshot().workers] != [])

        handler.impediment = ""
        for changed in handler.listeners:
            changed()

        await eventually(lambda: a.owns == [1], within_seconds=AT_ONCE_SECONDS)


async def test_loops_of_the_leader_run_only_while_it_leads_and_one_that_fails_is_begun_again(cluster: Cluster) -> None:
    calls: list[str] = []

    async def loop() -> None:
        calls.append("begun")
        if len(calls) == 1:
            raise RuntimeError("as the test requires")
        try:
            await asyncio.Event().wait()
        finally:
            calls.append("ended")

    first = cluster.master(0, while_leading=[("loop", loop)])
    await eventually(lambda: calls == ["begun", "begun"])
    second = cluster.master(1, while_leading=[("loop", loop)])
    await eventually(lambda: second.master.leader == "master-0")
    assert first.master.leads

    await first.stop()

    await eventually(lambda: calls == ["begun", "begun", "ended", "begun"])


async def test_a_second_process_of_a_worker_takes_over_and_the_first_ends_without_touching_containers(
    cluster: Cluster,
) -> None:
    await cluster.segments({1: 1})
    cluster.master()
    old = cluster.worker("a")
    await eventually(lambda: cluster.world.alive(1))

    new = cluster.worker("a")

    await eventually(lambda: old.task.done() and new.owns == [1])
    assert isinstance(old.task.exception(), WorkerReplaced | WorkerSuperseded)
    assert "stop 1/1" not in old.handler.calls
    (container,) = cluster.world.alive(1)
    assert container.epoch == 1


async def test_a_namesake_on_another_host_gets_the_segment_when_the_first_has_given_it_back(cluster: Cluster) -> None:
    await cluster.segments({1: 1})
    cluster.master()
    old = cluster.worker("a", host="host-1")
    await eventually(lambda: cluster.world.alive(1))

    new = cluster.worker("a", host="host-2")

    await eventually(lambda: old.task.done() and new.owns == [1])
    assert isinstance(old.task.exception(), WorkerReplaced)
    await eventually(lambda: cluster.world.alive(1, "host-2"))
    assert not cluster.world.alive(1, "host-1")


async def test_a_database_that_is_away_moves_nothing_and_leaves_the_hosts_at_rest_in_time(tmp_path: Path) -> None:
    async with MongoServer.start(tmp_path) as server:
        mongo = Mongo(server.uri)
        # As long as in production, so that there is as much time to bring the hosts to rest.
        async with running_cluster(mongo.database("d"), life_seconds=5.0) as cluster:
            await cluster.segments({1: 1, 2: 1})
            first = cluster.master()
            workers = [cluster.worker("a"), cluster.worker("b")]
            await eventually(lambda: cluster.world.alive(1) and cluster.world.alive(2))
            await eventually(lambda: all(worker.worker.snapshot().held for worker in workers))

            server.pause()
            try:
                await eventually(lambda: all(worker.handler.calls[-1].startswith("stop") for worker in workers))
                await eventually(lambda: not cluster.world.alive(1) and not cluster.world.alive(2))
                stopped = [container.stopped for container in cluster.world.containers]
                # Stopped by the worker, before the container's dead-man's switch acted.
                assert all(
                    at is not None and at < container.alive_until
                    for at, container in zip(stopped, cluster.world.containers, strict=True)
                )
                await eventually(lambda: not first.readiness.ready)
            finally:
                server.resume()

            await eventually(lambda: owned_by(workers) == [1, 2])
            await eventually(lambda: cluster.world.alive(1) and cluster.world.alive(2))
        await mongo.close()


async def test_any_coming_and_going_keeps_the_first_law(forgetful_cluster: Cluster) -> None:
    cluster = forgetful_cluster
    await cluster.segments({1: 1, 2: 1, 3: 1})
    first = cluster.master(0)
    workers = {name: cluster.worker(name) for name in ("a", "b", "c", "d")}
    await eventually(lambda: owned_by(list(workers.values())) == [1, 2, 3])

    await workers.pop("a").kill()
    await workers.pop("b").leave()
    workers["e"] = cluster.worker("e")
    second = cluster.master(1)
    await first.stop()
    await workers.pop("c").kill()
    workers["c"] = cluster.worker("c")
    await cluster.segments({2: 0, 4: 1})
    second.master.changed()

    await eventually(lambda: owned_by(list(workers.values())) == [1, 3, 4])


@pytest.mark.parametrize("leaving", ["leave", "kill"])
async def test_everything_can_be_ended_at_once(cluster: Cluster, leaving: str) -> None:
    await cluster.segments({1: 1, 2: 1})
    cluster.master()
    workers = [cluster.worker("a"), cluster.worker("b")]
    await eventually(lambda: owned_by(workers) == [1, 2])

    for worker in workers:
        await (worker.leave() if leaving == "leave" else worker.kill())

    assert await cluster.epochs() == ({} if leaving == "leave" else {1: 1, 2: 1})
