"""The cluster's programs, built from the Go module proxy and kept by a digest of what they are built from."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.errors import ClusterFailedError, ClusterUnavailableError
from tools.debian.command import CommandFailedError, run_command
from tools.debian.locks import file_lock
from tools.debian.packages import Report
from tools.toolchains.go import ENVIRONMENT, GoUnavailableError, ensure_go
from tools.toolchains.packages import cache_folder

SOURCES = Path(__file__).parent / "programs"
_KUBERNETES = "v1.34.4"
_BUILD_SECONDS = 3600


@dataclass(frozen=True)
class Program:
    """A Go program: the module's folder in `programs/`, and the package to build in it."""

    name: str
    module: str
    package: str


def _kubernetes(name: str) -> Program:
    return Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}")


PROGRAMS = (
    Program("etcd", "etcd", "."),
    Program("coredns", "coredns", "."),
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubelet"),
    _kubernetes("kube-proxy"),
    _kubernetes("kubectl"),
    Program("pause", "kubernetes", "./pause"),
)


def sources_digest(sources: Path) -> str:
    """Return a digest of the names and contents of all files below *sources*, and of the build's options."""
    digest = hashlib.sha256(repr((PROGRAMS, _KUBERNETES)).encode())
    for file in sorted(sources.rglob("*")):
        if file.is_file():
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(sources)} {content}\n".encode())
    return digest.hexdigest()[:16]


async def ensure_programs(report: Report) -> Path:
    """Return the folder of the built programs. The first call takes minutes; an interrupted build is continued.

    Raises:
        ClusterUnavailableError: there is no Go of the needed version, and none can be installed.
        ClusterFailedError: a program could not be built; the message has the compiler's last lines.
    """
    cache = cache_folder(os.environ)
    folder = cache / f"cluster-{sources_digest(SOURCES)}"
    if folder.exists():
        return folder
    async with file_lock(cache / "cluster.lock"):
        if not folder.exists():  # nothing else built it while this process waited for the lock
            fresh = folder.with_name(f"{folder.name}.new")
            fresh.mkdir(parents=True, exist_ok=True)
            go = await _ensure_go(report)
            for program in PROGRAMS:
                if not (fresh / program.name).exists():
                    report(f"building {program.name} (once)")
                    await _build(go, program, fresh)
            fresh.rename(folder)
    return folder


async def _ensure_go(report: Report) -> Path:
    try:
        return await ensure_go(report)
    except GoUnavailableError as error:
        raise ClusterUnavailableError(f"the cluster's programs cannot be built: {error}") from error


async def _build(go: Path, program: Program, folder: Path) -> None:
    unfinished = folder / f".{program.name}"
    stamp = "k8s.io/component-base/version"
    major, minor, _ = _KUBERNETES.removeprefix("v").split(".")
    flags = f"-s -w -X {stamp}.gitVersion={_KUBERNETES} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    command = [str(go), "-C", str(SOURCES / program.module), "build", "-mod=readonly", "-buildvcs=false"]
    try:
        await run_command(
            ["nice", *command, "-ldflags", flags, "-o", str(unfinished), program.package],
            within_seconds=_BUILD_SECONDS,
            environment=ENVIRONMENT,
        )
    except CommandFailedError as error:
        raise ClusterFailedError(f"{program.name} could not be built: {error}") from error
    unfinished.rename(folder / program.name)
