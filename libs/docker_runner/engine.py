"""The Docker engine's operations that we need, each one request; nobody else knows the engine's formats."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp

from libs.core.room import Need
from libs.docker_runner.container import ContainerState, ManagedContainer, from_labels
from libs.docker_runner.container_events import ContainerEvent, EventKind
from libs.docker_runner.engine_http import EngineHttp, EngineRefused
from libs.docker_runner.errors import EngineUnavailable, ImageUnavailable
from libs.docker_runner.output import LogLine
from libs.docker_runner.stats import Stats

_STREAMS = {1: "stdout", 2: "stderr"}
_FRAME_HEADER_BYTES = 8
_EVENT_LINE_BYTES = 1024 * 1024
_EVENTS = {
    "start": EventKind.STARTED,
    "kill": EventKind.KILLED,
    "die": EventKind.DIED,
    "oom": EventKind.OUT_OF_MEMORY,
    "destroy": EventKind.REMOVED,
}

_SIGKILL = "9"


class NameTaken(Exception):
    """A container of this name exists."""


class NoSuchImage(Exception):
    """The image is not on the engine's host."""


@dataclass(frozen=True)
class Inspected:
    """One container as the engine has it now; *error* is what it says of a failed start."""

    container: ManagedContainer
    error: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True)
class EngineInfo:
    """Which engine it is: *id* is its own and lasts; *runtimes* are the names that CONTAINER_RUNTIME may have.

    *capacity* is the memory and the processors of its host.
    """

    id: str
    name: str
    runtimes: tuple[str, ...]
    capacity: Need


class Engine:
    """A Docker engine. Every method may raise EngineUnavailable (outcome unknown) and EngineRefused."""

    def __init__(self, url: str | None = None, timeout_seconds: float = 60.0) -> None:
        self._http = EngineHttp(url, timeout_seconds)

    async def close(self) -> None:
        """Close all connections. May be repeated."""
        await self._http.close()

    async def info(self) -> EngineInfo:
        """Which engine this is."""
        found = json.loads(await self._http.request("info", "GET", "/info"))
        return EngineInfo(
            found.get("ID", ""),
            found.get("Name", ""),
            tuple(sorted(found.get("Runtimes") or {})),
            Need(int(found.get("MemTotal") or 0), float(found.get("NCPU") or 0)),
        )

    # --- one container

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """The engine's id of the new container.

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
            if error.status == 404 and "image" in error.message.lower():
                raise NoSuchImage from error
            raise
        return str(json.loads(answer)["Id"])

    async def start(self, container: str) -> None:
        """Start it; one that runs already is no error."""
        await self._http.request(f"start {container}", "POST", f"/containers/{container}/start")

    async def stop(self, container: str, grace_seconds: int) -> None:
        """SIGTERM, then SIGKILL after *grace_seconds*; returns when it is over. One that is gone is no error."""
        await self._unless_gone(
            f"stop {container}",
            f"/containers/{container}/stop",
            {"t": grace_seconds},
            timeout_seconds=grace_seconds + 30.0,
        )

    async def kill(self, container: str) -> None:
        """SIGKILL. One that does not run is no error."""
        await self._unless_gone(f"kill {container}", f"/containers/{container}/kill", {"signal": "SIGKILL"})

    async def wait(self, container: str, timeout_seconds: float) -> None:
        """Return when it does not run; one that is gone does not."""
        await self._unless_gone(
            f"wait for {container}",
            f"/containers/{container}/wait",
            {"condition": "not-running"},
            timeout_seconds=timeout_seconds,
        )

    async def remove(self, container: str) -> None:
        """Remove it with its volumes, killing it if it runs. One that is gone or going is no error."""
        try:
            await self._http.request(
                f"remove {container}", "DELETE", f"/containers/{container}", query={"force": "true", "v": "true"}
            )
        except EngineRefused as error:
            if error.status not in (404, 409):
                raise

    async def inspect(self, container: str) -> Inspected | None:
        """What it is and how it is; None when there is none. Takes an id or a name."""
        try:
            found = json.loads(await self._http.request(f"inspect {container}", "GET", f"/containers/{container}/json"))
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise
        state = found["State"]
        condition = _condition(state)
        started, finished = _time(state.get("StartedAt")), _time(state.get("FinishedAt"))
        ended = condition is ContainerState.EXITED
        return Inspected(
            from_labels(
                found["Config"].get("Labels") or {},
                container_id=found["Id"],
                name=found["Name"].lstrip("/"),
                state=condition,
                exit_code=state.get("ExitCode") if ended else None,
                oom_killed=bool(state.get("OOMKilled")),
                started_at=started,
                finished_at=finished if ended else None,
            ),
            state.get("Error") or "",
            _time(found.get("Created")),
        )

    async def limits(self, container: str) -> Need | None:
        """What it may use; None when it is gone. No memory in it: it has no limit."""
        try:
            found = json.loads(await self._http.request(f"inspect {container}", "GET", f"/containers/{container}/json"))
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise
        return _limits(found.get("HostConfig") or {})

    async def stats(self, container: str) -> Stats | None:
        """One sample; None when it does not run."""
        query = {"stream": "false", "one-shot": "true"}
        try:
            answer = await self._http.request(
                f"stats of {container}", "GET", f"/containers/{container}/stats", query=query
            )
        except EngineRefused as error:
            if error.status in (404, 409):
                return None
            raise
        return _stats(json.loads(answer))

    async def logs(
        self, container: str, *, since: datetime | None = None, follow: bool = False, tail: int | None = None
    ) -> AsyncGenerator[LogLine, None]:
        """Its output from *since* on, that instant included; with *follow* until it ends."""
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
            while (frame := await _frame(stream, what)) is not None:
                kind, data = frame
                timestamp, _, text = data.partition(b" ")
                yield LogLine(timestamp.decode("ascii", "replace"), _STREAMS.get(kind, "stdout"), text)

    # --- all of them

    async def list(self, labels: Mapping[str, str], *, ended: bool = True) -> list[ManagedContainer]:
        """All containers with these labels; without those that have *ended* if it is false.

        Of their times only the creation is known from this.
        """
        filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
        if not ended:
            filters["status"] = ["created", *_ALIVE]
        answer = await self._http.request(
            "list containers", "GET", "/containers/json", query={"all": "true", "filters": json.dumps(filters)}
        )
        return [_listed(summary) for summary in json.loads(answer)]

    async def events(self, labels: Mapping[str, str], silence_seconds: float) -> AsyncGenerator[ContainerEvent, None]:
        """Events of containers with these labels from now on, until the engine goes.

        The first is a RESYNC, once the engine listens: what happens after it is not missed.
        """
        filters = {
            "type": ["container"],
            "event": list(_EVENTS),
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
                    raise EngineUnavailable("events", "an event without an end")
                for line in lines:
                    if line.strip() and (event := _event(json.loads(line))) is not None:
                        yield event

    # --- images

    async def image_id(self, image: str) -> str | None:
        """The digest that *image* names on the engine's host; None when it is not there."""
        try:
            found = json.loads(await self._http.request(f"inspect {image}", "GET", f"/images/{image}/json"))
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise
        return str(found["Id"])

    async def pull(self, image: str, credentials: Mapping[str, str] | None, silence_seconds: float) -> None:
        """Fetch *image* from its registry.

        Raises:
            ImageUnavailable: the registry does not give it.
        """
        headers = {}
        if credentials is not None:
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()
        # Without a tag the engine would fetch all of them.
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
                    # A failure after the first byte comes as a line of an answer that says 200.
                    progress = json.loads(line) if line.strip() else {}
                    if "error" in progress:
                        raise ImageUnavailable(image, str(progress["error"]))
        except EngineRefused as error:
            raise ImageUnavailable(image, error.message) from error

    # --- networks

    async def network_id(self, name: str) -> str | None:
        """The id of the network *name*; None when there is none."""
        try:
            found = json.loads(await self._http.request(f"inspect network {name}", "GET", f"/networks/{name}"))
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise
        return str(found["Id"])

    async def create_network(self, body: Mapping[str, Any]) -> str:
        """The id of the new network."""
        answer = await self._http.request("create network", "POST", "/networks/create", body=body)
        return str(json.loads(answer)["Id"])

    async def _unless_gone(
        self, what: str, path: str, query: Mapping[str, str | int], timeout_seconds: float | None = None
    ) -> None:
        try:
            await self._http.request(what, "POST", path, query=query, timeout_seconds=timeout_seconds)
        except EngineRefused as error:
            if error.status not in (404, 409):
                raise


def _listed(summary: Mapping[str, Any]) -> ManagedContainer:
    names = summary.get("Names") or [""]
    state = _condition({"Status": summary.get("State", ""), "Running": summary.get("State") in _ALIVE})
    created = summary.get("Created")
    return from_labels(
        summary.get("Labels") or {},
        container_id=summary["Id"],
        name=names[0].lstrip("/"),
        state=state,
        created_at=datetime.fromtimestamp(created, UTC) if isinstance(created, int) else None,
    )


def _limits(host_config: Mapping[str, Any]) -> Need:
    cpus = (host_config.get("NanoCpus") or 0) / 1e9
    if not cpus and (quota := host_config.get("CpuQuota") or 0) > 0:
        cpus = quota / (host_config.get("CpuPeriod") or 100_000)
    return Need(int(host_config.get("Memory") or 0), cpus)


_ALIVE = ("running", "paused", "restarting")


def _condition(state: Mapping[str, Any]) -> ContainerState:
    if state.get("Running") or state.get("Paused") or state.get("Status") in _ALIVE:
        return ContainerState.RUNNING
    return ContainerState.CREATED if state.get("Status") == "created" else ContainerState.EXITED


def _time(text: str | None) -> datetime | None:
    """RFC 3339 with nanoseconds; the engine writes the year 1 for never."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00"))).astimezone(UTC)


def _event(raw: Mapping[str, Any]) -> ContainerEvent | None:
    kind = _EVENTS.get(str(raw.get("Action") or raw.get("status")))
    if kind is None:
        return None
    actor = raw.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    if kind is EventKind.KILLED and attributes.get("signal") != _SIGKILL:
        return None
    container_id = str(actor.get("ID") or raw.get("id") or "")
    labelled = from_labels(
        attributes, container_id=container_id, name=attributes.get("name", ""), state=ContainerState.RUNNING
    )
    exit_code = attributes.get("exitCode")
    return ContainerEvent(
        kind,
        datetime.fromtimestamp(raw.get("timeNano", 0) / 1e9, UTC),
        container_id=container_id,
        name=labelled.name,
        id=labelled.id,
        segment=labelled.segment,
        exit_code=int(exit_code) if kind is EventKind.DIED and exit_code is not None else None,
    )


def _stats(raw: Mapping[str, Any]) -> Stats | None:
    memory = raw.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    # What the kernel gives back at once when memory is short is no use; as `docker stats` counts.
    details = memory.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    networks = (raw.get("networks") or {}).values()
    return Stats(
        memory_bytes=max(0, memory["usage"] - cache),
        memory_limit_bytes=memory.get("limit", 0),
        cpu_seconds=(raw.get("cpu_stats") or {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9,
        pids=(raw.get("pids_stats") or {}).get("current", 0),
        network_received_bytes=sum(network.get("rx_bytes", 0) for network in networks),
        network_sent_bytes=sum(network.get("tx_bytes", 0) for network in networks),
        peak_memory_bytes=memory.get("max_usage"),
    )


async def _frame(stream: aiohttp.StreamReader, what: str) -> tuple[int, bytes] | None:
    """The next piece of output; None at its end."""
    try:
        header = await stream.readexactly(_FRAME_HEADER_BYTES)
        return header[0], await stream.readexactly(int.from_bytes(header[4:], "big"))
    except aiohttp.ClientPayloadError as error:
        raise EngineUnavailable(what, "the stream broke off") from error
    except asyncio.IncompleteReadError as error:
        # Nothing at all is the end, half a frame is a broken stream.
        if error.partial:
            raise EngineUnavailable(what, "the stream broke off") from error
        return None
