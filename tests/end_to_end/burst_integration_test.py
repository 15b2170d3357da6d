"""First events at once, through real NATS and MongoDB to several workers whose engine only records what is started."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from libs.core.store.entities import EntityStore
from libs.core.worker.handler import OwnedSegment
from tests.support.eventually import eventually
from tests.support.rigs.coordination import FakeHandler, owned_by, running_cluster
from tests.support.rigs.event_rig import EventRig, ingesting_rig

__all__ = ["ingesting_rig"]

WORKERS = 3
PROMISED_SECONDS = 20.0


@dataclass
class RecordingHandler(FakeHandler):
    """Starts every entity of its segments, which takes no time, and records when."""

    entities: EntityStore = field(kw_only=True)
    started: dict[str, list[float]] = field(kw_only=True)

    async def run(self, owned: OwnedSegment) -> None:
        """See SegmentHandler."""
        mine: set[str] = set()
        while True:
            for entity in await self.entities.in_segment(owned.segment_id):
                if entity.id not in mine:
                    mine.add(entity.id)
                    self.started.setdefault(entity.id, []).append(time.monotonic())
            await owned.wake.wait_at_most(0.1)


@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize(("bots", "partitions"), [(45, 5), (200, 20)])
async def test_first_events_at_once_open_no_more_segments_than_needed_and_every_bot_is_started(
    rig: EventRig, bots: int, partitions: int, attempt: int
) -> None:
    await rig.make_stream()
    database = rig.mongo.database(rig.database_name)
    started: dict[str, list[float]] = {}
    async with running_cluster(database, masters=1, target=16) as cluster:
        cluster.master()
        workers = [
            cluster.worker(
                f"w{number}",
                handler=RecordingHandler(cluster.world, f"host-of-w{number}", entities=rig.store(), started=started),
            )
            for number in range(WORKERS)
        ]
        for _ in range(WORKERS):
            await rig.start_worker()

        announced_at = time.monotonic()
        await asyncio.gather(*(rig.created(f"bot-{attempt}-{number}") for number in range(bots)))
        await eventually(lambda: len(started) == bots)

        opened = await database["partitions"].find({}).to_list()
        assert sum(partition["bot_count"] for partition in opened) == bots
        assert len(opened) == partitions
        assert {len(starts) for starts in started.values()} == {1}
        assert max(starts[0] for starts in started.values()) - announced_at < PROMISED_SECONDS
        assert len(owned_by(workers)) == partitions
