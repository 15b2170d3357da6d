"""Observe the engine for two live containers of one bot, which must never happen."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import docker

from tools.engine.ensure import Engine


class OverlapWatch:
    """Records bots that had two live containers at one instant, by the engine's own events."""

    def __init__(self, engine: Engine, scope: str) -> None:
        self._client = docker.DockerClient(base_url=engine.url, timeout=600)
        self._events = self._client.events(
            decode=True, filters={"label": f"runtime.scope={scope}", "type": "container"}
        )
        self._alive: dict[str, set[str]] = defaultdict(set)
        # Listed after the events are followed: a concurrent start or end is in the events as well.
        for container in self._client.api.containers(filters={"label": f"runtime.scope={scope}"}):
            self._alive[container["Labels"].get("runtime.id", "")].add(container["Id"])
        self._standbys: set[str] = set()
        self.overlaps: list[str] = []
        self.starts: dict[str, int] = defaultdict(int)
        self._died: dict[str, int] = {}
        self.gaps_seconds: dict[str, list[float]] = defaultdict(list)
        """From the death of a bot's container to the start of its next one, by the engine's clock."""
        self._thread = threading.Thread(target=self._watch, name="overlap watch", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        for event in self._events:
            about = event["Actor"]["Attributes"]
            bot = about.get("runtime.id", "")
            if event["status"] == "start" and about["name"].endswith("-standby"):
                # It runs nothing of its bot before it has the name of the bot's container.
                self._standbys.add(event["id"])
            elif event["status"] == "start" or (event["status"] == "rename" and event["id"] in self._standbys):
                self._standbys.discard(event["id"])
                self.starts[bot] += 1
                self._alive[bot].add(event["id"])
                if (died := self._died.pop(bot, None)) is not None:
                    self.gaps_seconds[bot].append((event["timeNano"] - died) / 1e9)
                if len(self._alive[bot]) > 1:
                    self.overlaps.append(f"{bot}: {sorted(self._alive[bot])}")
            elif event["status"] == "die" and event["id"] not in self._standbys:
                self._alive[bot].discard(event["id"])
                self._died[bot] = event["timeNano"]

    def close(self) -> None:
        """Stop observing."""
        self._events.close()
        self._thread.join(timeout=5)
        self._client.close()


@asynccontextmanager
async def overlap_watch(engine: Engine, scope: str) -> AsyncIterator[OverlapWatch]:
    """Observe the containers of *scope* during the block."""
    watch = OverlapWatch(engine, scope)
    try:
        yield watch
    finally:
        await asyncio.to_thread(watch.close)
