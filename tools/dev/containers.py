"""The containers of a stack, as the Docker engine has them. The engine's SDK blocks and is used only here."""

import asyncio
import contextlib
import struct
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from libs.docker_runner.containers.container import Label

T = TypeVar("T")

_CALL_SECONDS = 30
_GONE_OR_GOING = (404, 409)
# What the SDK and the HTTP library say of a stream that another thread closes while they read it.
_CUT_OFF = (AttributeError, ValueError, struct.error)


class EngineUnreachableError(RuntimeError):
    """The Docker engine did not answer."""


@dataclass(frozen=True)
class BotContainer:
    """One container of ours. *has_started*: it runs or ran; the output of one that has not cannot be followed yet."""

    container_id: str
    name: str
    entity_id: str
    service: str
    segment: str
    worker: str
    running: bool
    has_started: bool


class Containers:
    """The containers with one of *scopes* on the engine at *url*. Use as an asynchronous context manager.

    Args:
        folder: of the stack. Short-lived containers that mount something out of it are its own too; they have no scope.
    """

    def __init__(self, url: str, scopes: Collection[str], folder: Path | None = None) -> None:
        self._client = docker.APIClient(base_url=url, timeout=_CALL_SECONDS)
        self._scopes = tuple(scopes)
        self._folder = folder
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="containers")
        self._closing = threading.Event()
        self._streams: set[Any] = set()

    async def __aenter__(self) -> "Containers":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        for stream in list(self._streams):
            _close(stream)
        await asyncio.to_thread(self._pool.shutdown)
        self._client.close()

    async def all(self, entity_id: str | None = None, service: str | None = None) -> list[BotContainer]:
        """All containers, those that ended too. Raises EngineUnreachableError."""
        return await self._run(lambda: self._list(entity_id, service))

    async def remove_all(self) -> int:
        """Kill and remove every container; how many there were. Raises EngineUnreachableError."""
        return await self._run(self._remove_all)

    async def output(
        self, container_id: str, *, tail: int | None = None, follow: bool = True
    ) -> AsyncGenerator[str, None]:
        """The lines that a container printed; with *follow* until it ends. *tail*: the last so many lines first."""
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        def hand_over(line: str | None) -> None:
            if not self._closing.is_set():
                loop.call_soon_threadsafe(lines.put_nowait, line)

        # A thread of its own: it blocks for as long as the container lives.
        reader = threading.Thread(target=self._read, args=(container_id, tail, follow, hand_over), daemon=True)
        reader.start()
        while (line := await lines.get()) is not None:
            yield line

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        except (DockerException, requests.RequestException) as error:
            raise EngineUnreachableError(f"the Docker engine did not answer: {error}") from error

    def _list(self, entity_id: str | None, service: str | None) -> list[BotContainer]:
        found = []
        for scope in self._scopes:
            labels = [f"{Label.SCOPE}={scope}"]
            if entity_id is not None:
                labels.append(f"{Label.ID}={entity_id}")
            if service is not None:
                labels.append(f"{Label.SERVICE}={service}")
            found += [_container(item) for item in self._client.containers(all=True, filters={"label": labels})]
        return found

    def _remove_all(self) -> int:
        count = 0
        for container_id in {container.container_id for container in self._list(None, None)} | self.mounting():
            try:
                self._client.remove_container(container_id, force=True, v=True)
                count += 1
            except APIError as error:
                if error.status_code not in _GONE_OR_GOING:
                    raise
        return count

    def mounting(self) -> set[str]:
        """Ids of the managed containers, of whatever scope, that mount something out of the stack's folder. Blocks."""
        if self._folder is None:
            return set()
        managed = self._client.containers(all=True, filters={"label": [f"{Label.MANAGED}=true"]})
        return {item["Id"] for item in managed if any(self._is_ours(mount) for mount in item.get("Mounts") or ())}

    def _is_ours(self, mount: Mapping[str, Any]) -> bool:
        return self._folder is not None and Path(mount.get("Source") or "/").is_relative_to(self._folder)

    def _read(self, container_id: str, tail: int | None, follow: bool, hand_over: Callable[[str | None], None]) -> None:
        stream = None
        try:
            stream = self._client.logs(
                container_id, stream=True, follow=follow, tail="all" if tail is None else max(0, tail)
            )
            self._streams.add(stream)
            rest = b""
            for chunk in stream:
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    hand_over(line.decode(errors="replace"))
            if rest:
                hand_over(rest.decode(errors="replace"))
        except (NotFound, DockerException, requests.RequestException, OSError, *_CUT_OFF):
            pass  # it was removed meanwhile, or we are closing: either way this is the end of its output
        finally:
            if stream is not None:
                self._streams.discard(stream)
                _close(stream)
            hand_over(None)


def _container(item: Mapping[str, Any]) -> BotContainer:
    labels = item.get("Labels") or {}
    return BotContainer(
        container_id=item["Id"],
        name=item["Names"][0].lstrip("/") if item.get("Names") else "",
        entity_id=labels.get(Label.ID, ""),
        service=labels.get(Label.SERVICE, ""),
        segment=labels.get(Label.SEGMENT, ""),
        worker=labels.get(Label.WORKER, ""),
        running=item.get("State") == "running",
        has_started=item.get("State") != "created",
    )


def _close(stream: Any) -> None:
    # Its socket may be closed already.
    with contextlib.suppress(DockerException, OSError, *_CUT_OFF):
        stream.close()
