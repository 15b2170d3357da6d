import asyncio

from libs.core.store.client import Database
from libs.core.store.code_retention import CodeRetention


async def let_pass(database: Database, minutes: int) -> None:
    """Move the last change into the past."""
    earlier = {"$dateSubtract": {"startDate": "$since", "unit": "minute", "amount": minutes}}
    await database["retention"].update_one({"_id": "code"}, [{"$set": {"since": earlier}}])


async def test_retention_is_unknown_before_master_stores_it(database: Database) -> None:
    assert await CodeRetention(database).keep_seconds() is None


async def test_the_first_value_holds_at_once(database: Database) -> None:
    retention = CodeRetention(database)

    assert await retention.announce(100.5)
    assert await retention.announce(100.5)
    assert await retention.keep_seconds() == 100.5


async def test_another_value_holds_once_uploads_by_the_one_before_are_over(database: Database) -> None:
    retention = CodeRetention(database)
    await retention.announce(1000.0)

    at_once = await retention.announce(10.0)
    repeated = await retention.announce(10.0)
    await let_pass(database, minutes=9)
    too_early = await retention.announce(10.0)
    await let_pass(database, minutes=2)
    later = await retention.announce(10.0)

    assert (at_once, repeated, too_early, later) == (False, False, False, True)
    # Uploads go by the new one from the first moment on.
    assert await retention.keep_seconds() == 10.0


async def test_masters_that_begin_together_agree(database: Database) -> None:
    agreed = await asyncio.gather(*(CodeRetention(database).announce(5.0) for _ in range(10)))

    assert agreed == [True] * 10
