"""Events from a real stream into a real MongoDB, through everything that may happen to the stream and the servers."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from libs.core.aio.wake import Wake
from libs.core.events.wakeups import WakeUps
from libs.core.observability.metrics import registry
from libs.core.store.client import Mongo, StoreUnavailable
from tests.support.eventually import eventually
from tests.support.rigs.event_rig import EventRig, EventWorker, event_rig, ingesting_rig, payload
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer

__all__ = ["ingesting_rig"]


async def any_in_hand(rig: EventRig) -> bool:
    return any(consumer.num_ack_pending for consumer in await rig.consumers())


async def test_missing_stream_is_created_as_in_contract(rig: EventRig) -> None:
    await rig.start_worker()
    state = await rig.jetstream.stream(rig.stream_name)
    assert state.subjects == rig.subjects
    found = await rig.jetstream._ask("info", f"STREAM.INFO.{rig.stream_name}", {})
    config = found["config"]
    assert (config["storage"], config["retention"], config["max_age"]) == ("file", "limits", 7 * 86400 * 10**9)


async def test_an_event_is_acknowledged_after_mongodb_has_it(rig: EventRig) -> None:
    await rig.start_worker()
    await rig.created("b1", pair="BTC")
    bot = await eventually(lambda: rig.bots.find_one({"id": "b1"}))
    assert bot["config"] == {"pair": "BTC"}
    await eventually(rig.all_acknowledged)


async def test_events_published_before_any_worker_started_are_read(rig: EventRig) -> None:
    await rig.make_stream()
    await rig.created("b1")
    await rig.start_worker()
    await eventually(lambda: rig.ids())


async def test_workers_share_the_events_and_the_last_update_counts(rig: EventRig) -> None:
    for _ in range(3):
        await rig.start_worker()
    for n in range(200):
        await (rig.created if n < 10 else rig.updated)(f"b{n % 10}", n=n)
    await eventually(rig.all_acknowledged)
    assert {bot["id"]: bot["config"]["n"] async for bot in rig.bots.find()} == {f"b{n}": 190 + n for n in range(10)}


async def test_a_worker_that_dies_with_events_in_hand_loses_none(rig: EventRig, database_name: str) -> None:
    await rig.make_stream()
    slow = SlowStore(rig.store())
    first = await rig.start_worker(store=slow, ack_wait_seconds=0.4)  # type: ignore[arg-type]
    await rig.created("b1")
    await eventually(lambda: any_in_hand(rig))
    await first.kill()
    await rig.start_worker(ack_wait_seconds=0.4)
    await eventually(lambda: rig.ids())


class SlowStore:
    """A store whose writes take until they are released."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.released = asyncio.Event()
        self.calls = 0

    async def apply(self, events: Any) -> Any:
        self.calls += 1
        await self.released.wait()
        return await self._store.apply(events)


async def test_an_event_whose_write_is_slow_is_not_given_to_another_worker(rig: EventRig) -> None:
    times_given = []
    # A machine that stands still for a part of the first of these times gives the event away. Then longer ones are.
    for ack_wait_seconds in (0.2, 2.0, 10.0):
        times_given.append(await times_given_while_slow(rig, ack_wait_seconds))
        if times_given[-1] == 1:
            break
    assert times_given[-1] == 1, times_given


async def times_given_while_slow(rig: EventRig, ack_wait_seconds: float) -> int:
    """How often an event is handed to a worker when its write takes more than twice the time to acknowledge it."""
    await rig.remake_stream()
    slow, other = SlowStore(rig.store()), SlowStore(rig.store())
    first = await rig.start_worker(store=slow, ack_wait_seconds=ack_wait_seconds)  # type: ignore[arg-type]
    await rig.created("b1")
    await eventually(lambda: slow.calls)
    second = await rig.start_worker(store=other, ack_wait_seconds=ack_wait_seconds)  # type: ignore[arg-type]
    await asyncio.sleep(2.25 * ack_wait_seconds)
    slow.released.set()
    other.released.set()
    await eventually(rig.all_acknowledged)
    await first.kill()
    await second.kill()
    return slow.calls + other.calls


async def test_a_slow_worker_asks_for_no_more_than_it_can_hold_and_loses_none(rig: EventRig) -> None:
    await rig.make_stream()
    slow = SlowStore(rig.store())
    await rig.start_worker(store=slow, capacity=100)  # type: ignore[arg-type]
    for first in range(0, 500, 50):
        await asyncio.gather(*(rig.created(f"b{n}") for n in range(first, first + 50)))
    await eventually(lambda: any_in_hand(rig))
    [consumer] = await rig.consumers()
    assert consumer.num_ack_pending is not None
    assert consumer.num_ack_pending <= 100
    slow.released.set()
    await eventually(rig.all_acknowledged)
    assert len(await rig.ids()) == 500


async def test_ingestion_goes_on_by_itself_when_the_stream_is_deleted_and_made_again(rig: EventRig) -> None:
    await rig.make_stream()
    workers = [await rig.start_worker(), await rig.start_worker()]
    for round_number in range(3):
        await rig.remake_stream()
        await rig.created(f"b{round_number}")
        await eventually(partial(rig.has, f"b{round_number}"))
    await eventually(lambda: all(worker.readiness.states["events"].ok for worker in workers))


async def test_recreated_stream_loses_no_acknowledged_event(
    rig: EventRig,
) -> None:
    await rig.make_stream()
    for _ in range(2):
        await rig.start_worker()
    for round_number in range(4):
        for n in range(50):
            await rig.created(f"{round_number}-{n}")
        await eventually(rig.all_acknowledged)
        await rig.remake_stream()
    assert len(await rig.ids()) == 200
    counts = await rig.store().partitions.occupied()
    assert sum(counts.values()) == 200


async def test_vanished_stream_is_recreated_after_grace(rig: EventRig) -> None:
    await rig.start_worker()
    await rig.delete_stream()
    await eventually(lambda: rig.jetstream.stream(rig.stream_name))
    await rig.created("b1")
    await eventually(lambda: rig.has("b1"))


async def test_a_consumer_deleted_by_hand_is_made_again(rig: EventRig) -> None:
    await rig.start_worker()
    [consumer] = await rig.consumers()
    await rig.jetstream.delete_consumer(rig.stream_name, consumer.name)
    await rig.created("b1")
    await eventually(lambda: rig.has("b1"))


async def test_a_stream_without_a_needed_subject_is_an_error_that_names_it(rig: EventRig) -> None:
    await rig.make_stream(subjects=[rig.service.created_subject])
    worker = await rig.start_worker(ready=False)
    await eventually(lambda: "without the subject" in worker.readiness.states["events"].detail)
    state = worker.readiness.states["events"]  # nothing else has run since
    assert str(rig.service.updated_subject) in state.detail
    assert str(rig.service.created_subject) not in state.detail
    assert (state.ok, state.required) == (False, True)
    await rig.created("b1")  # what is there is read all the same
    await eventually(lambda: rig.has("b1"))
    await rig.remake_stream()
    await eventually(lambda: worker.readiness.states["events"].ok)


async def test_a_stream_that_is_updated_to_fewer_subjects_is_read_on_and_the_missing_one_is_named(
    rig: EventRig,
) -> None:
    await rig.make_stream()
    worker = await rig.start_worker()
    await rig.update_stream(subjects=[rig.service.created_subject])
    state = await eventually(lambda: without_subject(worker))
    assert (state.required, str(rig.service.deleted_subject) in state.detail) == (True, True)
    assert str(rig.service.created_subject) not in state.detail

    await rig.created("b1")

    await eventually(lambda: rig.has("b1"))
    await rig.update_stream(subjects=list(rig.subjects))
    await eventually(lambda: worker.readiness.states["events"].ok)


async def test_a_stream_that_loses_subjects_of_other_services_is_read_on(rig: EventRig) -> None:
    others = f"{rig.stream_name}.backtest.created"
    await rig.make_stream(subjects=[*rig.subjects, others])
    worker = await rig.start_worker()
    await rig.update_stream(subjects=list(rig.subjects))

    await rig.created("b1")

    await eventually(lambda: rig.has("b1"))
    assert worker.readiness.states["events"].required
    await eventually(lambda: worker.readiness.states["events"].ok)


async def test_service_without_subjects_in_stream_names_missing_ones(rig: EventRig) -> None:
    others = f"{rig.stream_name}.backtest.created"
    await rig.make_stream(subjects=[*rig.subjects, others])
    worker = await rig.start_worker()

    await rig.update_stream(subjects=[others])

    state = await eventually(lambda: without_subject(worker))
    assert all(subject in state.detail for subject in rig.subjects)


def without_subject(worker: EventWorker) -> Any:
    state = worker.readiness.states["events"]
    return state if "without the subject" in state.detail else None


class UnavailableStore:
    """A store whose database is down until the test restores it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.away = True
        self.attempts = 0

    async def apply(self, events: Any) -> Any:
        self.attempts += 1
        if self.away:
            raise StoreUnavailable("stepping down")
        return await self._store.apply(events)


async def test_a_database_that_is_away_uses_up_no_retries(rig: EventRig) -> None:
    store = UnavailableStore(rig.store())
    await rig.start_worker(store=store, max_retries=1)  # type: ignore[arg-type]
    await rig.created("b1")
    await eventually(lambda: store.attempts >= 4)
    store.away = False
    await eventually(lambda: rig.has("b1"))
    assert await rig.dead_letters.list() == []


async def test_the_owner_of_a_segment_is_woken_by_an_event(rig: EventRig) -> None:
    worker = await rig.start_worker()
    await rig.created("b1")
    await eventually(lambda: rig.has("b1"))
    segment, masters = Wake(), Wake()
    wakeups = WakeUps(worker.connection, rig.service.name)
    [entity] = await worker.store.page()
    async with wakeups.waking(entity.segment_id, segment):
        listening = await wakeups.on_partitions(masters)
        assert listening is not None
        await segment.wait_at_most(1)
        await masters.wait_at_most(1)
        await rig.deleted("b1")
        assert await segment.wait_at_most(60)
        assert await masters.wait_at_most(60)
        await listening.cancel()


async def test_wake_of_a_segment_is_set_by_nothing_after_its_block(rig: EventRig) -> None:
    worker = await rig.start_worker()
    wakeups = WakeUps(worker.connection, rig.service.name)
    ended, kept = Wake(), Wake()
    async with wakeups.waking(1, kept):
        async with wakeups.waking(1, ended):
            await wakeups.segments_changed([1])
            assert await ended.wait_at_most(60)
        await kept.wait_at_most(60)
        await ended.wait_at_most(0)
        await wakeups.segments_changed([1])
        assert await kept.wait_at_most(60)
        assert not await ended.wait_at_most(0)


async def test_without_nats_wake_ups_do_nothing() -> None:
    wakeups = WakeUps(None, "bot-runner")
    await wakeups.segments_changed([1])
    async with wakeups.waking(1, Wake()):
        pass
    assert await wakeups.on_partitions(Wake()) is None


async def test_the_trace_of_an_event_is_kept_with_its_entity(rig: EventRig) -> None:
    await rig.start_worker()
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await rig.raw(payload("b1"), {"traceparent": traceparent})
    bot = await eventually(lambda: rig.bots.find_one({"id": "b1"}))
    assert bot["trace"] == {"traceparent": traceparent}


async def test_a_restarted_nats_server_is_found_again(mongo_uri: str, database_name: str, tmp_path: Path) -> None:
    async with NatsServer.start(tmp_path) as server, event_rig(mongo_uri, database_name, server.url) as rig:
        await rig.client.wait_connected()
        await rig.start_worker()
        await rig.created("before")
        await server.kill()
        await server.launch()
        await rig.client.wait_connected()
        await eventually(lambda: rig.created("after"))
        await eventually(partial(rig.has_just, "before", "after"))


async def test_a_frozen_nats_server_is_noticed_and_used_again(
    mongo_uri: str, database_name: str, tmp_path: Path
) -> None:
    async with NatsServer.start(tmp_path) as server, event_rig(mongo_uri, database_name, server.url) as rig:
        await rig.client.wait_connected()
        worker = await rig.start_worker()
        server.pause()
        await eventually(lambda: not worker.connection.connected)
        server.resume()
        await eventually(lambda: rig.client.connected and worker.connection.connected)
        await eventually(lambda: rig.created("after"))
        await eventually(lambda: rig.has("after"))


async def test_nats_may_come_after_the_worker(mongo_uri: str, database_name: str, tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    async with event_rig(mongo_uri, database_name, server.url) as rig:
        worker = await rig.start_worker(ready=False)
        await eventually(lambda: "waiting for NATS" in worker.readiness.states["events"].detail)
        assert not worker.readiness.states["nats"].ok
        await server.launch()
        try:
            await rig.client.wait_connected()
            await eventually(lambda: rig.created("b1"))
            await eventually(lambda: rig.has("b1"))
            await eventually(lambda: worker.readiness.ready)
        finally:
            for each in rig.workers:
                await each.kill()
            await server.stop()


async def test_a_mongodb_that_goes_away_loses_no_event(
    database_name: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    async with (
        MongoServer.start(tmp_path) as server,
        event_rig(server.uri, database_name, nats_server.url) as rig,
    ):
        await rig.client.wait_connected()
        await rig.store().ensure_indexes()
        mongo = Mongo(server.uri, timeout_seconds=0.5, answer_timeout_seconds=1)
        await rig.start_worker(mongo=mongo, max_retries=1)
        await server.kill()
        for n in range(20):
            await rig.created(f"b{n}")
        await eventually(lambda: retried(rig))
        await server.launch()
        await eventually(lambda: twenty(rig))
        assert await rig.dead_letters.list() == []
        await mongo.close()


def retried(rig: EventRig) -> float:
    labels = {"subject": rig.service.created_subject, "outcome": "retried"}
    return registry.get_sample_value("runtime_events_total", labels) or 0


async def twenty(rig: EventRig) -> bool:
    return len(await rig.ids()) == 20
