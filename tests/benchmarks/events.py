"""Measure events into MongoDB against plain inserts, and the time from publishing to the owner's wake-up.

    python -m tests.benchmarks.events [--events N] [--samples N] [--output json]

Real servers on loopback. The events wait in the stream when the worker starts; the inserts are the documents that it
created from them, one `insert_one` each, on the same connection settings, and the faster of one at a time and several
at once is the baseline. The exit code is 1 when a target of the design is missed.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from libs.core.aio.wake import Wake
from libs.core.events.wakeups import WakeUps
from tests.support.eventually import eventually
from tests.support.rigs.event_rig import EventRig, event_rig, payload
from tools.stack.mongod import MongoServer
from tools.stack.nats import NatsServer

RATIO_TARGET = 0.5
WAKE_TARGET_MILLISECONDS = 50.0
INSERTS_AT_ONCE = 16
PUBLISHES_AT_ONCE = 64


async def measure(mongo_uri: str, nats_url: str, database: str, events: int, samples: int) -> dict[str, Any]:
    """Return all numbers, with the servers at these addresses; *database* is dropped afterwards."""
    async with event_rig(mongo_uri, database, nats_url) as rig:
        try:
            await rig.client.wait_connected()
            await rig.store().ensure_indexes()
            await rig.make_stream()
            ingested = await _ingest(rig, events)
            alone, at_once = await _insert(rig, 1), await _insert(rig, INSERTS_AT_ONCE)
            waits = await _wake_ups(rig, samples)
        finally:
            await rig.mongo._client.drop_database(database)
    return {
        "events": events,
        "events_per_second": round(ingested),
        "inserts_per_second_one_at_a_time": round(alone),
        f"inserts_per_second_{INSERTS_AT_ONCE}_at_once": round(at_once),
        "ratio": round(ingested / max(alone, at_once), 2),
        "ratio_target": RATIO_TARGET,
        "wake_up_p50_milliseconds": round(statistics.median(waits), 1),
        "wake_up_p95_milliseconds": round(statistics.quantiles(waits, n=20)[-1], 1),
        "wake_up_target_milliseconds": WAKE_TARGET_MILLISECONDS,
    }


async def _ingest(rig: EventRig, events: int) -> float:
    """Return events per second, from the start of a worker until all are stored and acknowledged."""
    room = asyncio.Semaphore(PUBLISHES_AT_ONCE)

    async def publish(n: int) -> None:
        async with room:
            await rig.jetstream.publish(rig.service.created_subject, payload(f"bot-{n}", pair="BTC/USD", amount=n))

    await asyncio.gather(*(publish(n) for n in range(events)))
    begun = time.perf_counter()
    worker = await rig.start_worker()

    async def all_in() -> bool:
        [consumer] = await rig.consumers()
        return consumer.ack_floor is not None and consumer.ack_floor.stream_seq == events

    await eventually(all_in, within_seconds=120, every_seconds=0.02)
    seconds = time.perf_counter() - begun
    assert await rig.store().count() == events
    await worker.kill()
    return events / seconds


async def _insert(rig: EventRig, at_once: int) -> float:
    """Return inserts per second of the same documents."""
    documents = [document async for document in rig.bots.find({}, {"_id": 0})]
    plain = rig.mongo.database(rig.database_name)[f"plain_{at_once}"]
    await plain.create_index("id", unique=True)
    await plain.create_index("segment_id")

    async def insert(share: Sequence[dict[str, Any]]) -> None:
        for document in share:
            await plain.insert_one(document)

    begun = time.perf_counter()
    await asyncio.gather(*(insert(documents[start::at_once]) for start in range(at_once)))
    return len(documents) / (time.perf_counter() - begun)


async def _wake_ups(rig: EventRig, samples: int) -> list[float]:
    """Return the milliseconds from publishing an update until the owner of its segment wakes."""
    reader, owner = await rig.start_worker(), await rig.start_worker()
    await reader.connection.wait_connected()
    entity = (await rig.store().page(limit=1))[0]
    wake = Wake()
    waits = []
    async with WakeUps(owner.connection, rig.service.name).waking(entity.segment_id, wake):
        await wake.wait_at_most(1)
        for n in range(samples):
            data = payload(entity.id, n=n)
            begun = time.perf_counter()
            await rig.client.publish(str(rig.service.updated_subject), data)
            if not await wake.wait_at_most(10):
                raise AssertionError("the owner was not woken")
            waits.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(0.01)
            await wake.wait_at_most(0)
    return waits


async def run(events: int, samples: int) -> dict[str, Any]:
    """Return all numbers, on servers of this run."""
    with tempfile.TemporaryDirectory() as folder:
        async with MongoServer.start(Path(folder, "mongo")) as mongo, NatsServer.start(Path(folder, "nats")) as nats:
            return await measure(mongo.uri, nats.url, "benchmark_events", events, samples)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5000, help="how many events wait in the stream (%(default)s)")
    parser.add_argument("--samples", type=int, default=200, help="how many wake-ups are timed (%(default)s)")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    numbers = asyncio.run(run(arguments.events, arguments.samples))
    if arguments.output == "json":
        print(json.dumps(numbers))
    else:
        for name, value in numbers.items():
            print(f"{name.replace('_', ' '):42} {value:>10}")
    met = numbers["ratio"] >= RATIO_TARGET and numbers["wake_up_p50_milliseconds"] <= WAKE_TARGET_MILLISECONDS
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
