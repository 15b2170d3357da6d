"""Restarts on a host without the storage: with the last state, saved or not, and never with an older one."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.storage.errors import StorageUnavailable
from libs.core.storage.object_store import ObjectStore
from libs.core.store.client import Mongo
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.errors import StateUnavailable
from libs.docker_runner.state import keeper
from libs.docker_runner.state.keeper import UNSAVED_SECONDS
from tests.support.fakes.log_host import store_of
from tests.support.rigs.state_hosts import BOT, Host, World
from tools.stack.s3 import S3Server


class Away(ObjectStore):
    """A storage that can be away, or answer no write."""

    is_away = is_frozen = False

    async def put_file(self, bucket: str, key: str, path: Path, content_type: str = "") -> str:
        if self.is_frozen:
            await asyncio.Event().wait()
        self._check()
        return await super().put_file(bucket, key, path, content_type)

    async def get_to_file(self, bucket: str, key: str, path: Path, *, etag: str, max_bytes: int) -> int:
        self._check()
        return await super().get_to_file(bucket, key, path, etag=etag, max_bytes=max_bytes)

    def _check(self) -> None:
        if self.is_away:
            raise StorageUnavailable("call", "it is away")


@pytest_asyncio.fixture(loop_scope="session")
async def store(s3_server: S3Server, bucket_prefix: str) -> AsyncIterator[Away]:
    objects = Away(store_of(s3_server).settings)
    await objects.ensure_bucket(bucket_prefix)
    yield objects
    await objects.close()


@pytest_asyncio.fixture(loop_scope="session")
async def world(
    mongo_uri: str, database_name: str, store: Away, bucket_prefix: str, tmp_path: Path
) -> AsyncIterator[World]:
    mongo = Mongo(mongo_uri, timeout_seconds=20)
    yield World(mongo.database(database_name), store, bucket_prefix, tmp_path)
    await mongo.close()


async def ended(host: Host, container: ManagedContainer) -> None:
    """Reap the container like the runner."""
    await host.keeper.keep(container)
    host.keeper.forget(container)
    host.folders.remove(container.scope, container.name, container.token)


async def begins(host: Host, run_id: str, epoch: int = 1) -> dict[str, bytes]:
    """Start the bot, and return the state with which it begins."""
    return dict((await host.start(replace(BOT, run_id=run_id, epoch=epoch)))[1])


async def unsaved_end(world: World, store: Away) -> Host:
    """A host whose bot has saved a=1, and then has ended with a=2 while the storage is away."""
    host, container = await world.started()
    await host.save(container, a="1")
    store.is_away = True
    host.write(container, a="2")
    await ended(host, container)
    return host


async def test_restart_without_the_storage_begins_with_the_saved_state(world: World, store: Away) -> None:
    host, container = await world.started()
    host.write(container, a="1")
    await ended(host, container)
    store.is_away = True

    restarted, begun = await host.start(replace(BOT, run_id="r2"))
    await ended(host, restarted)

    assert begun == await begins(host, "r3") == {"a": b"1"}, "also after a run that changed nothing"
    with pytest.raises(StateUnavailable):
        await world.host().start(replace(BOT, run_id="r4", epoch=2))


async def test_restart_without_the_storage_begins_with_what_could_not_be_saved_and_it_is_saved_later(
    world: World, store: Away
) -> None:
    host = await unsaved_end(world, store)

    container, begun = await host.start(replace(BOT, run_id="r2"))
    assert begun == {"a": b"2"}
    host.write(container, a="3")
    await ended(host, container)
    host.worker()
    assert await begins(host, "r3") == await begins(host, "r4") == {"a": b"3"}, "also after starts that failed"
    await host.keeper.save_changed()
    assert UNSAVED_SECONDS._value.get() > 0

    store.is_away = False
    host.now += 60
    await host.keeper.save_changed()

    assert await world.copied() == {"a": b"3"}
    assert [version.number for version in (await world.saved()).versions] == [1, 2]
    store.is_away = True
    assert await begins(host, "r5") == {"a": b"3"}
    store.is_away = False
    assert await begins(world.host(), "r6", epoch=2) == {"a": b"3"}
    await host.keeper.save_changed()
    assert UNSAVED_SECONDS._value.get() == 0


async def test_unsaved_state_is_saved_before_a_segment_moves(world: World, store: Away) -> None:
    host = await unsaved_end(world, store)
    container, _ = await host.start(replace(BOT, run_id="r2"))
    store.is_away = False

    await host.keeper.save(container)

    assert await begins(world.host(), "r3", epoch=2) == {"a": b"2"}


async def test_unsaved_state_is_neither_used_nor_saved_after_a_run_elsewhere(world: World, store: Away) -> None:
    host = await unsaved_end(world, store)
    store.is_away = False
    other = world.host()
    assert await begins(other, "r2", epoch=2) == {"a": b"1"}

    assert await begins(host, "r3", epoch=3) == {"a": b"1"}
    await host.keeper.save_changed()

    assert await world.copied() == {"a": b"1"}
    assert not list((host.folders._states).rglob("unsaved/*"))


async def test_unsaved_state_does_not_replace_what_a_later_run_saved(world: World, store: Away) -> None:
    host = await unsaved_end(world, store)
    container, _ = await host.start(replace(BOT, run_id="r2"))
    store.is_away = False

    await host.save(container, a="3")
    await host.keeper.save_changed()

    assert await world.copied() == {"a": b"3"}
    assert [version.number for version in (await world.saved()).versions] == [1, 2]


async def test_unsaved_state_is_not_used_after_a_command_changed_the_state(world: World, store: Away) -> None:
    host = await unsaved_end(world, store)
    store.is_away = False
    await world.database["bots"].update_one(
        {"id": BOT.id}, {"$inc": {"saved_state.number": 1}, "$set": {"saved_state.run_id": ""}}
    )

    assert await begins(host, "r2") == {"a": b"1"}


async def test_start_beside_a_worker_that_saves_the_unsaved_state_keeps_it(world: World, store: Away) -> None:
    host = await unsaved_end(world, store)
    [before] = host.folders.kept_states("s").all_unsaved("the0-")
    assert await begins(host, "r2") == {"a": b"2"}

    store.is_away = False
    await host.keeper._flush(before)

    assert await world.copied() == {"a": b"1"}, "what it knows is out of date"
    assert await begins(host, "r3") == {"a": b"2"}


async def test_end_with_a_new_state_waits_a_limited_time_for_a_frozen_storage(
    world: World, store: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_KEEP_SECONDS", 0.2)
    host, container = await world.started()
    host.write(container, a="1")
    store.is_frozen = True

    await asyncio.wait_for(ended(host, container), 60)

    assert await begins(host, "r2") == {"a": b"1"}


async def test_archive_that_is_no_state_leaves_the_last_one(world: World, store: Away) -> None:
    host = await unsaved_end(world, store)
    container, _ = await host.start(replace(BOT, run_id="r2"))
    host.put(container, b"no archive")
    await ended(host, container)

    assert await begins(host, "r3") == {"a": b"2"}


async def test_saved_states_on_the_host_are_removed_after_a_while_and_unsaved_ones_stay(
    world: World, store: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await unsaved_end(world, store)
    kept = host.folders.kept_states("s")
    (tar := world.directory / "old.tar").write_bytes(b"1")
    kept.keep_saved("other", tar)
    later = os.stat(kept.saved("other")).st_ctime + 4000

    kept.clean()
    assert kept.saved("other").exists()
    monkeypatch.setattr("time.time", lambda: later)
    kept.clean()

    assert not kept.saved("other").exists()
    assert await begins(host, "r2") == {"a": b"2"}
