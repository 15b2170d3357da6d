"""A bot's own limits: ``config.resources`` within the operator's maxima. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from libs.core.room import MIB
from libs.docker_runner.errors import LimitsRejected
from libs.docker_runner.executable import Limits

# Below these the init and the interpreter do not even start.
_MIN_MEMORY_MB = 64
_MIN_CPUS = 0.1
_MIN_PIDS = 32
_MIN_OPEN_FILES = 64


@dataclass(frozen=True)
class Maxima:
    """The maxima of a bot's requests; missing requests get the operator's defaults."""

    memory_mb: int = 2048
    cpu_shares: int = 4096
    cpus: float = 4.0
    pids: int = 1024
    tmp_mb: int = 512
    open_files: int = 65536


def limits_for(config: Mapping[str, object], defaults: Limits, maxima: Maxima) -> Limits:
    """Return *defaults*, changed by ``config.resources``.

    Its fields are ``memoryMb``, ``cpuShares``, ``cpus``, ``pids``, ``tmpMb`` and ``openFiles``. A bot may request
    less than the default. /tmp never takes more than half of the memory, since it counts as memory: a full
    one would get the bot killed instead of reporting a full disk.

    Raises:
        LimitsRejected: an unknown field, not a number, or more than the maximum.
    """
    resources = config.get("resources")
    if resources is None:
        return _with_room(defaults)
    if not isinstance(resources, Mapping):
        raise LimitsRejected("", resources, "must be an object such as {'memoryMb': 256}")
    limits = defaults
    for field, value in resources.items():
        limits = _apply(limits, str(field), value, maxima)
    return _with_room(limits)


def _apply(limits: Limits, field: str, value: object, maxima: Maxima) -> Limits:
    match field:
        case "memoryMb":
            return replace(limits, memory_bytes=_whole(field, value, _MIN_MEMORY_MB, maxima.memory_mb) * MIB)
        case "cpuShares":
            return replace(limits, cpu_shares=_whole(field, value, 2, maxima.cpu_shares))
        case "cpus":
            return replace(limits, cpus=round(_number(field, value, _MIN_CPUS, maxima.cpus), 2))
        case "pids":
            return replace(limits, pids=_whole(field, value, _MIN_PIDS, maxima.pids))
        case "tmpMb":
            return replace(limits, tmp_bytes=_whole(field, value, 1, maxima.tmp_mb) * MIB)
        case "openFiles":
            return replace(limits, open_files=_whole(field, value, _MIN_OPEN_FILES, maxima.open_files))
    raise LimitsRejected(field, value, "unknown limit; known are memoryMb, cpuShares, cpus, pids, tmpMb, openFiles")


def _whole(field: str, value: object, least: int, most: int) -> int:
    number = _number(field, value, least, most)
    if number != int(number):
        raise LimitsRejected(field, value, "must be a whole number")
    return int(number)


def _number(field: str, value: object, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise LimitsRejected(field, value, "must be a number")
    if value < least:
        raise LimitsRejected(field, value, f"must be at least {least:g}")
    if value > most:
        raise LimitsRejected(field, value, f"the operator allows at most {most:g}")
    return float(value)


def _with_room(limits: Limits) -> Limits:
    return replace(limits, tmp_bytes=min(limits.tmp_bytes, limits.memory_bytes // 2))
