"""Requests of one process that go through the engine's lock together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from libs.core.aio.threads import Threads
from libs.core.room import MIB, Need
from libs.docker_runner.engine.admission import Admission
from libs.docker_runner.engine.lock import EngineLock
from libs.docker_runner.engine.room import Priority, RoomRequest
from libs.docker_runner.engine.room_view_test import FakeEngine, container, request, room_of
from libs.docker_runner.engine.users import UserRange
from libs.docker_runner.errors import EngineUnavailable, NoRoom, NoUser
from tests.support.eventually import eventually


class Unanswering(FakeEngine):
    """An engine whose list fails once."""

    failed = False

    async def list(self, labels, *, ended=True):  # type: ignore[no-untyped-def]
        if not self.failed:
            self.failed = True
            raise EngineUnavailable("list", "away")
        return await super().list(labels, ended=ended)


@contextlib.asynccontextmanager
async def admission(
    folder: Path, engine: FakeEngine, users: UserRange = UserRange()  # noqa: B008 - a frozen value
) -> AsyncIterator[Admission]:
    made = Admission(room_of(engine), EngineLock(folder / "lock", Threads("lock", 1)), users)
    try:
        yield made
    finally:
        await made.close()


async def create(admission: Admission, engine: FakeEngine, asked: RoomRequest) -> None:
    async with admission.admitted(asked):
        await asyncio.sleep(0.001)
        engine.containers.append(container(asked.name, asked.need.memory_bytes // MIB))


async def test_free_room_is_granted_once_to_concurrent_requests(tmp_path: Path) -> None:
    engine = FakeEngine(container("there"))
    async with admission(tmp_path, engine) as subject:
        asked = [create(subject, engine, request(f"n{number}")) for number in range(20)]
        results = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(result) for result in results].count(NoRoom) == 13
    assert len(engine.containers) == 8


async def test_concurrent_requests_get_users_of_their_own_until_all_are_taken(tmp_path: Path) -> None:
    other = replace(container("other"), user=30_001)
    engine = FakeEngine(other)

    async def ask(name: str) -> int:
        async with subject.admitted(request(name)) as (user,):
            engine.containers.append(replace(container(name), user=user))
            return user

    async with admission(tmp_path, engine, UserRange(30_000, 4)) as subject:
        results = await asyncio.gather(*(ask(f"n{number}") for number in range(5)), return_exceptions=True)
        engine.containers.remove(other)
        freed = await ask("later")

    assert sorted(user for user in results if isinstance(user, int)) == [30_000, 30_002, 30_003]
    assert [type(result) for result in results].count(NoUser) == 2
    assert freed == 30_001


async def test_remaining_room_goes_to_higher_priority(tmp_path: Path) -> None:
    engine = FakeEngine(container("there", 3584))
    order: list[Priority] = []

    async def ask(priority: Priority) -> None:
        await create(subject, engine, RoomRequest(priority.name, Need(512 * MIB), priority))
        order.append(priority)

    async with admission(tmp_path, engine) as subject:
        await asyncio.gather(*(ask(priority) for priority in reversed(Priority)), return_exceptions=True)

    assert order == [Priority.BOT]


async def test_cancelled_creation_does_not_delay_other_requests(tmp_path: Path) -> None:
    engine = FakeEngine()
    inside = asyncio.Event()

    async def hang() -> None:
        async with subject.admitted(request("hangs")):
            inside.set()
            await asyncio.Event().wait()

    async with admission(tmp_path, engine) as subject:
        hanging = asyncio.create_task(hang())
        await inside.wait()
        other = asyncio.create_task(create(subject, engine, request("other")))
        await asyncio.sleep(0.05)
        assert not other.done()
        hanging.cancel()
        await asyncio.wait_for(other, 60)
        await asyncio.gather(hanging, return_exceptions=True)


async def test_cancelled_queued_request_is_removed(tmp_path: Path) -> None:
    engine = FakeEngine()
    gate = asyncio.Event()
    engine.gates.append(gate)
    async with admission(tmp_path, engine) as subject:
        first = asyncio.create_task(create(subject, engine, request("first")))
        await eventually(lambda: not engine.gates)
        second = asyncio.create_task(create(subject, engine, request("second")))
        await asyncio.sleep(0)
        second.cancel()
        gate.set()
        await asyncio.wait_for(first, 60)
        with pytest.raises(asyncio.CancelledError):
            await second

    assert [found.name for found in engine.containers] == ["first"]


async def test_lock_lost_during_refresh_causes_another_refresh_before_grant(tmp_path: Path) -> None:
    engine = FakeEngine(container("there"))
    gate = asyncio.Event()
    engine.gates.append(gate)
    async with admission(tmp_path, engine) as subject:
        asked = asyncio.create_task(create(subject, engine, request("late", 3584)))
        await eventually(lambda: not engine.gates)
        # Frozen for so long that another process has taken its place, and made a container.
        (tmp_path / "new").touch()
        (tmp_path / "new").rename(tmp_path / "lock")
        engine.containers.append(container("of another"))
        gate.set()
        with pytest.raises(NoRoom):
            await asked

    assert [found.name for found in engine.containers] == ["there", "of another"]


async def test_engine_failure_is_raised_in_all_waiting_requests_and_is_transient(tmp_path: Path) -> None:
    engine = Unanswering()
    async with admission(tmp_path, engine) as subject:
        with pytest.raises(EngineUnavailable):
            await create(subject, engine, request("first"))
        await create(subject, engine, request("first"))

    assert [found.name for found in engine.containers] == ["first"]


async def test_an_error_while_the_container_is_made_is_the_callers_own(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with admission(tmp_path, engine) as subject:
        with pytest.raises(ValueError, match="mine"):
            async with subject.admitted(request("first")):
                raise ValueError("mine")
        await create(subject, engine, request("second"))

    assert [found.name for found in engine.containers] == ["second"]


async def test_closing_ends_waiting_requests(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.gates.append(asyncio.Event())
    async with admission(tmp_path, engine) as subject:
        waiting = asyncio.create_task(create(subject, engine, request("first")))
        await eventually(lambda: not engine.gates)
        await subject.close()
        with pytest.raises(EngineUnavailable):
            await waiting


async def test_container_with_queries_gets_two_users_or_none(tmp_path: Path) -> None:
    engine = FakeEngine(replace(container("other"), user=30_001, query_user=30_002))

    async def ask(name: str) -> Sequence[int]:
        async with subject.admitted(request(name), 2) as users:
            engine.containers.append(replace(container(name), user=users[0], query_user=users[1]))
            return users

    async with admission(tmp_path, engine, UserRange(30_000, 5)) as subject:
        first = await ask("first")
        with pytest.raises(NoUser):
            await ask("second")

    assert sorted(first) in ([30_000, 30_003], [30_000, 30_004], [30_003, 30_004])
