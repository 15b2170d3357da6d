"""Backtests as the platform sees them: announced by an event, completed by a stored result and an event."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from minio.error import S3Error
from nats.aio.msg import Msg

from tests.support.eventually import eventually
from tests.support.rigs.deployment import Deployment
from tests.support.rigs.platform import zipped

RESULTS = "results"


@dataclass
class Backtests:
    """One deployment of the backtest-runner, with its announced backtests. Made by :func:`listening`."""

    deployment: Deployment
    completed: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    """The keys of the last completion event of each backtest."""

    def upload(self, key: str, source: str, **more: str) -> None:
        """Upload a backtest's code under *key*."""
        self.deployment.platform.upload(key, zipped({"main.py": source, **more}))

    async def create(
        self,
        backtest_id: str,
        config: Mapping[str, Any] | None = None,
        *,
        key: str = "main.zip",
        headers: Mapping[str, str] | None = None,
        **description: Any,
    ) -> None:
        """Announce a backtest like the API."""
        await self.deployment.platform.create_backtest(
            backtest_id, config or {}, key=key, headers=headers, **description
        )

    def events(self, backtest_id: str) -> list[dict[str, Any]]:
        """Return the completion events of one backtest."""
        return [event for event in self.completed if event["backtest_id"] == backtest_id]

    async def done(self, backtest_id: str, within_seconds: float = 90) -> dict[str, Any]:
        """Return its completion event, after its document is removed as well."""

        async def over() -> bool:
            return bool(self.events(backtest_id)) and await self.deployment.document(backtest_id) is None

        await eventually(over, within_seconds=within_seconds)
        return self.events(backtest_id)[0]

    def read(self, key: str) -> bytes | None:
        """Return an object of the results bucket."""
        try:
            response = self.deployment.platform.storage.get_object(RESULTS, key)
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchBucket"):
                return None
            raise
        with response:
            return bytes(response.read())

    def analysis(self, folder: str) -> Any:
        """Return the result below *folder*; None without one."""
        found = self.read(f"{folder}/analysis.json")
        return json.loads(found) if found is not None else None

    def logs(self, folder: str) -> str:
        """Return the output below *folder*."""
        return (self.read(f"{folder}/logs.txt") or b"").decode()


@asynccontextmanager
async def listening(deployment: Deployment) -> AsyncIterator[Backtests]:
    """The backtests of *deployment*, with a core subscriber like the API's."""
    made = Backtests(deployment)

    async def received(message: Msg) -> None:
        event = json.loads(message.data)
        made.headers[event["backtest_id"]] = dict(message.headers or {})
        made.completed.append(event)

    subscription = await deployment.platform.client.subscribe("the0.backtest.completed", "api", received)
    await deployment.platform.client.flush()
    try:
        yield made
    finally:
        await subscription.unsubscribe()
        await asyncio.sleep(0)
