"""A short form of the event benchmark, with the design's targets."""

from tests.benchmarks.events import RATIO_TARGET, WAKE_TARGET_MILLISECONDS, measure
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer


async def test_events_are_stored_about_as_fast_as_plain_inserts_and_wake_the_owner_at_once(
    mongod: MongoServer, nats_server: NatsServer, database_name: str
) -> None:
    numbers = await measure(mongod.uri, nats_server.url, database_name, events=600, samples=30)

    assert numbers["ratio"] >= RATIO_TARGET
    assert numbers["wake_up_p50_milliseconds"] <= WAKE_TARGET_MILLISECONDS
