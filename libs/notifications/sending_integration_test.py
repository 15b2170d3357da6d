"""Notifications from the event to a receiver, over a real MongoDB and local HTTP servers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import SecretStr

from libs.core.config.destinations import destinations
from libs.core.config.notify_settings import NotifySettings
from libs.core.secrets.providers import FileProvider
from libs.core.secrets.resolver import SecretResolver
from libs.core.store.client import Database, Mongo
from libs.core.store.entities import Entity
from libs.notifications.destination import Rules
from libs.notifications.event import Event, Notice
from libs.notifications.metrics import NOTIFICATIONS
from libs.notifications.notifier import Notifier
from libs.notifications.sender import Operator, Sender
from libs.notifications.signature import signature_of
from libs.notifications.store import NotificationStore
from tests.support.eventually import eventually

HERE = Rules(destinations("127.0.0.1"))
SECRET = "a-long-secret"


class Receiver:
    """An HTTP server. *answers* are the next statuses; 200 afterwards. *got* are the requests."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.delay = asyncio.Event()
        self.delay.set()
        self.url = ""
        self.elsewhere = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"

    async def stop(self) -> None:
        assert self._runner is not None
        self.delay.set()
        await self._runner.cleanup()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    async def _answer(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        await self.delay.wait()
        status = self.answers.pop(0) if self.answers else 200
        headers = {"Location": self.elsewhere} if 300 <= status < 400 else {}
        return web.Response(status=status, headers=headers)


@pytest_asyncio.fixture(loop_scope="session")
async def database(mongo_uri: str, database_name: str) -> AsyncIterator[Database]:
    mongo = Mongo(mongo_uri)
    database = mongo.database(database_name)
    await NotificationStore(database).ensure_indexes()
    yield database
    await mongo.close()


@pytest_asyncio.fixture(loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()


def to_all(receiver: Receiver, **more: Any) -> NotifySettings:
    return NotifySettings(url=SecretStr(receiver.url), **more)


def sender(database: Database, receiver: Receiver | None = None, **more: Any) -> Sender:
    operator = Operator(receiver.url, SECRET) if receiver is not None else Operator()
    parts: dict[str, Any] = {"resolver": SecretResolver(), "rules": HERE, "pause": lambda attempts: 0.01, **more}
    return Sender(NotificationStore(database), operator, **parts)


def notifier(database: Database, settings: NotifySettings, **more: Any) -> Notifier:
    return Notifier(NotificationStore(database, **more), settings, "bot-runner", "custom.config.author")


def notice(key: str, event: Event = Event.HELD, entity_id: str = "b", **config: Any) -> Notice:
    entity = Entity.of({"id": entity_id, "config": config, "custom": {"config": {"author": "ann"}}})
    return Notice(event, entity, key, datetime.now(UTC), {"key": key})


async def until(sending: Sender, condition: Callable[[], object]) -> None:
    """Send until *condition* holds."""

    async def once() -> object:
        await sending.send_due()
        return condition()

    await eventually(once)


def counted(event: Event, outcome: str, receiver: str = "all") -> float:
    return float(NOTIFICATIONS.labels(str(event), receiver, outcome)._value.get())


def enough(receiver: Receiver, number: int) -> bool:
    return len(receiver.got) >= number


async def test_notification_is_signed_over_its_time_and_body(database: Database, receiver: Receiver) -> None:
    await notifier(database, to_all(receiver)).put(notice("k1"))
    await until(sender(database, receiver), lambda: receiver.got)

    [(headers, body)] = receiver.got
    timestamp = headers["The0-Timestamp"]
    assert headers["The0-Signature"] == signature_of(SECRET, timestamp, body)
    assert headers["The0-Signature"] != signature_of("another-secret", timestamp, body)
    assert abs(time.time() - int(timestamp)) < 120
    content = json.loads(body)
    assert (headers["The0-Event"], headers["The0-Notification"]) == ("bot.held", content["id"])
    assert (content["event"], content["entity_id"], content["key"], content["count"]) == ("bot.held", "b", "k1", 1)
    assert (content["service"], content["owner"]) == ("bot-runner", "ann")


async def test_failed_ones_are_repeated_under_the_same_id_and_in_order(database: Database, receiver: Receiver) -> None:
    receiver.answers = [500, 302, 404]
    receiver.elsewhere = receiver.url
    queue = notifier(database, to_all(receiver))
    for key in ("k1", "k2", "k3"):
        await queue.put(notice(key))
    await until(sender(database, receiver), lambda: len(receiver.got) >= 6)

    assert [body["key"] for body in receiver.bodies] == ["k1"] * 4 + ["k2", "k3"]
    assert len({body["id"] for body in receiver.bodies}) == 3


async def test_failing_lane_holds_up_no_other_bot(database: Database, receiver: Receiver) -> None:
    receiver.answers = [500]
    queue = notifier(database, to_all(receiver))
    await queue.put(notice("k1", entity_id="b"))
    sending = sender(database, receiver, pause=lambda attempts: 3600.0)
    await until(sending, lambda: receiver.got)
    await queue.put(notice("k2", entity_id="b"))
    await queue.put(notice("k3", entity_id="c"))
    await until(sending, lambda: len(receiver.got) > 1)
    await sending.send_due()

    assert [body["key"] for body in receiver.bodies] == ["k1", "k3"]


async def test_repeated_event_is_sent_once(database: Database, receiver: Receiver) -> None:
    queue = notifier(database, to_all(receiver))
    await queue.put(notice("k1"))
    await queue.put(notice("k1"))
    sending = sender(database, receiver)
    await until(sending, lambda: receiver.got)
    await queue.put(notice("k1"))
    await queue.put(notice("k2"))
    await until(sending, lambda: len(receiver.got) > 1)

    assert [body["key"] for body in receiver.bodies] == ["k1", "k2"]


async def test_crash_loop_is_sent_once_and_then_once_for_all(database: Database, receiver: Receiver) -> None:
    queue = notifier(database, to_all(receiver))
    await queue.put(notice("r1", Event.CRASHED))
    sending = sender(database, receiver)
    await until(sending, lambda: receiver.got)
    for number in range(2, 30):
        await queue.put(notice(f"r{number}", Event.CRASHED))
    await queue.put(notice("r29", Event.CRASHED))
    await sending.send_due()
    assert len(receiver.got) == 1

    # The next other event of the bot does not wait for the rest of the time, nor overtake.
    await queue.put(notice("h", Event.HELD))
    await until(sending, lambda: len(receiver.got) >= 3)

    assert [(body["key"], body["count"]) for body in receiver.bodies] == [("r1", 1), ("r29", 28), ("h", 1)]


async def test_crashes_after_the_time_are_sent_separately(database: Database, receiver: Receiver) -> None:
    queue = notifier(database, to_all(receiver, coalesce_seconds=0.0))
    sending = sender(database, receiver)
    for number in (1, 2):
        await queue.put(notice(f"r{number}", Event.CRASHED))
        await until(sending, partial(enough, receiver, number))

    assert [body["count"] for body in receiver.bodies] == [1, 1]


async def test_notification_of_a_process_that_died_while_sending_is_sent_again(
    database: Database, receiver: Receiver
) -> None:
    await notifier(database, to_all(receiver)).put(notice("k1"))
    receiver.delay.clear()
    dying = asyncio.create_task(sender(database, receiver).send_due())
    await eventually(lambda: receiver.got)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    receiver.delay.set()
    other = sender(database, receiver)
    await other.send_due()
    assert len(receiver.got) == 1  # its claim is not over

    await database["notifications"].update_many({}, {"$set": {"next_at": datetime.now(UTC)}})
    await until(other, lambda: len(receiver.got) > 1)

    assert receiver.bodies[0]["id"] == receiver.bodies[1]["id"]


async def test_next_event_does_not_free_a_notification_that_is_being_sent(
    database: Database, receiver: Receiver
) -> None:
    queue = notifier(database, to_all(receiver))
    await queue.put(notice("k1"))
    receiver.delay.clear()
    sending = asyncio.create_task(sender(database, receiver).send_due())
    await eventually(lambda: receiver.got)
    await queue.put(notice("k2"))
    await sender(database, receiver, limit_seconds=1.0).send_due()
    receiver.delay.set()
    await sending

    assert [body["key"] for body in receiver.bodies] == ["k1"]


async def test_two_processes_send_each_once(database: Database, receiver: Receiver) -> None:
    queue = notifier(database, to_all(receiver))
    for number in range(20):
        await queue.put(notice("k", entity_id=f"b{number}"))
    one, other = sender(database, receiver), sender(database, receiver)
    await asyncio.gather(one.send_due(), other.send_due())
    await until(one, lambda: len(receiver.got) >= 20)

    assert len({body["id"] for body in receiver.bodies}) == len(receiver.got) == 20


async def test_after_a_day_it_is_given_up_and_the_next_one_is_sent(database: Database, receiver: Receiver) -> None:
    before = counted(Event.HELD, "given-up")
    queue = notifier(database, to_all(receiver))
    await queue.put(notice("k1"))
    await queue.put(notice("k2"))
    await database["notifications"].update_one(
        {"key": "k1"}, {"$set": {"created_at": datetime.now(UTC) - timedelta(days=1)}}
    )
    receiver.answers = [503]
    await until(sender(database, receiver), lambda: len(receiver.got) >= 2)

    assert [body["key"] for body in receiver.bodies] == ["k1", "k2"]
    assert counted(Event.HELD, "given-up") == before + 1


async def test_queue_is_bounded_for_each_bot_and_for_all(database: Database, receiver: Receiver) -> None:
    before = counted(Event.HELD, "dropped")
    queue = notifier(database, to_all(receiver), most_waiting=5, most_per_lane=3)
    for number in range(5):
        await queue.put(notice(f"k{number}", entity_id="b"))
    for number in range(5):
        await queue.put(notice("k", entity_id=f"c{number}"))

    assert await NotificationStore(database).waiting() == 5
    assert counted(Event.HELD, "dropped") == before + 2 + 3


async def test_only_requested_events_are_sent(database: Database, receiver: Receiver) -> None:
    own = {"url": receiver.url, "events": ["bot.recovered"]}
    queue = notifier(database, to_all(receiver, events=("bot.crashed",)))
    await queue.put(notice("k1", Event.HELD, notify=own))
    await queue.put(notice("k2", Event.RECOVERED, notify=own))
    await queue.put(notice("k3", Event.CRASHED, notify=own))
    await until(sender(database, receiver), lambda: len(receiver.got) >= 2)

    assert sorted(body["key"] for body in receiver.bodies) == ["k2", "k3"]


async def test_own_webhook_is_signed_with_the_secret_of_the_owner(
    database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "hook").write_text("anns-key\n")
    resolver = SecretResolver([FileProvider(tmp_path, {})])
    queue = notifier(database, NotifySettings())
    await queue.put(notice("k1", notify={"url": receiver.url, "secret": {"$secret": "hook"}}))
    assert "anns-key" not in str(await database["notifications"].find({}).to_list())
    await until(sender(database, resolver=resolver), lambda: receiver.got)

    [(headers, body)] = receiver.got
    assert headers["The0-Signature"] == signature_of("anns-key", headers["The0-Timestamp"], body)


async def test_own_webhook_is_not_called_with_a_secret_of_another_owner(
    database: Database, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "hook").write_text("bobs-key")
    before = counted(Event.HELD, "refused", "own")
    await notifier(database, NotifySettings()).put(
        notice("k1", notify={"url": receiver.url, "secret": {"$secret": "hook"}})
    )
    await sender(database, resolver=SecretResolver([FileProvider(tmp_path, {})])).send_due()

    assert (receiver.got, counted(Event.HELD, "refused", "own")) == ([], before + 1)


async def test_own_webhook_never_reaches_this_machine_nor_a_private_network(
    database: Database, receiver: Receiver
) -> None:
    before = counted(Event.HELD, "refused", "own")
    queue = notifier(database, NotifySettings())
    port = receiver.url.split(":")[2].split("/")[0]
    hosts = ["127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1"]
    for number, host in enumerate(hosts):
        await queue.put(notice("k", entity_id=f"b{number}", notify={"url": f"http://{host}:{port}/hook"}))
    await sender(database, receiver, rules=Rules()).send_due()

    assert receiver.got == []
    assert counted(Event.HELD, "refused", "own") == before + len(hosts)
    assert await NotificationStore(database).waiting() == 0


async def test_redirect_to_another_place_is_not_followed(database: Database, receiver: Receiver) -> None:
    inside = Receiver()
    await inside.start()
    receiver.answers, receiver.elsewhere = [307], inside.url
    await notifier(database, NotifySettings()).put(notice("k1", notify={"url": receiver.url}))
    await until(sender(database), lambda: len(receiver.got) >= 2)
    await inside.stop()

    assert inside.got == []


async def test_own_webhooks_can_be_switched_off(database: Database, receiver: Receiver) -> None:
    await notifier(database, NotifySettings(own_urls=False)).put(notice("k1", notify={"url": receiver.url}))

    assert await NotificationStore(database).waiting() == 0


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 2x0 OK\r\n", b"H" * 100_000, None])
async def test_invalid_answer_is_a_failure_within_the_limit(database: Database, answer: bytes | None) -> None:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await over.wait()
        else:
            writer.write(answer)
        writer.close()

    before = counted(Event.HELD, "failed", "own")
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    await notifier(database, NotifySettings()).put(notice("k1", notify={"url": url}))
    await sender(database, limit_seconds=0.5, pause=lambda attempts: 3600.0).send_due()
    over.set()
    server.close()
    await server.wait_closed()

    assert counted(Event.HELD, "failed", "own") == before + 1
    assert await NotificationStore(database).waiting() == 1


async def test_malformed_request_is_refused_and_the_operator_is_notified(
    database: Database, receiver: Receiver
) -> None:
    await notifier(database, to_all(receiver)).put(notice("k1", notify={"url": "file:///etc/passwd"}))
    await until(sender(database, receiver), lambda: receiver.got)

    assert len(receiver.got) == 1
