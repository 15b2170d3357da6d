"""Workers that save and restore state with real servers: also when they crash or are replaced, or bots are hostile."""

import asyncio
import io
import itertools
import tarfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.saved_state import KEPT_VERSIONS
from libs.core.storage.errors import StorageUnavailable
from libs.core.storage.object_store import ObjectStore
from libs.core.store.client import Mongo
from libs.docker_runner.containers.names import run_folder
from libs.docker_runner.errors import StateFenced, StateUnavailable, StateUnsaved
from libs.docker_runner.state.archives import StateFile, tar_of
from libs.docker_runner.state.keys import copy_key
from tests.support.fakes.log_host import store_of
from tests.support.faults.deaths import Death
from tests.support.faults.tcp_proxy import TcpProxy
from tests.support.rigs.state_hosts import BOT, LIMITS, World, content_of
from tools.stack.s3 import S3Server


class Store(ObjectStore):
    """A storage that can refuse copies, or answer nothing."""

    refuses_copies = False
    refused = 0
    is_frozen = False

    async def put_file(self, bucket: str, key: str, path: Path, content_type: str = "") -> str:
        if self.is_frozen:
            await asyncio.Event().wait()
        if self.refuses_copies and key.endswith("/state.tar.gz"):
            self.refused += 1
            raise StorageUnavailable("put", "no copies now")
        return await super().put_file(bucket, key, path, content_type)


@pytest_asyncio.fixture(loop_scope="session")
async def world(
    mongo_uri: str, database_name: str, s3_server: S3Server, bucket_prefix: str, tmp_path: Path
) -> AsyncIterator[World]:
    mongo, objects = Mongo(mongo_uri, timeout_seconds=20), ObjectStore(store_of(s3_server).settings)
    await objects.ensure_bucket(bucket_prefix)
    yield World(mongo.database(database_name), objects, bucket_prefix, tmp_path)
    await objects.close()
    await mongo.close()


async def test_state_of_a_run_is_what_the_next_run_on_another_host_begins_with(world: World) -> None:
    await world.create()
    first, second = world.host(), world.host()
    container, begins_with = await first.start(BOT)
    assert begins_with == {}

    await first.save(container, a="1", b="2")

    _, begins_with = await second.start(replace(BOT, epoch=2, run_id="r2"))
    assert begins_with == {"a": b"1", "b": b"2"} == await world.copied()
    assert (await world.saved()).run_id == "r2"


async def test_change_is_saved_by_the_loop_and_an_equal_state_is_no_new_version(world: World) -> None:
    host, container = await world.started()

    for text in ("1", "2", "2"):
        host.write(container, a=text)
        await host.keeper.save_changed()

    state = await world.saved()
    assert [version.number for version in state.versions] == [1, 2]
    assert await world.copied() == {"a": b"2"}


async def test_owner_of_a_later_epoch_saves_what_an_earlier_one_of_its_worker_could_not(world: World) -> None:
    host, container = await world.started()
    await world.database["bots"].update_one({"id": BOT.id}, {"$set": {"saved_state.epoch": 5}})
    host.write(container, a="1")
    await host.keeper.save_changed()
    assert (await world.saved()).latest is None

    host.keeper.begin(1, 5)
    await host.keeper.save_changed()

    assert await world.copied() == {"a": b"1"}


async def test_worker_without_the_segment_saves_nothing_while_the_container_runs(world: World) -> None:
    host, container = await world.started()
    host.keeper._owns = lambda segment: False

    host.write(container, a="1")
    await host.keeper.save_changed()

    assert (await world.saved()).latest is None


async def test_run_whose_state_was_claimed_by_a_later_one_saves_nothing(world: World) -> None:
    await world.create()
    late, host = world.host(), world.host()
    container, _ = await late.start(BOT)
    await late.save(container, a="old")
    successor, _ = await host.start(replace(BOT, epoch=2, run_id="r2"))

    await late.save(container, a="late")
    await host.save(successor, a="new")
    await late.save(container, a="later")

    assert await world.copied() == {"a": b"new"}
    assert len(await world.keys()) == 3, "two versions and the copy"


async def test_dead_container_that_a_later_owner_finds_does_not_replace_the_state_of_a_run_in_between(
    world: World,
) -> None:
    await world.create()
    first, second = world.host(), world.host()
    dead, _ = await first.start(BOT)
    container, _ = await second.start(replace(BOT, epoch=2, run_id="r2"))
    await second.save(container, a="new")

    first.keeper.begin(1, 3)
    await first.save(dead, a="old")

    assert await world.copied() == {"a": b"new"}


async def test_start_by_a_worker_that_lost_the_segment_is_refused(world: World) -> None:
    await world.create()
    await world.host().start(replace(BOT, epoch=2, run_id="r2"))

    with pytest.raises(StateFenced):
        await world.host().start(replace(BOT, epoch=1, run_id="r1"))

    assert (await world.saved()).run_id == "r2"


async def test_worker_that_was_frozen_does_not_save_over_the_one_that_adopted_the_container(world: World) -> None:
    host, container = await world.started()
    frozen = host.keeper
    adopting = host.worker()
    adopting.begin(1, 2)
    host.write(container, a="new")
    await adopting.save(container)

    host.write(container, a="old, read before it was frozen")
    await frozen.save(container)

    assert await world.copied() == {"a": b"new"}


async def test_state_moves_with_a_bot_to_a_segment_with_lower_epochs(world: World) -> None:
    await world.create()
    host = world.host()
    container, _ = await host.start(replace(BOT, epoch=7))
    await host.save(container, a="1")
    await world.database["bots"].update_one({"id": BOT.id}, {"$set": {"segment_id": 2}})

    container, begins_with = await host.start(replace(BOT, segment=2, epoch=1, run_id="r2"))
    assert begins_with == {"a": b"1"}
    await host.save(container, a="2")

    assert await world.copied() == {"a": b"2"}


async def test_container_that_a_repeated_start_finds_running_goes_on_saving(world: World) -> None:
    host, container = await world.started()
    await host.keeper.beginnings.claim(replace(BOT, run_id="r2"))

    await host.keeper.claim_again(container)
    await host.save(container, a="1")

    assert await world.copied() == {"a": b"1"}


async def test_the_last_versions_are_kept_and_older_ones_removed(world: World) -> None:
    host, container = await world.started()

    for number in range(KEPT_VERSIONS + 3):
        await host.save(container, a=str(number))

    state = await world.saved()
    assert [version.number for version in state.versions] == list(range(4, KEPT_VERSIONS + 4))
    assert await world.keys() == {version.key for version in state.versions} | {copy_key(BOT.id)}


@pytest.mark.parametrize("before", [True, False])
async def test_worker_that_dies_at_any_step_of_a_save_loses_nothing_that_its_successor_finds(
    world: World, before: bool
) -> None:
    for at in itertools.count(1):
        entity_id = f"b{at}{before}"
        await world.create(entity_id)
        healthy = world.host()
        executable = replace(BOT, id=entity_id)
        container, _ = await healthy.start(executable)
        for number in range(KEPT_VERSIONS):
            await healthy.save(container, a=str(number))
        death = Death(at, before=before)
        dying = world.host(death)
        dying.folders = healthy.folders
        keeper = dying.worker()
        healthy.write(container, a="last")

        saving = asyncio.create_task(keeper.save(container))
        dead = asyncio.create_task(death.dead.wait())
        await asyncio.wait([saving, dead], return_when=asyncio.FIRST_COMPLETED)
        for task in (saving, dead):
            task.cancel()
        await asyncio.gather(saving, dead, return_exceptions=True)
        seen = await world.saved(entity_id)
        assert seen.latest is not None
        begun = await world.objects.get(world.bucket, seen.latest.key)
        assert content_of(begun)["a"] in (b"9", b"last"), "what the pointer names is there, and whole"
        successor = healthy.worker()
        successor.begin(1, 2)
        await successor.save(container)

        state = await world.saved(entity_id)
        assert await world.copied(entity_id) == {"a": b"last"}
        assert {version.key for version in state.versions} <= await world.keys(entity_id)
        _, begins_with = await world.host().start(replace(executable, epoch=3, run_id="r2"))
        assert begins_with == {"a": b"last"}
        if not death.reached:
            assert at > 5
            return


async def test_state_that_is_not_there_is_an_error_and_no_empty_state(world: World) -> None:
    host, container = await world.started()
    await host.save(container, a="1")
    latest = (await world.saved()).latest
    assert latest is not None
    await world.objects.remove(world.bucket, latest.key)

    with pytest.raises(StateUnavailable, match="version 1 of the state of 'b/1'"):
        await host.start(replace(BOT, run_id="r2"))


async def test_state_that_was_changed_in_the_storage_is_not_restored(world: World) -> None:
    host, container = await world.started()
    await host.save(container, a="1")
    latest = (await world.saved()).latest
    assert latest is not None
    await world.objects.put(world.bucket, latest.key, b"something else")

    with pytest.raises(StateUnavailable):
        await host.start(replace(BOT, run_id="r2"))


async def test_while_the_storage_is_away_the_state_stays_on_the_host(world: World, s3_server: S3Server) -> None:
    async with TcpProxy.before(int(s3_server.endpoint.rpartition(":")[2])) as proxy:
        store = ObjectStore(
            store_of(s3_server).settings.model_copy(update={"endpoint": f"127.0.0.1:{proxy.port}"}),
            connect_timeout_seconds=0.5,
        )
        cut_off, container = await world.started(store)
        await proxy.close()
        cut_off.write(container, a="1")
        with pytest.raises(StateUnsaved):
            await cut_off.keeper.save(container)
        await store.close()

    healthy = world.host()
    healthy.folders = cut_off.folders
    await healthy.worker().save(container)
    assert await world.copied() == {"a": b"1"}


async def test_copy_that_failed_is_made_by_the_next_attempt(world: World, s3_server: S3Server) -> None:
    store = Store(store_of(s3_server).settings)
    host, container = await world.started(store)
    await host.save(container, a="1")

    host.write(container, a="2")
    store.refuses_copies = True
    with pytest.raises(StateUnsaved, match="no copies now"):
        await host.keeper.save(container)
    store.refuses_copies = False
    await host.keeper.save(container)
    await store.close()

    assert await world.copied() == {"a": b"2"}
    assert [version.number for version in (await world.saved()).versions] == [1, 2]


async def test_state_that_cannot_be_saved_is_tried_again_after_growing_delays(
    world: World, s3_server: S3Server
) -> None:
    store = Store(store_of(s3_server).settings)
    host, container = await world.started(store)
    await world.create("other")
    other, _ = await host.start(replace(BOT, id="other"))
    host.write(container, a="1")
    store.refuses_copies = True

    for host.now in range(100):
        await host.keeper.save_changed()
    store.refuses_copies = False
    host.write(other, a="1")
    await host.keeper.save_changed()
    assert await world.copied("other") == {"a": b"1"}, "it need not wait for the one that failed"
    host.now += 10
    await host.keeper.save_changed()
    await store.close()

    assert 10 <= store.refused <= 25
    assert await world.copied() == {"a": b"1"}


async def test_end_of_a_bot_without_new_state_does_not_wait_for_a_frozen_storage(
    world: World, s3_server: S3Server
) -> None:
    store = Store(store_of(s3_server).settings)
    store.is_frozen = True
    host, without = await world.started(store)
    saving = []
    for entity_id in ("c1", "c2", "c3", "c4", "c5"):
        await world.create(entity_id)
        container, _ = await host.start(replace(BOT, id=entity_id))
        saving.append(asyncio.create_task(host.save(container, a="1")))

    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await host.keeper.save(without)

    assert not any(task.done() for task in saving)
    for task in saving:
        task.cancel()
    await asyncio.gather(*saving, return_exceptions=True)
    await store.close()


async def test_state_of_a_deleted_bot_is_not_saved_and_another_bot_of_its_id_begins_without(world: World) -> None:
    host, container = await world.started()
    await host.save(container, a="1")
    await world.database["bots"].delete_one({"id": BOT.id})

    await host.save(container, a="2")
    await world.create()
    await host.save(container, a="3")

    _, begins_with = await host.start(replace(BOT, run_id="r2"))
    assert begins_with == {}


def hostile(kind: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("../x" if kind == "outside" else "x")
        info.type = {"link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}.get(kind, tarfile.REGTYPE)
        info.linkname = "/etc/shadow" if kind == "link" else ""
        info.size = LIMITS.size + 1 if kind == "large" else 0
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return made.getvalue() if kind != "damaged" else b"nonsense" * 100


@pytest.mark.parametrize("kind", ["outside", "link", "device", "large", "damaged"])
async def test_hostile_archive_is_refused_and_the_last_version_kept(world: World, kind: str) -> None:
    host, container = await world.started()
    await host.save(container, a="good")

    host.put(container, hostile(kind))
    await host.keeper.save(container)

    assert await world.copied() == {"a": b"good"}
    assert "its archive" in host.keeper.problem(container)
    await host.save(container, a="better")
    assert host.keeper.problem(container) == ""


async def test_link_instead_of_an_archive_is_not_followed(world: World, tmp_path: Path) -> None:
    host, container = await world.started()
    secret = tmp_path / "secret"
    secret.write_bytes(tar_of([StateFile(b"secret", b"x")], 0))
    host.path(container).symlink_to(secret)

    with suppress(StateUnsaved):
        await host.keeper.save(container)

    assert (await world.saved()).latest is None


async def test_problem_that_the_init_notes_is_a_sentence_until_it_is_over(world: World) -> None:
    host, container = await world.started()
    note = host.folders.state(container).problem

    note.write_text("too-large")
    await host.keeper.save_changed()
    problem = host.keeper.problem(container)
    note.unlink()
    await host.keeper.save_changed()

    assert "STATE_LIMIT_MB" in problem
    assert host.keeper.problem(container) == ""


async def test_folder_of_a_removed_container_is_no_error(world: World) -> None:
    host, container = await world.started()
    host.folders.remove("s", container.name, container.token)

    await host.keeper.save(container)
    await host.keeper.save_changed()

    assert not run_folder(host.folders._runs, "s", container.name, container.token).exists()
