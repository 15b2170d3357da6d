"""After entities have come and gone, what is stored is what is referred to: objects and documents on real servers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from libs.collector.collector import Collector
from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, BOT_SCHEDULER
from libs.core.store.code_retention import CodeRetention
from services.backtest_runner.objects import analysis_key, logs_key, staged_key
from tests.support.faults.deaths import Death
from tests.support.rigs.garbage_rig import DAY_SECONDS, KEEP_SECONDS, GarbageRig, Interruption, garbage_rig, package_of
from tools.stack.s3 import S3Server

CYCLES = 1000
AT_ONCE = 20
PLATFORM_KEYS = {"bot.zip", "user/bot/1.0.0", ".the0/code/bot-runner/mine.zip", ".the0/code/other/x.zip"}


@pytest_asyncio.fixture(loop_scope="session")
async def rig(mongo_uri: str, s3_server: S3Server, bucket_prefix: str, database_name: str) -> AsyncIterator[GarbageRig]:
    async with garbage_rig(mongo_uri, s3_server, bucket_prefix, database_name[-20:]) as rig:
        yield rig


async def bot_comes_and_goes(rig: GarbageRig, number: int) -> None:
    bot_id = f"bot {number}"
    await rig.deploy(bot_id, f"code of {number}".encode())
    await rig.log(bot_id)
    await rig.entities[BOT_RUNNER.name].delete(bot_id)


async def cycles(rig: GarbageRig, count: int) -> set[str]:
    """Let *count* bots come and go beside some that stay; return the keys of all code that is to stay."""
    for key in PLATFORM_KEYS:
        await rig.store.put(rig.code_bucket, key, b"the platform's")
    kept = {await rig.deploy(f"stays {number}", f"code of {number}".encode()) for number in range(3)}
    kept.add(await rig.deploy("nightly", b"a schedule's", BOT_SCHEDULER))
    await rig.runs("often", 12)
    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(bot_comes_and_goes(rig, n) for n in range(first, min(count, first + AT_ONCE))))
    return kept


async def killed_over_and_over(rig: GarbageRig) -> int:
    """Collect with masters that die at their first, second, third ... write, before and after it; how many died."""
    died = 0
    for at in range(1, 1000):
        for before in (True, False):
            death = Death(at, before=before)
            collecting = asyncio.create_task(Collector(rig.kinds(death=death), 60.0).collect())
            dying = asyncio.create_task(death.dead.wait())
            await asyncio.wait({collecting, dying}, return_when=asyncio.FIRST_COMPLETED)
            for task in (collecting, dying):
                task.cancel()
            await asyncio.gather(collecting, dying, return_exceptions=True)
            if not death.reached:
                return died
            died += 1
    raise AssertionError("it never came to an end")


async def test_after_1000_cycles_exactly_what_is_referred_to_remains(rig: GarbageRig) -> None:
    kept = await cycles(rig, CYCLES)
    await rig.log("stays 0", "20260302")
    rig.store.ahead_seconds = KEEP_SECONDS + 3600

    died = await killed_over_and_over(rig)

    assert died > 2 * 50
    assert await rig.keys(rig.code_bucket) == kept | PLATFORM_KEYS
    assert await rig.keys(rig.logs_bucket) == set()
    assert await rig.run_ids() == [f"often/{number:04}" for number in range(7, 12)]
    assert await rig.collect() == {"records": 0, "code": 0, "logs": 0, "results": 0}


async def test_collector_that_dies_at_every_write_leaves_exactly_what_is_kept(rig: GarbageRig) -> None:
    kept = await cycles(rig, 8)
    await rig.store.put(rig.results_bucket, analysis_key("b1"), b"{}")
    await rig.store.put(rig.results_bucket, logs_key("b1"), b"output")
    rig.store.ahead_seconds = KEEP_SECONDS * 2

    died = await killed_over_and_over(rig)

    assert died > 5
    assert await rig.keys(rig.code_bucket) == kept | PLATFORM_KEYS
    assert await rig.keys(rig.logs_bucket) == set()
    assert await rig.keys(rig.results_bucket) == set()
    assert await rig.run_ids() == [f"often/{number:04}" for number in range(7, 12)]


async def test_recent_data_remains(rig: GarbageRig) -> None:
    await cycles(rig, 5)
    before = [await rig.keys(bucket) for bucket in (rig.code_bucket, rig.logs_bucket)]
    rig.store.ahead_seconds = KEEP_SECONDS - 3600

    removed = await rig.collect()

    assert removed == {"records": 7, "code": 0, "logs": 0, "results": 0}
    assert [await rig.keys(bucket) for bucket in (rig.code_bucket, rig.logs_bucket)] == before


async def test_identical_code_is_uploaded_once_whatever_runs_it(rig: GarbageRig) -> None:
    backtests = await asyncio.gather(*(rig.deploy(f"b{n}", b"the same", BACKTEST_RUNNER) for n in range(10)))
    rig.store.ahead_seconds = KEEP_SECONDS * 0.2
    later = await rig.deploy("later", b"the same", BACKTEST_RUNNER)
    other = await rig.deploy("other", b"not the same", BACKTEST_RUNNER)

    assert len({*backtests, later}) == 1
    assert await rig.keys(rig.code_bucket) == {later, other}


async def test_a_bot_that_is_deployed_again_keeps_its_key_however_old_the_code_is(rig: GarbageRig) -> None:
    first = await rig.deploy("bot", b"the same")
    rig.store.ahead_seconds = KEEP_SECONDS * 10

    again = await rig.deploy("bot", b"the same")
    another = await rig.deploy("another", b"the same")

    assert again == first
    assert another != first


async def test_code_of_restorable_version_remains(rig: GarbageRig) -> None:
    previous, alternate, dropped = [await rig.deploy("bot", f"v{n}".encode()) for n in (1, 2, 3)]
    newest = await rig.deploy("bot", b"v4")
    release = {"current": {"custom": {"filePath": previous}}, "previous": None, "epoch": 1}
    older = [{"content": {"custom": {"gcsPath": f"gs://bots/{alternate}"}}}]
    await rig.database(BOT_RUNNER)["bots"].update_one({"id": "bot"}, {"$set": {"release": release, "held_by": older}})
    rig.store.ahead_seconds = KEEP_SECONDS * 2

    removed = await rig.collect()

    assert removed["code"] == 1
    assert await rig.keys(rig.code_bucket) == {previous, alternate, newest}
    assert dropped not in await rig.keys(rig.code_bucket)


async def test_code_that_an_entity_of_another_service_refers_to_remains(rig: GarbageRig) -> None:
    key = await rig.deploy("bot", b"borrowed")
    await rig.entities[BOT_SCHEDULER.name].create("nightly", {}, {"filePath": key})
    await rig.entities[BOT_RUNNER.name].delete("bot")
    rig.store.ahead_seconds = KEEP_SECONDS * 2

    await rig.collect()

    assert await rig.keys(rig.code_bucket) == {key}


async def test_results_go_with_their_output_and_other_objects_stay(rig: GarbageRig) -> None:
    for key in (analysis_key("b1"), logs_key("b1"), logs_key("b/2"), "b1/mine.json", "analysis.json"):
        await rig.store.put(rig.results_bucket, key, b"{}")
    rig.store.ahead_seconds = KEEP_SECONDS * 2

    removed = await rig.collect()

    assert removed["results"] == 3
    assert await rig.keys(rig.results_bucket) == {"b1/mine.json", "analysis.json"}


@pytest.mark.parametrize("age", [0.1, 0.2, 0.3, 0.4, 0.45, 0.55, 0.7, 0.9, 1.1, 3.0])
async def test_code_stays_for_an_entity_that_appears_half_the_time_later(rig: GarbageRig, age: float) -> None:
    await rig.deploy("gone", b"the same")
    await rig.entities[BOT_RUNNER.name].delete("gone")
    rig.store.ahead_seconds = KEEP_SECONDS * age
    key = await rig.upload().key_of(package_of(b"the same"))

    rig.store.ahead_seconds += KEEP_SECONDS * 0.45
    await rig.collect()

    assert key in await rig.keys(rig.code_bucket)


@pytest.mark.parametrize("at", range(1, 8))
async def test_deploying_code_that_is_just_being_removed_loses_nothing(rig: GarbageRig, at: int) -> None:
    await rig.deploy("gone", b"the same")
    await rig.entities[BOT_RUNNER.name].delete("gone")
    rig.store.ahead_seconds = KEEP_SECONDS * 2
    interruption = Interruption(at, lambda: rig.deploy("new", b"the same"))

    await Collector(rig.kinds(death=interruption), 60.0).collect()
    await rig.collect()

    entity = await rig.entities[BOT_RUNNER.name].get("new")
    assert interruption.happened == (entity is not None)
    assert at > 5 or interruption.happened
    assert await rig.keys(rig.code_bucket) == ({entity.code.key} if entity and entity.code else set())


async def test_a_bot_that_is_removed_and_announced_again_during_a_collection_keeps_its_code(rig: GarbageRig) -> None:
    key = await rig.deploy("bot", b"code")
    await rig.entities[BOT_RUNNER.name].delete("bot")
    rig.store.ahead_seconds = KEEP_SECONDS * 2
    second_look = Interruption(2, lambda: rig.entities[BOT_RUNNER.name].create("bot", {}, {"filePath": key}), "among")

    await Collector(rig.kinds(death=second_look), 60.0).collect()

    assert second_look.happened
    assert await rig.keys(rig.code_bucket) == {key}


async def test_uploads_go_by_the_time_that_the_masters_keep_code_for(rig: GarbageRig) -> None:
    await CodeRetention(rig.database(BOT_RUNNER)).announce(KEEP_SECONDS / 100)
    first = await rig.deploy("a", b"the same")
    rig.store.ahead_seconds = KEEP_SECONDS / 100

    assert await rig.deploy("b", b"the same") != first


async def test_code_is_not_removed_right_after_its_time_was_changed(rig: GarbageRig) -> None:
    key = await rig.deploy("bot", b"code")
    await rig.entities[BOT_RUNNER.name].delete("bot")
    await CodeRetention(rig.database(BOT_RUNNER)).announce(KEEP_SECONDS * 2)
    rig.store.ahead_seconds = KEEP_SECONDS * 3

    removed = await rig.collect()

    assert removed["code"] == 0
    assert await rig.keys(rig.code_bucket) == {key}


async def test_only_the_newest_days_of_each_log_stay_with_their_index(rig: GarbageRig) -> None:
    kept = [*await rig.log("b", "20260303"), *await rig.log("b", "20260304"), *await rig.log("b/c", "20260301")]
    for day in ("20260301", "20260302"):
        await rig.log("b", day)
    rig.store.ahead_seconds = KEEP_SECONDS / 2

    removed = await rig.collect(log_count=2)

    assert removed["logs"] == 2
    assert await rig.keys(rig.logs_bucket) == set(kept)


async def test_references_are_honoured_over_many_pages(rig: GarbageRig) -> None:
    kept = set()
    for number in range(130):
        key = await rig.deploy(f"bot {number}", f"code of {number}".encode())
        if number % 3 == 0:
            kept.add(key)
        else:
            await rig.entities[BOT_RUNNER.name].delete(f"bot {number}")
    rig.store.ahead_seconds = KEEP_SECONDS * 2

    await rig.collect()

    assert await rig.keys(rig.code_bucket) == kept


async def test_data_of_attempts_stays_while_takeover_is_possible(rig: GarbageRig) -> None:
    await rig.store.put(rig.results_bucket, staged_key("b1", "run", "logs.txt"), b"output")
    rig.store.ahead_seconds = 13 * DAY_SECONDS
    early = await rig.collect()
    rig.store.ahead_seconds = 15 * DAY_SECONDS

    later = await rig.collect()

    assert (early["results"], later["results"]) == (0, 1)
    assert await rig.keys(rig.results_bucket) == set()


async def test_an_object_of_another_size_is_uploaded_again(rig: GarbageRig) -> None:
    key = await rig.deploy("bot", b"the same")
    await rig.store.put(rig.code_bucket, key, b"damaged by hand")

    again = await rig.deploy("bot", b"the same")

    assert await rig.store.get(rig.code_bucket, again) == b"the same"
