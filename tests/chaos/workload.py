"""The flow of events: bots that always run, bots that come and go, schedules and backtests, some of them hostile."""

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from minio.error import S3Error
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from urllib3.exceptions import HTTPError

from tests.chaos.bots import BOT, DEAF, HOSTILE_BACKTEST
from tests.chaos.reading import Observations
from tests.chaos.timeline import Completion, Published
from tests.chaos.world import World
from tests.support.rigs.backtests import RESULTS
from tests.support.rigs.platform import zipped

BOTS = tuple(f"bot-{number}" for number in range(1, 6))
COUNTING = BOTS[:3]
"""They keep a count in their state."""
DEAF_BOT = "bot-deaf"
GUESTS = ("guest-1", "guest-2")
SCHEDULES = {"schedule-1": "*/6 * * * * *", "schedule-2": "*/10 * * * * *"}
WATCHED = (*BOTS, DEAF_BOT)
_EVENT_SECONDS = 3.0
_ACKNOWLEDGED_SECONDS = 2.0
_RETRY_SECONDS = 0.2
_BACKTEST_SECONDS = 1.5
_EVERY_THIRD = 3
# Notifications stay queued: no such host exists.
_NOWHERE = "https://hook.invalid/chaos"


@dataclass
class Workload:
    """Publishes events until each is acknowledged, and records what the platform sees."""

    world: World
    chance: random.Random
    observations: Observations
    published: list[Published] = field(default_factory=list)
    backtests: list[str] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))
    _present: set[str] = field(default_factory=set)
    _reading: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> None:
        """Upload the code, and create what exists from the beginning."""
        for key, source in (("bot.zip", BOT), ("deaf.zip", DEAF), ("hostile.zip", HOSTILE_BACKTEST)):
            await asyncio.to_thread(self.world.platform.upload, key, zipped({"main.py": source}))
        await self.world.platform.client.subscribe("the0.backtest.completed", "chaos", self._completed)
        for bot_id in WATCHED:
            await self._bot(bot_id, "created")
        for schedule_id, expression in SCHEDULES.items():
            config = {"schedule": expression, "seconds": 0.3}
            payload = self.world.platform.payload(schedule_id, config, key="bot.zip")
            await self._publish("the0.bot-schedule.created", payload)

    async def flow(self) -> None:
        """Publish one event after another, until cancelled."""
        while True:
            for step in (self._change, self._backtest, self._come_or_go):
                await step()
                await asyncio.sleep(self.chance.uniform(0.5, 1.5) * _EVENT_SECONDS)

    async def delete_all(self) -> None:
        """Delete all bots and schedules."""
        for bot_id in (*WATCHED, *sorted(self._present & set(GUESTS))):
            await self._bot(bot_id, "deleted")
        for schedule_id in SCHEDULES:
            await self._publish("the0.bot-schedule.deleted", {"id": schedule_id, "config": {}})

    async def close(self) -> None:
        """Wait for completions whose result is still read."""
        await asyncio.gather(*self._reading)

    async def _change(self) -> None:
        """Change a bot whose latest version has run: on a busy machine, another one would never do so."""
        self.observations.read()
        latest = {event.entity_id: event.number for event in self.published}
        has_run = [one for one in BOTS if self.observations.latest_numbers.get(one, 0) >= latest[one]]
        if has_run:
            await self._bot(self.chance.choice(has_run), "updated")

    async def _come_or_go(self) -> None:
        guest = self.chance.choice(GUESTS)
        await self._bot(guest, "deleted" if guest in self._present else "created")

    async def _backtest(self) -> None:
        number = len(self.backtests) + 1
        is_hostile = number % _EVERY_THIRD == 0
        backtest_id = f"{'hostile' if is_hostile else 'backtest'}-{number}"
        config = {"number": number, "seconds": _BACKTEST_SECONDS, "notify": {"url": _NOWHERE}}
        key = "hostile.zip" if is_hostile else "bot.zip"
        payload = self.world.platform.backtest_payload(backtest_id, config, key=key)
        await self._publish("the0.backtest.created", payload)
        self.backtests.append(backtest_id)

    async def _bot(self, bot_id: str, kind: str) -> None:
        number = next(self._numbers)
        if kind == "deleted":
            payload: dict[str, Any] = {"id": bot_id, "config": {}}
        else:
            key = "deaf.zip" if bot_id == DEAF_BOT else "bot.zip"
            config = {"number": number, "counts": bot_id in COUNTING}
            payload = self.world.platform.payload(bot_id, config, key=key, version=f"1.0.{number}")
        await self._publish(f"the0.bot.{kind}", payload)
        (self._present.discard if kind == "deleted" else self._present.add)(bot_id)
        self.published.append(Published(time.monotonic(), kind, bot_id, number))

    async def _publish(self, subject: str, payload: dict[str, Any]) -> None:
        """Publish until the stream has acknowledged it."""
        stream = self.world.platform.client.jetstream(timeout=_ACKNOWLEDGED_SECONDS)
        while True:
            try:
                await stream.publish(subject, json.dumps(payload).encode())
            except (NatsError, OSError):
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _completed(self, message: Msg) -> None:
        # Read at once: it must be stored by now. In a task: the next event must not wait for it.
        task = asyncio.create_task(self._read(json.loads(message.data), time.monotonic()))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _read(self, event: dict[str, Any], at: float) -> None:
        backtest_id = str(event["backtest_id"])
        stored = [await self._stored(f"{backtest_id}/{name}") for name in ("analysis.json", "logs.txt")]
        digest = hashlib.sha256(stored[0] or b"").hexdigest()[:12]
        outcome = f"{event['success']} {event.get('error', '')} {digest}"
        self.completions.append(Completion(at, backtest_id, outcome, None not in stored))

    async def _stored(self, key: str) -> bytes | None:
        """Return an object; None without one. It waits for a storage that is down or frozen."""
        while True:
            with contextlib.suppress(HTTPError, OSError):
                try:
                    return await asyncio.to_thread(self._get, key)
                except S3Error as error:
                    if error.code in ("NoSuchKey", "NoSuchBucket"):
                        return None
            await asyncio.sleep(_RETRY_SECONDS)

    def _get(self, key: str) -> bytes:
        with self.world.platform.storage.get_object(RESULTS, key) as response:
            return bytes(response.read())
