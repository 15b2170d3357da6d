"""Start and end the cluster. Both may be repeated; one of them runs at a time."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.cluster import configuration
from tests.cluster.build import ensure_programs
from tests.cluster.control_groups import in_system_group, make_groups, remove_groups
from tests.cluster.daemons import python
from tests.cluster.errors import ClusterFailedError, ClusterUnavailableError
from tests.cluster.keys import ADMIN, CLIENTS, kubeconfig, make_keys
from tests.cluster.layout import (
    API_ADDRESS,
    API_PORT,
    BIN,
    CONFIG,
    FOLDER,
    GROUP,
    KEYS,
    KUBECONFIG,
    LOGS,
    NODES,
    PAUSE_IMAGE,
    PROCESS,
    node_folder,
)
from tests.cluster.pause_image import write_image
from tests.cluster.readiness import wait_until_ready
from tools.debian.command import CommandFailedError
from tools.debian.locks import file_lock
from tools.debian.packages import Report, apt_install
from tools.stack.process_identity import ProcessIdentity

_LOCK = Path("/run/lock/the0-cluster.lock")
_READY_SECONDS = 480
_END_SECONDS = 60
_POLL_SECONDS = 0.1
_PACKAGES = {
    "conntrack": "conntrack",
    "containerd": "containerd",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "runc": "runc",
    f"{configuration.CNI_PLUGINS}/ptp": "containernetworking-plugins",
}
_OBJECTS = CONFIG / "objects.json"
_ROOT = Path(__file__).resolve().parents[2]


async def up(report: Report) -> Path:
    """Start the cluster and return its kubeconfig. A running cluster is not changed.

    Raises:
        ClusterUnavailableError: this user or this machine cannot have one; the message names the remedy.
        ClusterFailedError: it did not become ready; it is left as it is, for inspection.
    """
    if os.geteuid() != 0:
        raise ClusterUnavailableError(
            "a cluster needs root: run `tests/cluster/up` as root, or set TEST_KUBECONFIG to that of another one"
        )
    await _ensure_packages(report)
    programs = await ensure_programs(report)
    async with file_lock(_LOCK):
        process = _running()
        if process is None:
            await _remove_remains()
            report("starting the cluster")
            process = await _start(programs)
        await _eventually(
            lambda: _first_inside(process) is not None or not process.alive, "the cluster's first process starts"
        )
        await wait_until_ready(_first_inside(process), _OBJECTS, _READY_SECONDS)
    return KUBECONFIG


async def down(report: Report) -> None:
    """End the cluster and remove its files and mounts. Without a cluster, do nothing.

    Raises:
        ClusterFailedError: a process or a control group of it is still there.
    """
    async with file_lock(_LOCK):
        if (process := _running()) is not None:
            report("ending the cluster")
            # The kernel ends all processes of the namespace with its first one, and only then does `unshare` end.
            first = _first_inside(process) or process
            first.signal(signal.SIGKILL)
            await _eventually(lambda: not process.alive and not first.alive, "the cluster's processes end")
        await _remove_remains()


async def _ensure_packages(report: Report) -> None:
    missing = sorted({package for program, package in _PACKAGES.items() if shutil.which(program) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ClusterUnavailableError(f"install what Debian has in the packages {', '.join(missing)}")
    try:
        await apt_install(missing, report)
    except CommandFailedError as error:
        raise ClusterUnavailableError(f"the packages {', '.join(missing)} could not be installed: {error}") from error


async def _start(programs: Path) -> ProcessIdentity:
    for folder in (FOLDER, CONFIG, LOGS, *map(node_folder, NODES)):
        folder.mkdir(parents=True)
    KEYS.mkdir(mode=0o700)
    await asyncio.to_thread(shutil.copytree, programs, BIN, copy_function=_link)
    await make_keys(KEYS)
    await asyncio.to_thread(write_image, FOLDER / "pause.tar", PAUSE_IMAGE, BIN / "pause")
    make_groups()
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        _write_configuration(listener.getsockname()[1])
        return _launch(listener)


def _write_configuration(port: int) -> None:
    inside = f"https://{API_ADDRESS}:{API_PORT}"
    files = {
        "Corefile": configuration.COREFILE,
        "kube-proxy.json": configuration.kube_proxy(),
        "resolv.conf": "",
        _OBJECTS.name: configuration.first_objects(),
    }
    for node in NODES:
        files[f"{node}-containerd.toml"] = configuration.containerd(node)
        files[f"{node}-kubelet.json"] = configuration.kubelet(node)
        files[f"{node}-networks/pods.conflist"] = configuration.pod_networks(node)
    for client in CLIENTS:
        files[f"{client.file}.kubeconfig"] = kubeconfig(KEYS, client, inside)
    for name, text in files.items():
        _write(CONFIG / name, text)
    _write(KUBECONFIG, kubeconfig(KEYS, ADMIN, f"https://127.0.0.1:{port}"))


def _launch(listener: socket.socket) -> ProcessIdentity:
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    environment = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "TMPDIR")}
    with (LOGS / "inside.log").open("ab") as log:
        process = subprocess.Popen(
            in_system_group([*namespaces, *python("tests.cluster.inside", str(listener.fileno()))]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,
            cwd=_ROOT,
            env={**environment, "PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    process.returncode = 0  # it outlives this process; Popen would warn
    identity = ProcessIdentity.of(process.pid)
    _write(PROCESS, json.dumps(asdict(identity)))
    return identity


def _running() -> ProcessIdentity | None:
    try:
        identity = ProcessIdentity(**json.loads(PROCESS.read_text()))
    except FileNotFoundError:
        return None
    return identity if identity.alive else None


def _first_inside(process: ProcessIdentity) -> ProcessIdentity | None:
    """Return the process that `unshare` has started, the first one of the namespace; None without one."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return None
    return ProcessIdentity.of(int(children[0])) if children else None


async def _remove_remains() -> None:
    await _eventually(remove_groups, f"the control groups /sys/fs/cgroup/*/{GROUP} become free")
    if FOLDER.exists():
        await asyncio.to_thread(shutil.rmtree, FOLDER)


async def _eventually(condition: Callable[[], bool], otherwise: str) -> None:
    try:
        async with asyncio.timeout(_END_SECONDS):
            while not condition():  # noqa: ASYNC110 - the kernel sets no event
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise ClusterFailedError(f"not within {_END_SECONDS} s: {otherwise}") from None


def _link(source: str, target: str) -> None:
    """Link a program, or copy it where it cannot be linked."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
