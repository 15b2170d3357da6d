"""The connection to NATS while the driver is not quite itself."""

import asyncio
from typing import Any

import pytest
from nats.aio.client import Client

from libs.core.events.connection import NatsConnection


@pytest.mark.parametrize("call", ["connect", "flush"])
async def test_a_cancellation_that_the_driver_loses_while_it_connects_ends_the_connection_all_the_same(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    calling = asyncio.Event()
    lost = False

    async def works(*_: Any, **__: Any) -> None:
        return

    async def loses_a_cancellation(*_: Any, **__: Any) -> None:
        # Once, as when the connection is refused in the same moment.
        nonlocal lost
        calling.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if lost:
                raise
            lost = True
            raise ConnectionRefusedError from None

    for name in ("connect", "flush", "close"):
        monkeypatch.setattr(Client, name, loses_a_cancellation if name == call else works)
    connection = NatsConnection("nats://127.0.0.1:1", name="test")
    running = asyncio.create_task(connection.run())
    await calling.wait()
    calling.clear()

    running.cancel()
    again = asyncio.create_task(calling.wait())
    await asyncio.wait([running, again], return_when=asyncio.FIRST_COMPLETED)
    ended, tried_again = running.cancelled(), again.done()
    again.cancel()
    running.cancel()
    await asyncio.wait([running, again])

    assert (ended, tried_again) == (True, False)
