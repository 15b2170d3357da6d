import asyncio

from libs.core.aio.key_locks import KeyLocks


async def test_tasks_with_the_same_key_run_one_after_another_and_others_beside_them() -> None:
    locks, steps = KeyLocks(), list[str]()
    may_end = asyncio.Event()

    async def work(key: str, name: str) -> None:
        async with locks.of(key):
            steps.append(f"{name} begins")
            if key == "a":
                await may_end.wait()
                await asyncio.sleep(0)
            steps.append(f"{name} ends")

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(work("a", f"a{number}"))
        await group.create_task(work("b", "b"))
        may_end.set()

    assert steps == [
        "a0 begins", "b begins", "b ends", "a0 ends", "a1 begins", "a1 ends", "a2 begins", "a2 ends"
    ]  # fmt: skip


async def test_lock_is_kept_for_its_waiters_and_not_longer() -> None:
    locks, held = KeyLocks(), asyncio.Event()

    async def wait() -> None:
        async with locks.of("a"):
            held.set()

    async with locks.of("a"):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        assert locks.of("a").locked()
    assert locks.of("a") is locks.of("a")
    await held.wait()
    await waiting

    assert len(locks) == 0
