"""The Docker engine's answers as values: the only module that knows their format. Pure.

The engine is trusted, but not all data that it forwards: labels of containers created by another program, and numbers
that gVisor counts inside the sandbox. A malformed answer counts as none.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from libs.core.room import Need
from libs.docker_runner.containers.container import ContainerState, ManagedContainer, from_labels
from libs.docker_runner.engine.events import ContainerEvent, EventKind
from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.usage.stats import Stats

EVENTS = {
    "start": EventKind.STARTED,
    "kill": EventKind.KILLED,
    "die": EventKind.DIED,
    "oom": EventKind.OUT_OF_MEMORY,
    "destroy": EventKind.REMOVED,
}
"""The relevant events of a container, by the engine's names."""

ALIVE = ("running", "paused", "restarting")
"""The states of a container with live processes."""

_SIGKILL = "9"

T = TypeVar("T")


@dataclass(frozen=True)
class Inspected:
    """One container as the engine reports it; *error* is its message about a failed start."""

    container: ManagedContainer
    error: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True)
class EngineInfo:
    """The identity of an engine: *id* is permanent; *runtimes* are the valid names for CONTAINER_RUNTIME.

    *capacity* is the memory and the processors of its host.
    """

    id: str
    name: str
    runtimes: tuple[str, ...]
    capacity: Need


def understood(what: str, answer: bytes, read: Callable[[Any], T]) -> T:
    """Return the result of *read* for the JSON in *answer*.

    Raises:
        EngineUnavailable: it is not JSON, or lacks a required field. The requested change may have happened.
    """
    try:
        return read(json.loads(answer))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise EngineUnavailable(what, f"a malformed answer ({type(error).__name__})") from error


def identifier(found: Any) -> str:
    """Return the id of a container, an image or a network."""
    return str(found["Id"])


def info(found: Any) -> EngineInfo:
    """Return the identity of the engine."""
    return EngineInfo(
        found.get("ID", ""),
        found.get("Name", ""),
        tuple(sorted(found.get("Runtimes") or {})),
        Need(int(found.get("MemTotal") or 0), float(found.get("NCPU") or 0)),
    )


def inspected(found: Any) -> Inspected:
    """Return one container with its times."""
    state = found["State"]
    condition = _condition(state)
    ended = condition is ContainerState.EXITED
    container = from_labels(
        found["Config"].get("Labels") or {},
        container_id=found["Id"],
        name=found["Name"].lstrip("/"),
        state=condition,
        exit_code=state.get("ExitCode") if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        started_at=_time(state.get("StartedAt")),
        finished_at=_time(state.get("FinishedAt")) if ended else None,
    )
    return Inspected(container, state.get("Error") or "", _time(found.get("Created")))


def limits(found: Any) -> Need:
    """Return the limits of a container."""
    host_config = found["HostConfig"]
    cpus = (host_config.get("NanoCpus") or 0) / 1e9
    if not cpus and (quota := host_config.get("CpuQuota") or 0) > 0:
        cpus = quota / (host_config.get("CpuPeriod") or 100_000)
    return Need(int(host_config.get("Memory") or 0), cpus)


def listed(found: Any) -> list[ManagedContainer]:
    """Return the containers of a list; it contains only their creation times."""
    return [_one_listed(summary) for summary in found]


def mount_sources(found: Any) -> dict[str, list[Path]]:
    """Return the host's folders and files that the containers of a list mount, by container id."""
    return {
        summary["Id"]: [Path(mount["Source"]) for mount in summary.get("Mounts") or () if mount.get("Source")]
        for summary in found
    }


def event(found: Any) -> ContainerEvent | None:
    """Return one event; None when it is irrelevant."""
    kind = EVENTS.get(str(found.get("Action") or found.get("status")))
    if kind is None:
        return None
    actor = found.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    if kind is EventKind.KILLED and attributes.get("signal") != _SIGKILL:
        return None
    container_id = str(actor.get("ID") or found.get("id") or "")
    labelled = from_labels(
        attributes, container_id=container_id, name=attributes.get("name", ""), state=ContainerState.RUNNING
    )
    exit_code = attributes.get("exitCode")
    return ContainerEvent(
        kind,
        datetime.fromtimestamp(found.get("timeNano", 0) / 1e9, UTC),
        container_id=container_id,
        name=labelled.name,
        id=labelled.id,
        service=labelled.service,
        scope=labelled.scope,
        segment=labelled.segment,
        exit_code=int(exit_code) if kind is EventKind.DIED and exit_code is not None else None,
    )


def stats(found: Any) -> Stats | None:
    """Return one sample; None when the container does not run."""
    memory = found.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    # Memory that the kernel reclaims at once does not count; as in `docker stats`.
    details = memory.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    networks = (found.get("networks") or {}).values()
    peak = memory.get("max_usage")
    return Stats(
        memory_bytes=_count(max(0, memory["usage"] - cache)),
        memory_limit_bytes=_count(memory.get("limit", 0)),
        cpu_seconds=_count((found.get("cpu_stats") or {}).get("cpu_usage", {}).get("total_usage", 0)) / 1e9,
        pids=_count((found.get("pids_stats") or {}).get("current", 0)),
        network_received_bytes=_count(sum(network.get("rx_bytes", 0) for network in networks)),
        network_sent_bytes=_count(sum(network.get("tx_bytes", 0) for network in networks)),
        peak_memory_bytes=_count(peak) if peak is not None else None,
    )


def pull_failure(found: Any) -> str | None:
    """Return the failure in a line of a pull's progress; None without one."""
    return str(found["error"]) if "error" in found else None


def _one_listed(summary: Mapping[str, Any]) -> ManagedContainer:
    names = summary.get("Names") or [""]
    state = _condition({"Status": summary.get("State", ""), "Running": summary.get("State") in ALIVE})
    created = summary.get("Created")
    return from_labels(
        summary.get("Labels") or {},
        container_id=summary["Id"],
        name=names[0].lstrip("/"),
        state=state,
        created_at=datetime.fromtimestamp(created, UTC) if isinstance(created, int) else None,
    )


def _condition(state: Mapping[str, Any]) -> ContainerState:
    if state.get("Running") or state.get("Paused") or state.get("Status") in ALIVE:
        return ContainerState.RUNNING
    return ContainerState.CREATED if state.get("Status") == "created" else ContainerState.EXITED


def _time(text: str | None) -> datetime | None:
    """Parse RFC 3339 with nanoseconds; the engine writes the year 1 for never."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00"))).astimezone(UTC)


def _count(value: Any) -> int:
    """Return a number that fits a metric and the database.

    cgroup v1 reports about 2^63 for no limit, which is capped.
    """
    if not isinstance(value, int | float) or value < 0:
        raise ValueError(f"not a count: {value!r}")
    return int(min(value, (1 << 63) - 1))
