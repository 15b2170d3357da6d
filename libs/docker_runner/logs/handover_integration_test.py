"""Logs of bots whose segment moves between hosts, with the rest uploaded after the lease is released, to a real S3."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from libs.core.storage.object_store import ObjectStore
from libs.docker_runner.logs.handover import HandOver
from libs.docker_runner.logs.history import LogHistory
from tests.support.eventually import eventually
from tests.support.fakes.log_host import Host, ModelEngine, a_container, store_of
from tools.stack.s3 import S3Server


class Lease:
    """The host that owns the segment."""

    holder = ""

    def is_of(self, name: str, segment: int) -> bool:
        return self.holder == name


class SlowStore:
    """A store whose writes below ``logs/`` wait for the event."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.may_write = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put(self, bucket: str, key: str, *more: Any, **options: Any) -> str:
        if key.startswith("logs/"):
            await self.may_write.wait()
        return await self._store.put(bucket, key, *more, **options)


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server, bucket_prefix: str) -> AsyncIterator[ObjectStore]:
    store = store_of(s3_server)
    await store.ensure_bucket(bucket_prefix)
    yield store
    await store.close()


@pytest.fixture
def hosts(store: ObjectStore, bucket_prefix: str, tmp_path: Path) -> list[Host]:
    return [
        Host(ModelEngine(), store, bucket_prefix, tmp_path / f"host-{number}", name=f"host-{number}")
        for number in range(3)
    ]


async def promised(one: HandOver, segment: int = 3) -> None:
    """Give the segment back, with a promise."""
    one.leave(segment)
    await eventually(lambda: (turn := one.release(segment)) is not None and turn.promised)


async def all_parts(host: Host) -> list[tuple[str, bytes]]:
    history = LogHistory(host.store, host.bucket)
    return [(part.key, b"".join([p async for p in history.read([part])])) for part in await history.parts("b1")]


async def promises(host: Host) -> list[str]:
    return [info.key async for info in host.store.list(host.bucket, ".the0/promises/")]


async def test_rest_uploaded_after_the_release_precedes_what_the_next_owner_adds(hosts: list[Host]) -> None:
    first, second, _ = hosts
    slow: Any = SlowStore(first.store)
    first.store = slow
    lease = Lease()
    lease.holder = "first"
    old, new = a_container("c1", segment=3), a_container("c2", segment=3)
    removed: list[str] = []

    async def remove() -> None:
        removed.append(old.container_id)

    async with (
        first.worker(owns=lambda segment: lease.holder == "first", interval_seconds=3600) as leaving,
        second.worker(owns=lambda segment: lease.holder == "second") as coming,
    ):
        leaving.begin(3, 1)
        leaving.following.follow(old)
        await first.engine.write(old, b"old\n")
        leaving.leave(3)
        await leaving.release(3, 60)
        assert len(await promises(second)) == 1
        await first.engine.end(old)
        leaving.finish_later(3, [old], remove)
        lease.holder = "second"
        coming.begin(3, 2)
        coming.following.follow(new)
        await second.engine.write(new, b"new\n")
        await eventually(lambda: removed == ["c1"])
        await eventually(lambda: (bot := coming.uploads.bot("b1")) is not None and bot.attempts >= 2)
        assert await second.object() == b"", "the next owner waits for its turn"

        slow.may_write.set()
        await leaving.finished(60)

        assert await second.becomes(b"old\nnew\n")
    assert [key for key, _ in await all_parts(second)] == ["logs/b1/20260131.log"]
    assert await promises(second) == []


async def test_rest_goes_beside_the_object_when_no_promise_was_made(hosts: list[Host]) -> None:
    first, second, _ = hosts
    lease = Lease()
    lease.holder = "first"
    old, new = a_container("c1", segment=3), a_container("c2", segment=3)
    async with first.worker(owns=lambda segment: lease.holder == "first", interval_seconds=3600) as leaving:
        leaving.following.follow(old)
        await first.engine.write(old, b"old\n")
        await eventually(lambda: (bot := leaving.uploads.bot("b1")) is not None and bot.spool.pending_bytes)
        lease.holder = "second"
        await first.engine.end(old)
        leaving.finish_later(3, [old])
        await leaving.finished(60)
        async with second.worker(owns=lambda segment: lease.holder == "second") as coming:
            coming.following.follow(new)
            await second.engine.write(new, b"new\n")
            assert await second.becomes(b"new\n")
    async with first.worker(owns=lambda segment: False):

        async def both() -> bool:
            return [content for _, content in await all_parts(second)] == [b"new\n", b"old\n"]

        await eventually(both)


async def test_segment_that_moves_twenty_times_has_one_object_in_order(hosts: list[Host]) -> None:
    lease = Lease()
    logged = b""
    async with AsyncExitStack() as workers:
        pipelines = {}
        for host in hosts:
            mine = host.worker(owns=partial(lease.is_of, host.name), interval_seconds=0.05)
            pipelines[host.name] = await workers.enter_async_context(mine)
        for move in range(20):
            host = hosts[move % len(hosts)]
            pipeline = pipelines[host.name]
            await pipeline.finished(60)
            lease.holder = host.name
            pipeline.begin(3, move + 1)
            container = a_container(f"c{move}", segment=3)
            lines = [b"move %d line %d\n" % (move, number) for number in range(5)]
            logged += b"".join(lines)
            pipeline.following.follow(container)
            await host.engine.write(container, *lines)
            pipeline.leave(3)
            await pipeline.release(3, 60)
            await host.engine.end(container)
            pipeline.finish_later(3, [container])
        for pipeline in pipelines.values():
            await pipeline.finished(60)

        assert await hosts[0].becomes(logged)
        assert len(await all_parts(hosts[0])) == 1


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_promise_of_a_dead_worker_holds_the_next_owner_up_for_a_bounded_time(
    store: ObjectStore, bucket_prefix: str
) -> None:
    dead = HandOver(store, bucket_prefix, place="x", writer="a", owns=lambda segment: True)
    await promised(dead, 3)
    clock = Clock()
    next_owner = HandOver(store, bucket_prefix, place="x", writer="b", owns=lambda segment: True, clock=clock)

    await next_owner.prepare(3)
    assert not next_owner.may_add(3)
    assert next_owner.waits(3)
    clock.now += 24.0
    await next_owner.prepare(3)
    assert not next_owner.may_add(3)
    clock.now += 1.0
    await next_owner.prepare(3)

    assert next_owner.may_add(3)
    assert [info.key async for info in store.list(bucket_prefix, ".the0/promises/")] == []


async def test_promises_of_other_segments_places_and_processes_of_the_host_do_not_delay(
    store: ObjectStore, bucket_prefix: str
) -> None:
    for place, writer, segment in (("x", "a", 4), ("y", "a", 3), ("x", "b", 3)):
        one = HandOver(store, bucket_prefix, place=place, writer=writer, owns=lambda segment: True)
        await promised(one, segment)
    next_owner = HandOver(store, bucket_prefix, place="x", writer="b", owns=lambda segment: True)

    await next_owner.prepare(3)

    assert next_owner.may_add(3)


async def test_rest_may_be_added_for_ten_seconds_after_the_release_and_never_after_a_lost_lease(
    store: ObjectStore, bucket_prefix: str
) -> None:
    clock, lease = Clock(), Lease()
    lease.holder = "a"
    one = HandOver(store, bucket_prefix, place="x", writer="a", owns=lambda segment: lease.holder == "a", clock=clock)
    await one.prepare(3)
    assert one.may_add(3)
    lease.holder = ""
    assert not one.may_add(3), "a lease that was lost"
    lease.holder = "a"
    await promised(one, 3)
    lease.holder = ""

    clock.now += 9.9
    assert one.may_add(3)
    clock.now += 0.2
    assert not one.may_add(3)


async def test_lease_that_is_lost_and_acquired_again_looks_for_promises_again(
    store: ObjectStore, bucket_prefix: str
) -> None:
    one = HandOver(store, bucket_prefix, place="x", writer="a", owns=lambda segment: True)
    one.begin(3, 1)
    await one.prepare(3)
    assert one.may_add(3)
    other = HandOver(store, bucket_prefix, place="x", writer="b", owns=lambda segment: True)
    await promised(other, 3)

    one.begin(3, 3)
    await one.prepare(3)

    assert not one.may_add(3)
