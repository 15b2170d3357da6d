"""The operations of the Docker engine, one request each; `answers` parses the responses."""

import base64
import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libs.core.room import Need
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.engine import answers
from libs.docker_runner.engine.answers import EngineInfo, Inspected, understood
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.engine.exec_channel import ExecChannel
from libs.docker_runner.engine.http import STALLED_SECONDS, EngineFailed, EngineHttp, EngineRefused, read_frame
from libs.docker_runner.errors import EngineUnavailable, ImageUnavailable
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.usage.stats import Stats

_STREAMS = {1: "stdout", 2: "stderr"}
_EVENT_LINE_BYTES = 1024 * 1024
# By a digest that no image can have.
_NO_IMAGE = f"the0.invalid/none@sha256:{'0' * 64}"


class NameTaken(Exception):
    """A container of this name already exists."""


class NoSuchImage(Exception):
    """The image is not on the engine's host."""


class Engine:
    """A Docker engine. Every method may raise EngineUnavailable (outcome unknown) and EngineRefused."""

    def __init__(
        self, url: str | None = None, timeout_seconds: float = 60.0, stalled_seconds: float = STALLED_SECONDS
    ) -> None:
        self._http = EngineHttp(url, timeout_seconds, stalled_seconds)

    async def close(self) -> None:
        """Close all connections. May be repeated."""
        await self._http.close()

    def socket_group(self) -> int | None:
        """Return the group of its socket; None when it has none, or is not there."""
        return self._http.socket_group()

    async def info(self) -> EngineInfo:
        """Return the identity of the engine."""
        return understood("info", await self._http.request("info", "GET", "/info"), answers.info)

    # --- one container

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container and return the engine's id.

        Raises:
            NameTaken, NoSuchImage
        """
        try:
            answer = await self._http.request(
                f"create {name}", "POST", "/containers/create", query={"name": name}, body=body
            )
        except EngineRefused as error:
            if error.status == 409:
                raise NameTaken from error
            if error.status == 404 and await self.image_id(body["Image"]) is None:
                raise NoSuchImage from error
            raise
        return understood("create", answer, answers.identifier)

    async def sees(self, folder: Path) -> bool:
        """Return whether *folder* exists on the engine's host. Creates nothing: mounts are checked before the image."""
        mount = {"Type": "bind", "Source": str(folder), "Target": "/probe", "ReadOnly": True}
        name = f"the0-probe-{secrets.token_hex(8)}"
        try:
            await self.create(name, {"Image": _NO_IMAGE, "Cmd": ["true"], "HostConfig": {"Mounts": [mount]}})
        except NoSuchImage:
            return True
        except EngineFailed:
            raise
        except EngineRefused:
            return False
        await self.remove(name)
        return True

    async def start(self, container: str) -> None:
        """Start it; no error if it runs already."""
        await self._http.request(f"start {container}", "POST", f"/containers/{container}/start")

    async def rename(self, container: str, name: str) -> None:
        """Give it another name.

        Raises:
            NameTaken: another container has that name.
        """
        try:
            await self._http.request(
                f"rename to {name}", "POST", f"/containers/{container}/rename", query={"name": name}
            )
        except EngineRefused as error:
            if error.status == 409:
                raise NameTaken from error
            raise

    async def stop(self, container: str, grace_seconds: int) -> None:
        """Send SIGTERM, then SIGKILL after *grace_seconds*; return when it has ended. No error if it is gone."""
        await self._unless_gone(
            f"stop {container}",
            f"/containers/{container}/stop",
            {"t": grace_seconds},
            timeout_seconds=grace_seconds + 30.0,
        )

    async def kill(self, container: str) -> None:
        """Send SIGKILL. No error if it does not run."""
        await self._unless_gone(f"kill {container}", f"/containers/{container}/kill", {"signal": "SIGKILL"})

    async def wait(self, container: str, timeout_seconds: float) -> None:
        """Return when it does not run or is gone."""
        await self._unless_gone(
            f"wait for {container}",
            f"/containers/{container}/wait",
            {"condition": "not-running"},
            timeout_seconds=timeout_seconds,
        )

    async def remove(self, container: str) -> None:
        """Remove it with its volumes, killing it if it runs. No error if it is gone or being removed."""
        try:
            await self._http.request(
                f"remove {container}", "DELETE", f"/containers/{container}", query={"force": "true", "v": "true"}
            )
        except EngineRefused as error:
            if error.status not in (404, 409):
                raise

    async def inspect(self, container: str) -> Inspected | None:
        """Return its description and state; None if it does not exist. Takes an id or a name."""
        what = f"inspect {container}"
        answer = await self._found(what, f"/containers/{container}/json")
        return understood(what, answer, answers.inspected) if answer is not None else None

    async def limits(self, container: str) -> Need | None:
        """Return its limits; None when it is gone. Without memory: it has no limit."""
        what = f"inspect {container}"
        answer = await self._found(what, f"/containers/{container}/json")
        return understood(what, answer, answers.limits) if answer is not None else None

    async def stats(self, container: str) -> Stats | None:
        """Return one sample; None when it does not run."""
        what = f"stats of {container}"
        query = {"stream": "false", "one-shot": "true"}
        try:
            answer = await self._http.request(what, "GET", f"/containers/{container}/stats", query=query)
        except EngineRefused as error:
            if error.status in (404, 409):
                return None
            raise
        return understood(what, answer, answers.stats)

    async def logs(
        self, container: str, *, since: datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[LogLine, None]:
        """Yield its output from *since* on, inclusive; with *follow* until it ends."""
        query: dict[str, str | int] = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": int(follow)}
        if since is not None:
            whole = int(since.timestamp() // 1)
            query["since"] = f"{whole}.{since.microsecond:06d}000"
        if tail is not None:
            query["tail"] = tail
        what = f"logs of {container}"
        silence = None if follow else 60.0
        async with self._http.stream(
            what, "GET", f"/containers/{container}/logs", query=query, silence_seconds=silence
        ) as stream:
            while (frame := await read_frame(stream, what)) is not None:
                kind, data = frame
                timestamp, _, text = data.partition(b" ")
                yield LogLine(timestamp.decode("ascii", "replace"), _STREAMS.get(kind, "stdout"), text)

    async def execute(self, container: str, command: Sequence[str]) -> ExecChannel:
        """Start a further process in a running container, as its root, and return its input and output.

        It ends with its input, which ends with this process.
        """
        what = f"exec in {container}"
        body = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Tty": False, "Cmd": list(command)}
        answer = await self._http.request(what, "POST", f"/containers/{container}/exec", body={**body, "User": "0:0"})
        identifier = understood("exec", answer, answers.identifier)
        reader, writer = await self._http.upgraded(what, f"/exec/{identifier}/start", {"Detach": False, "Tty": False})
        return ExecChannel(reader, writer, what)

    # --- all of them

    async def list(self, labels: Mapping[str, str | None], *, ended: bool = True) -> list[ManagedContainer]:
        """Return all containers with these labels; without *ended* only those that have not ended.

        A label whose value is None matches any value. Of their times, the list contains only the creation.
        """
        states = {} if ended else {"status": ["created", *answers.ALIVE]}
        return understood("list containers", await self._listed(labels, states), answers.listed)

    async def mounting(self, folder: Path, labels: Mapping[str, str]) -> set[str]:
        """Return the ids of the containers with these labels, ended ones too, that mount something from *folder*."""
        sources = understood("list containers", await self._listed(labels, {}), answers.mount_sources)
        return {found for found, paths in sources.items() if any(path.is_relative_to(folder) for path in paths)}

    async def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        """Yield events of containers with these labels from now on, until the connection ends.

        The first is a RESYNC, once the engine listens: no later event is missed.
        """
        filters = {
            "type": ["container"],
            "event": list(answers.EVENTS),
            "label": [f"{name}={value}" for name, value in labels.items()],
        }
        async with self._http.stream(
            "events", "GET", "/events", query={"filters": json.dumps(filters)}, silence_seconds=silence_seconds
        ) as stream:
            yield ContainerEvent(EventKind.RESYNC, datetime.now(UTC))
            buffer = b""
            async for chunk in stream.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                if len(buffer) > _EVENT_LINE_BYTES:
                    raise EngineUnavailable("events", "an incomplete event")
                for line in lines:
                    if line.strip() and (event := understood("events", line, answers.event)) is not None:
                        yield event

    # --- images

    async def image_id(self, image: str) -> str | None:
        """Return the digest of *image* on the engine's host; None when it is missing."""
        what = f"inspect {image}"
        answer = await self._found(what, f"/images/{image}/json")
        return understood(what, answer, answers.identifier) if answer is not None else None

    async def pull(self, image: str, credentials: Mapping[str, str] | None, silence_seconds: float) -> None:
        """Pull *image* from its registry.

        Raises:
            ImageUnavailable: the registry does not provide it.
        """
        headers = {}
        if credentials is not None:
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()
        # Without a tag the engine would pull all of them.
        named = image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"
        try:
            async with self._http.stream(
                f"pull {image}",
                "POST",
                "/images/create",
                query={"fromImage": named},
                headers=headers,
                silence_seconds=silence_seconds,
            ) as stream:
                async for line in stream:
                    # A failure after the first byte is a line in an answer with status 200.
                    failure = understood(f"pull {image}", line, answers.pull_failure) if line.strip() else None
                    if failure is not None:
                        raise ImageUnavailable(image, failure)
        except EngineRefused as error:
            raise ImageUnavailable(image, error.message) from error

    # --- networks

    async def network_id(self, name: str) -> str | None:
        """Return the id of the network *name*; None when it does not exist."""
        what = f"inspect network {name}"
        answer = await self._found(what, f"/networks/{name}")
        return understood(what, answer, answers.identifier) if answer is not None else None

    async def create_network(self, body: Mapping[str, Any]) -> str:
        """Create a network and return its id."""
        answer = await self._http.request("create network", "POST", "/networks/create", body=body)
        return understood("create network", answer, answers.identifier)

    async def _listed(self, labels: Mapping[str, str | None], more: Mapping[str, Sequence[str]]) -> bytes:
        """Return the summaries of the containers with these labels that *more* filters let through."""
        wanted = [name if value is None else f"{name}={value}" for name, value in labels.items()]
        filters = {"label": wanted, **more}
        return await self._http.request(
            "list containers", "GET", "/containers/json", query={"all": "true", "filters": json.dumps(filters)}
        )

    async def _found(self, what: str, path: str) -> bytes | None:
        """Return the answer to a query of one object; None when it does not exist."""
        try:
            return await self._http.request(what, "GET", path)
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise

    async def _unless_gone(
        self, what: str, path: str, query: Mapping[str, str | int], timeout_seconds: float | None = None
    ) -> None:
        try:
            await self._http.request(what, "POST", path, query=query, timeout_seconds=timeout_seconds)
        except EngineRefused as error:
            if error.status not in (404, 409):
                raise
