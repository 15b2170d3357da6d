"""Watches the engine for the one thing that must never be: two live containers of one bot."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import docker

from tools.engine.ensure import Engine


class OverlapWatch:
    """Which bots had two live containers at some instant, by the engine's own events."""

    def __init__(self, engine: Engine, scope: str) -> None:
        self._client = docker.DockerClient(base_url=engine.url, timeout=600)
        self._events = self._client.events(
            decode=True, filters={"label": f"runtime.scope={scope}", "type": "container"}
        )
        self._alive: dict[str, set[str]] = defaultdict(set)
        # Asked when events are listened to already: one that starts or ends meanwhile is in these as well.
        for container in self._client.api.containers(filters={"label": f"runtime.scope={scope}"}):
            self._alive[container["Labels"].get("runtime.id", "")].add(container["Id"])
        self.overlaps: list[str] = []
        self.starts: dict[str, int] = defaultdict(int)
        self._thread = threading.Thread(target=self._watch, name="overlap watch", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        for event in self._events:
            bot = event["Actor"]["Attributes"].get("runtime.id", "")
            if event["status"] == "start":
                self.starts[bot] += 1
                self._alive[bot].add(event["id"])
                if len(self._alive[bot]) > 1:
                    self.overlaps.append(f"{bot}: {sorted(self._alive[bot])}")
            elif event["status"] == "die":
                self._alive[bot].discard(event["id"])

    def close(self) -> None:
        """Stop watching."""
        self._events.close()
        self._thread.join(timeout=5)
        self._client.close()


@asynccontextmanager
async def overlap_watch(engine: Engine, scope: str) -> AsyncIterator[OverlapWatch]:
    """Watch the containers of *scope* for as long as the block lasts."""
    watch = OverlapWatch(engine, scope)
    try:
        yield watch
    finally:
        await asyncio.to_thread(watch.close)
