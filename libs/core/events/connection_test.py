"""The connection to NATS while the driver is not quite itself."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from libs.core.config.connection_settings import NatsSettings
from libs.core.config.settings_loader import load
from libs.core.events.connection import NatsConnection, url_file_of


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


def test_address_that_is_set_itself_has_precedence_over_its_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("nats://from-file:4222\n")
    environ = {"NATS_URL_FILE": f"{tmp_path}/url"}

    followed = url_file_of(load(NatsSettings, environ=environ))

    assert followed is not None
    assert followed.value == "nats://from-file:4222"
    assert url_file_of(load(NatsSettings, environ=environ | {"NATS_URL": "nats://set:4222"})) is None


def test_address_whose_file_is_missing_means_no_nats(tmp_path: Path) -> None:
    settings = load(NatsSettings, environ={"NATS_URL_FILE": f"{tmp_path}/url"})

    assert NatsConnection.of(settings, name="test") is None
