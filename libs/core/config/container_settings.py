"""Settings of containers: their limits, and the maxima of bots' requests.

The names of variables in all modules of settings are in part an interface to the outside and do not change.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from libs.core.config.destinations import Destination, Proxy, destinations, proxy
from libs.core.config.settings_loader import Group, Named, Seconds

_TEMP_DIR = Path("/tmp/runtime")  # noqa: S108 - other programs rely on this default

Number = Annotated[float, Field(allow_inf_nan=False)]


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("it is relative")
    return path


def _absolute_if_set(path: Path | None) -> Path | None:
    return _absolute(path) if path is not None else None


def _destinations(value: object) -> object:
    return destinations(value) if isinstance(value, str) else value


def _proxy(value: object) -> object:
    return proxy(value) if isinstance(value, str) else value


class ContainerSettings(Group):
    """The limits of a container whose bot requests no others in ``config.resources``, and the engine's capacity
    for all of them together.
    """

    temp_dir: Annotated[
        Path,
        Named("TEMP_DIR", allowed="an absolute path"),
        Field(description="folder for code, work files and log spools; the Docker engine must see it at the same path"),
        AfterValidator(_absolute),
    ] = _TEMP_DIR
    keepalive_dir: Annotated[
        Path | None,
        Named("KEEPALIVE_DIR", allowed="an absolute path"),
        Field(
            description="folder in memory (tmpfs) for the keepalive files that workers refresh and bots watch; the "
            "Docker engine must see it at the same path; unset: one in /dev/shm or /run, else one below TEMP_DIR"
        ),
        AfterValidator(_absolute_if_set),
    ] = None
    spec_dir: Annotated[
        Path | None,
        Named("SPEC_DIR", allowed="an absolute path"),
        Field(
            description="folder in memory (tmpfs) for the configs of running bots that contain secrets; the Docker "
            "engine must see it at the same path; unset: one in /dev/shm or /run, else one below TEMP_DIR"
        ),
        AfterValidator(_absolute_if_set),
    ] = None
    memory_limit_mb: Annotated[
        int,
        Named("MEMORY_LIMIT_MB", aliases=("BOT_MEMORY_LIMIT_MB",), unit="MiB"),
        Field(ge=32, le=1_048_576, description="memory limit of a container, without swap"),
    ] = 512
    cpu_shares: Annotated[
        int,
        Named("CPU_SHARES", aliases=("BOT_CPU_SHARES",)),
        Field(ge=2, le=262_144, description="CPU weight of a container under contention"),
    ] = 1024
    cpus: Annotated[
        Number | None,
        Named("BOT_CPUS", unit="processors"),
        Field(ge=0.01, le=1024, description="CPU limit of a container; unset: none"),
    ] = None
    pids: Annotated[
        int,
        Named("BOT_PIDS"),
        Field(ge=16, le=100_000, description="maximum number of processes and threads of a container"),
    ] = 256
    tmp_mb: Annotated[
        int,
        Named("BOT_TMP_MB", unit="MiB"),
        Field(ge=1, le=1_048_576, description="size of a container's /tmp, which counts as memory"),
    ] = 64
    state_limit_mb: Annotated[
        int,
        Named("STATE_LIMIT_MB", unit="MiB"),
        Field(
            ge=1,
            le=16_384,
            description="size of a container's /state, which counts as memory of its limit; larger state is not saved",
        ),
    ] = 64
    open_files: Annotated[
        int,
        Named("BOT_OPEN_FILES"),
        Field(ge=64, le=1_048_576, description="maximum number of open files of each process of a container"),
    ] = 4096
    result_mb: Annotated[
        int,
        Named("BOT_RESULT_MB", unit="MiB"),
        Field(
            ge=1, le=1024, description="maximum size of the JSON that main returns; 64 for backtests unless this is set"
        ),
    ] = 16
    output_kb_per_second: Annotated[
        int,
        Named("BOT_OUTPUT_KB_PER_SECOND", unit="KiB"),
        Field(ge=1, le=1_048_576, description="output per second above which a bot is throttled"),
    ] = 1024
    network: Annotated[
        Literal["bridge", "none", "host"],
        Named("BOT_NETWORK"),
        Field(
            description="network of a container: bridge, a network of our own without access to other bots; none; host"
        ),
    ] = "bridge"
    metadata_guard: Annotated[
        bool,
        Named("BOT_METADATA_GUARD"),
        Field(
            description="refuse to start bots where private networks, the host and the cloud's metadata service cannot "
            "be blocked for them; false allows all of these"
        ),
    ] = True
    host_agent: Annotated[
        bool,
        Named("HOST_AGENT"),
        Field(
            description="keep a host agent running on the engine: a container that sees the host's processes and "
            "kills bots that outlive their lease, paused ones too"
        ),
    ] = True
    egress_allow: Annotated[
        tuple[Destination, ...],
        Named(
            "EGRESS_ALLOW",
            allowed="addresses or networks, each with a port or without, with commas between "
            "(10.1.2.3:8443, 10.8.0.0/16)",
            default_text="none",
        ),
        Field(
            description="destinations that bots may reach although they are private, on the host, or mail servers; the "
            "same for all workers of an engine"
        ),
        BeforeValidator(_destinations),
    ] = ()
    http_proxy: Annotated[
        Proxy | None,
        Named("BOT_HTTP_PROXY", allowed="http://ADDRESS:PORT or https://ADDRESS:PORT"),
        Field(
            description="proxy that bots get as HTTP_PROXY and HTTPS_PROXY; exactly its address and port are opened, "
            "as by EGRESS_ALLOW; bots with config.egress do not get it"
        ),
        BeforeValidator(_proxy),
    ] = None
    no_proxy: Annotated[
        str,
        Named("BOT_NO_PROXY", allowed="host names and addresses with commas between"),
        Field(
            pattern=r"^[A-Za-z0-9.,:*/\[\] _-]*$",
            description="what bots reach without BOT_HTTP_PROXY; they get it as NO_PROXY",
        ),
    ] = "localhost,127.0.0.1,::1"
    connections: Annotated[
        int,
        Named("BOT_CONNECTIONS"),
        Field(ge=1, le=1_000_000, description="connections that one bot may have open"),
    ] = 1024
    new_connections_per_second: Annotated[
        int,
        Named("BOT_NEW_CONNECTIONS_PER_SECOND"),
        Field(ge=1, le=100_000, description="TCP connections that one bot may open per second"),
    ] = 50
    packets_per_second: Annotated[
        int,
        Named("BOT_PACKETS_PER_SECOND"),
        Field(ge=10, le=10_000_000, description="packets that one bot may send per second"),
    ] = 20_000
    sent_mbit_per_second: Annotated[
        int,
        Named("BOT_SENT_MBIT_PER_SECOND", unit="megabits"),
        Field(ge=1, le=30_000, description="data that one bot may send per second"),
    ] = 200
    received_mbit_per_second: Annotated[
        int,
        Named("BOT_RECEIVED_MBIT_PER_SECOND", unit="megabits"),
        Field(ge=1, le=30_000, description="data that one bot may receive per second"),
    ] = 400
    runtime: Annotated[
        str | None,
        Named("CONTAINER_RUNTIME", allowed="the name of a runtime of the Docker engine (runsc for gVisor)"),
        Field(pattern=r"^[A-Za-z0-9._-]+$", description="runtime of the Docker engine that starts containers"),
    ] = None
    code_cache_mb: Annotated[
        int,
        Named("CODE_CACHE_MB", unit="MiB"),
        Field(ge=16, le=10_485_760, description="size of the cache of unpacked code below TEMP_DIR"),
    ] = 2048
    data_cache_mb: Annotated[
        int,
        Named("DATA_CACHE_MB", unit="MiB"),
        Field(
            ge=16,
            le=104_857_600,
            description="size of the cache of data sets below TEMP_DIR; nothing is fetched beyond it",
        ),
    ] = 4096
    data_set_mb: Annotated[
        int,
        Named("DATA_SET_MB", unit="MiB"),
        Field(ge=1, le=104_857_600, description="maximum size of one data set, as an archive and unpacked"),
    ] = 1024
    log_spool_mb: Annotated[
        int,
        Named("BOT_LOG_SPOOL_MB", unit="MiB"),
        Field(
            ge=1,
            le=1_048_576,
            description="output of one bot kept on disk while the storage is unavailable; then the oldest is dropped",
        ),
    ] = 64
    log_spools_mb: Annotated[
        int,
        Named("LOG_SPOOLS_MB", unit="MiB"),
        Field(
            ge=16, le=10_485_760, description="output of all bots of a service kept on a host's disk, shared equally"
        ),
    ] = 1024
    stop_grace_seconds: Annotated[
        Seconds,
        Named("BOT_STOP_SECONDS", unit="seconds"),
        Field(ge=0, le=600, description="grace period between SIGTERM and SIGKILL"),
    ] = 30.0
    standby_updates: Annotated[
        bool,
        Named("STANDBY_UPDATES"),
        Field(
            description="prepare the container of a bot's next version while its old one still runs; "
            "it needs room for both"
        ),
    ] = False
    health_window_seconds: Annotated[
        Seconds,
        Named("HEALTH_WINDOW_SECONDS", unit="seconds"),
        Field(
            ge=0.1,
            le=3600,
            description="health window of a new version, in which its end triggers a requested rollback",
        ),
    ] = 10.0
    parallel_starts: Annotated[
        int,
        Named("PARALLEL_STARTS"),
        Field(ge=1, le=256, description="number of containers that one worker starts concurrently"),
    ] = 8
    engine_memory_mb: Annotated[
        int | None,
        Named("ENGINE_MEMORY_MB", unit="MiB"),
        Field(
            ge=32,
            le=1_073_741_824,
            description="memory of the Docker engine for containers; unset: as the engine reports",
        ),
    ] = None
    uid_first: Annotated[
        int,
        Named("SANDBOX_UID_FIRST"),
        Field(
            ge=1,
            le=4_000_000_000,
            description="first of the users (uid and gid) that are for bots: each live container of an engine has its "
            "own; the range contains neither the workers' user nor the group of the engine's socket, is the same for "
            "all workers of an engine, and is below 65536 where the engine or the pod maps users",
        ),
    ] = 30_000
    uid_count: Annotated[
        int,
        Named("SANDBOX_UID_COUNT"),
        Field(
            ge=1, le=100_000_000, description="number of these users; at least as many as the engine runs containers"
        ),
    ] = 20_000
    pod_uid: Annotated[
        str | None,
        Named("POD_UID"),
        Field(
            pattern=r"^[0-9A-Za-z-]{1,64}$",
            description="uid of the worker's pod, whose engine is in the same pod: the worker takes no segment unless "
            "the control groups of bots lie below the pod's; unset: not checked",
        ),
    ] = None
    engine_cpus: Annotated[
        Number | None,
        Named("ENGINE_CPUS", unit="processors"),
        Field(
            ge=0.01,
            le=65_536,
            description="CPUs of the Docker engine for containers; unset: as the engine reports",
        ),
    ] = None
    engine_memory_overcommit: Annotated[
        Number,
        Named("ENGINE_MEMORY_OVERCOMMIT"),
        Field(
            ge=0.1,
            le=1000,
            description="factor by which the memory limits of all containers may exceed the engine's memory; "
            "bots rarely use a tenth of their limit, and with 1 none can be killed for the memory of another",
        ),
    ] = 8.0
    engine_cpu_overcommit: Annotated[
        Number,
        Named("ENGINE_CPU_OVERCOMMIT"),
        Field(
            ge=0.1,
            le=1000,
            description="factor by which the CPU limits of all containers may exceed the engine's CPUs; "
            "containers without such a limit do not count",
        ),
    ] = 16.0
    engine_reserve_percent: Annotated[
        Number,
        Named("ENGINE_RESERVE_PERCENT", unit="percent"),
        Field(
            ge=0,
            le=45,
            description="share of the engine's room that is one reserve, in whole containers of the default size: "
            "schedules leave one reserve free for failover of bots, backtests two, bots none",
        ),
    ] = 10.0


class MaximaSettings(Group):
    """The maxima of values in ``config.resources``; the defaults may be higher."""

    memory_mb: Annotated[
        int,
        Named("MAX_MEMORY_MB", unit="MiB"),
        Field(ge=32, le=1_048_576, description="maximum memory limit that a bot may request"),
    ] = 2048
    cpu_shares: Annotated[
        int,
        Named("MAX_CPU_SHARES"),
        Field(ge=2, le=262_144, description="maximum CPU weight that a bot may request"),
    ] = 4096
    cpus: Annotated[
        Number,
        Named("MAX_CPUS", unit="processors"),
        Field(ge=0.01, le=1024, description="maximum CPU limit that a bot may request"),
    ] = 4.0
    pids: Annotated[
        int,
        Named("MAX_PIDS"),
        Field(ge=16, le=100_000, description="maximum number of processes and threads that a bot may request"),
    ] = 1024
    tmp_mb: Annotated[
        int,
        Named("MAX_TMP_MB", unit="MiB"),
        Field(ge=1, le=1_048_576, description="maximum size of /tmp that a bot may request"),
    ] = 512
    open_files: Annotated[
        int,
        Named("MAX_OPEN_FILES"),
        Field(ge=64, le=1_048_576, description="maximum number of open files that a bot may request"),
    ] = 65_536
