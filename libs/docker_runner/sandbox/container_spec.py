"""The sandbox of a bot: turn an Executable into the engine's description of a container. Pure.

SANDBOX.md describes each protection with its test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libs.core.room import MIB
from libs.docker_runner.containers.container import Label
from libs.docker_runner.containers.standby_folder import StandbyFolder
from libs.docker_runner.executable import Entrypoint, Executable, Limits, Network
from libs.docker_runner.sandbox.network import Attachment, card_address, card_fields
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.state.folder import StateFolder

BASE = "/run/the0"
# Accessible only to root of the container: the bot is another user.
PRIVATE = f"{BASE}/private"
STATE = "/state"
"""The folder of the bot's persistent state."""
STATE_DIR = f"{STATE}/.the0-state"
"""The folder of the SDK's state in it."""
DATA = "/data"
"""The folder of mounted data sets."""
STATE_FILES = 4096
"""The maximum number of files and folders in a bot's state."""
# What engines mask by default, the newest ones included, and /proc/pressure: each of the triggers that a bot sets there
# takes up to 50 ms to close, so that thousands of them delay the end of its processes for minutes.
MASKED_PATHS = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/pressure", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
    *("/sys/devices/virtual/powercap", "/sys/firmware"),
)
# The bot's result.json is a link to a file in it.
WRITTEN = f"{BASE}/written"
# Nothing answers there.
NO_NAME_SERVER = "127.0.0.1"
INIT_OOM_SCORE = 999
"""When memory is short, the kernel kills a bot first, whose score the init sets to 1000, then inits, then the rest."""
# The network's guard is written in Python.
GUARD_RUNTIME = "python3.11"
_MOUNTS = {Entrypoint.BOT: "/bot", Entrypoint.BACKTEST: "/backtest"}
# -I and -S: without the image's .pth files the interpreter starts in half the time.
_COMMANDS = {
    "python": ["python3", "-I", "-S", "-B", f"{BASE}/entry/start.py", BASE],
    "node": ["node", f"{BASE}/entry/the0_bot_process.js", BASE],
}
_QUERY_COMMANDS = {
    "python": [*_COMMANDS["python"], "query"],
    "node": ["node", f"{BASE}/entry/the0_query_process.js", BASE],
}
_INIT = f"{BASE}/entry/the0-init"
# Where the answer to one question is written.
ANSWER = "/query"


GVISOR_PIDS = 128
"""Threads of gVisor's own kernel, in a container's limit of processes; with too few, its start hangs."""


@dataclass(frozen=True)
class Paths:
    """The locations of a container's parts on the engine's host."""

    code: Path
    spec: Path
    outcome: Path
    entrypoints: Path
    hosts: Path | None = None
    """The bot's ``/etc/hosts``; None for the engine's own."""
    data: Mapping[str, Path] = field(default_factory=dict)
    """Data sets by name: each a file or a folder."""
    state: StateFolder | None = None
    """The folder for archives of its state; None when that is not kept."""
    standby: StandbyFolder | None = None
    """The folder for the word to start; None for a container that starts its bot at once."""


def code_mount(entrypoint: Entrypoint) -> str:
    """The folder of the bot's code."""
    return _MOUNTS[entrypoint]


def is_gvisor(container_runtime: str | None) -> bool:
    """Whether an engine's runtime is gVisor, by its name: `runsc`, or one that begins with `runsc-`."""
    return container_runtime is not None and (container_runtime == "runsc" or container_runtime.startswith("runsc-"))


def language(runtime: str) -> str:
    """The entrypoints of a runtime, by its name, so that an operator may add ``python3.12``."""
    return "node" if runtime.startswith("node") else "python"


def container_body(
    executable: Executable,
    *,
    paths: Paths,
    code_etag: str,
    token: str,
    user: int,
    attachment: Attachment | None,
    settings: RunnerSettings,
    secrets: str = "",
    query_user: int | None = None,
) -> dict[str, Any]:
    """Return the body of the engine's create request, without the config, since any user of the engine may inspect it.

    Args:
        user: the number of the bot's user and group, which the init takes from its own file.
        attachment: to the bots' network; None when the placement needs none.
        secrets: the label about the secrets in its config; "" without any.
        query_user: of the process that answers queries beside the bot; None without one.
    """
    mount = code_mount(executable.entrypoint)
    standby = {Label.STANDBY: executable.name} if paths.standby is not None else {}
    commands = _COMMANDS if executable.question is None else _QUERY_COMMANDS
    body: dict[str, Any] = {
        "Image": executable.placement.image,
        # Instead of the image's own entrypoint, which may be a shell script.
        "Entrypoint": [_INIT, BASE, *commands[language(executable.runtime)]],
        "Cmd": [],
        # The init: it changes the bot's user before any of the bot's code runs.
        "User": "0:0",
        "WorkingDir": mount,
        "Env": [
            *("HOME=/tmp", "USER=bot", "LOGNAME=bot", "LANG=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"),
            f"STATE_DIR={STATE_DIR}",
            *_proxy_variables(executable, settings),
            *(f"{name}={value}" for name, value in executable.environment.items()),
        ],
        "Labels": labels(executable, code_etag, token, user, secrets, query_user) | standby,
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(executable, paths, mount, attachment, settings, user),
    }
    if executable.egress is not None and attachment is not None and not attachment.named:
        raise ValueError("a bot with an allow-list of hosts needs an interface of its own rules")
    if attachment is not None and attachment.named:
        address = card_address(token, narrowed=executable.egress is not None)
        body.update(card_fields(address, attachment.network))
    if paths.hosts is not None:
        # As in the hosts file.
        body["Hostname"] = "bot"
    if executable.placement.network is Network.NONE:
        body["NetworkDisabled"] = True
    return body


def relay_command(runtime: str) -> list[str]:
    """Return the command of the relay of queries in a running container of *runtime*."""
    return [_INIT, "--queries", BASE, *_QUERY_COMMANDS[language(runtime)]]


def labels(
    executable: Executable, code_etag: str, token: str, user: int, secrets: str = "", query_user: int | None = None
) -> dict[str, str]:
    """Return the container's labels, for the next owner of the segment and for ``docker ps``."""
    optional: dict[str, str] = {Label.KEEPALIVE: str(executable.keepalive)} if executable.keepalive is not None else {}
    if secrets:
        optional[Label.SECRETS] = secrets
    if executable.egress is not None:
        optional[Label.EGRESS] = executable.egress
    if executable.restart:
        optional[Label.RESTART] = executable.restart
    if query_user is not None:
        optional |= {Label.QUERY_USER: str(query_user), Label.QUERY_RUNTIME: executable.runtime}
    return optional | {
        Label.MANAGED: "true",
        Label.ID: executable.id,
        # Two containers of one bot may run only if one of them answers a question.
        Label.ENTRYPOINT: str(executable.entrypoint) if executable.question is None else "query",
        Label.SEGMENT: str(executable.segment),
        Label.SERVICE: executable.service,
        Label.SCOPE: executable.scope,
        Label.SPEC_HASH: executable.spec_hash(),
        Label.CODE_ETAG: code_etag,
        Label.REVISION: str(executable.revision),
        Label.RUN_ID: executable.run_id,
        Label.EPOCH: str(executable.epoch),
        Label.WORKER: executable.worker,
        Label.TOKEN: token,
        # So that the engine's room can be computed from a list, without a request for each container.
        Label.MEMORY: str(executable.limits.memory_bytes),
        Label.CPUS: f"{executable.limits.cpus or 0.0:g}",
        Label.USER: str(user),
    }


def _proxy_variables(executable: Executable, settings: RunnerSettings) -> list[str]:
    # A proxy would lead a bot with listed hosts to all others.
    if not settings.http_proxy or executable.egress is not None:
        return []
    values = {"http_proxy": settings.http_proxy, "https_proxy": settings.http_proxy, "no_proxy": settings.no_proxy}
    # Programs differ in which they read.
    return [f"{variable}={value}" for name, value in values.items() for variable in (name, name.upper())]


def _host_config(
    executable: Executable,
    paths: Paths,
    mount: str,
    attachment: Attachment | None,
    settings: RunnerSettings,
    user: int,
) -> dict[str, Any]:
    limits = executable.limits
    host: dict[str, Any] = {
        # The entrypoint is one, and must be the container's first process.
        "Init": False,
        "CapDrop": ["ALL"],
        "CapAdd": ["SETUID", "SETGID", "KILL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "ReadonlyRootfs": True,
        "Privileged": False,
        "IpcMode": "private",
        "MaskedPaths": MASKED_PATHS,
        "Mounts": _mounts(executable, paths, mount),
        "Tmpfs": {
            "/tmp": _tmpfs(limits),  # noqa: S108 - inside the container
            PRIVATE: "rw,noexec,nosuid,nodev,size=64k,nr_inodes=16,mode=0700",
            # A container that answers a question must not change the state.
            STATE: _state_tmpfs(settings.state_bytes, user if executable.question is None else 0),
            # Above the limit of a result, so that a larger one is reported as such.
            WRITTEN: f"rw,noexec,nosuid,nodev,size={limits.result_bytes + MIB},nr_inodes=16,mode=1777",
        },
        "ShmSize": min(limits.tmp_bytes, 16 * MIB),
        "NetworkMode": _network_mode(executable.placement.network, attachment),
        "PidsLimit": limits.pids + (GVISOR_PIDS if is_gvisor(executable.placement.container_runtime) else 0),
        "Memory": limits.memory_bytes,
        # Equal to the memory limit: no swap.
        "MemorySwap": limits.memory_bytes,
        "OomScoreAdj": INIT_OOM_SCORE,
        "CpuShares": limits.cpu_shares,
        "Ulimits": _ulimits(limits, settings.state_bytes),
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": f"{settings.log_file_bytes // 1024}k", "max-file": str(settings.log_files)},
        },
    }
    if executable.question is not None:
        size = f"size={limits.result_bytes + MIB},nr_inodes=16"
        host["Tmpfs"][ANSWER] = f"rw,noexec,nosuid,nodev,{size},uid={user},gid={user},mode=0700"
    if limits.cpus is not None:
        host["NanoCpus"] = round(limits.cpus * 1e9)
    if executable.placement.container_runtime is not None:
        host["Runtime"] = executable.placement.container_runtime
    if paths.hosts is not None:
        # Every name that it may reach is in the hosts file; another one fails at once.
        host["Dns"] = [NO_NAME_SERVER]
        host["DnsSearch"] = ["."]
        host["DnsOptions"] = ["timeout:1", "attempts:1"]
    return host


def _mounts(executable: Executable, paths: Paths, mount: str) -> list[Mapping[str, Any]]:
    mounts = [
        _bind(paths.code, mount),
        _bind(paths.spec, f"{BASE}/spec"),
        _bind(paths.entrypoints / language(executable.runtime), f"{BASE}/entry"),
        # With the folder of its state all that is written on the host; ulimits bound the size of each file.
        _bind(paths.outcome, f"{PRIVATE}/outcome", writable=True),
    ]
    mounts += [_bind(path, f"{DATA}/{name}") for name, path in sorted(paths.data.items())]
    if paths.state is not None:
        mounts.append(_bind(paths.state.path, f"{PRIVATE}/state", writable=True))
    if paths.standby is not None:
        mounts.append(_bind(paths.standby.path, f"{BASE}/standby"))
    if executable.keepalive is not None:
        mounts.append(_bind(executable.keepalive, f"{BASE}/keepalive"))
    if paths.hosts is not None:
        mounts.append(_bind(paths.hosts, "/etc/hosts"))
    return mounts


def _bind(source: Path, target: str, writable: bool = False) -> Mapping[str, Any]:
    return {
        "Type": "bind",
        "Source": str(source),
        "Target": target,
        "ReadOnly": not writable,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _tmpfs(limits: Limits) -> str:
    # Executable, since libraries unpack native code there; a bot runs arbitrary code anyway.
    inodes = max(1024, limits.tmp_bytes // 4096)
    return f"rw,exec,nosuid,nodev,size={limits.tmp_bytes},nr_inodes={inodes},mode=1777"


def _state_tmpfs(state_bytes: int, user: int) -> str:
    # The bot's alone to write. The folder itself and that of the SDK are among the inodes.
    owner = f"uid={user},gid={user},mode=0755"
    return f"rw,noexec,nosuid,nodev,size={state_bytes},nr_inodes={STATE_FILES + 2},{owner}"


def _ulimits(limits: Limits, state_bytes: int) -> list[Mapping[str, Any]]:
    # Above the sizes of /tmp and /state, so that a full one is reported as a full disk. The init writes an archive of
    # the state, in which a file has three headers at most.
    archive_bytes = state_bytes + STATE_FILES * 4096
    largest_file = max(limits.tmp_bytes, limits.result_bytes, archive_bytes) + MIB
    values = {"nofile": limits.open_files, "core": 0, "fsize": largest_file, "memlock": 8 * MIB}
    return [{"Name": name, "Soft": value, "Hard": value} for name, value in values.items()]


def _network_mode(network: Network, attachment: Attachment | None) -> str:
    if network is not Network.BRIDGE:
        return str(network)
    if attachment is None:
        raise ValueError("a bot on the bridge needs an attachment to it")
    return attachment.network
