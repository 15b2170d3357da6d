"""Makes sure that every image that the manifests name is on the engine, and exports them for a cluster's nodes."""

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import ImageNotFound

from tools.debian.locks import file_lock
from tools.debian.packages import Report, to_stderr
from tools.engine.ensure import Engine
from tools.images.ensure import NODE, PYTHON, ensure_images, pull
from tools.images.stand_ins import LABEL
from tools.images.third_party import programs
from tools.images.third_party.registry_files import add_image
from tools.toolchains import node

REGISTRY = "the0-test/registry:latest"
"""Serves the bots' images to engines inside the cluster, as a mirror of Docker Hub near the cluster does."""

_FOLDER = Path(__file__).parent
# What makes a folder a package here, and is of no use in an image.
_NOT_COPIED = ("BUILD", "__init__.py")
_SECONDS = 900


@dataclass(frozen=True)
class StandIn:
    """How an image is made where it cannot be pulled: the folder with its recipe, and what fetches its programs."""

    tag: str
    folder: str
    gather: Callable[[Path], Awaitable[None]]
    versions: str = ""


STAND_INS = (
    StandIn("docker:28.5.2-dind", "dind", programs.gather_dind, programs.MOBY),
    StandIn("mongo:8.0.20", "mongo", programs.gather_mongo, f"{programs.MONGOSH} {node.PACKAGE}"),
    StandIn("nats:2.11.16-alpine", "nats", programs.gather_nats),
    StandIn("versity/versitygw:v1.8.0", "versitygw", programs.gather_versitygw, programs.VERSITYGW_VERSION),
)


async def ensure_cluster_images(engine: Engine, report: Report = to_stderr) -> list[str]:
    """The tags of all third-party images that the manifests need, once they are on *engine*. May be repeated.

    Raises:
        ImageFailedError: an image of the bots can neither be pulled nor built.
        CommandFailedError: a program of a stand-in cannot be fetched; the message has the end of its output.
    """
    await ensure_images(engine, report)
    client = docker.APIClient(base_url=engine.url, timeout=_SECONDS)
    try:
        async with file_lock(Path(tempfile.gettempdir()) / f"the0-cluster-images-{os.getuid()}.lock"):
            for stand_in in STAND_INS:
                await _ensure(client, stand_in, report)
            await _ensure_registry(client, report)
    finally:
        client.close()
    return [*(stand_in.tag for stand_in in STAND_INS), REGISTRY]


async def export(engine: Engine, tags: Iterable[str], folder: Path) -> list[Path]:
    """Archives of the images *tags* below *folder*, each named by its image's digest and written once."""
    client = docker.APIClient(base_url=engine.url, timeout=_SECONDS)
    try:
        return [await asyncio.to_thread(_export, client, tag, folder) for tag in tags]
    finally:
        client.close()


async def _ensure(client: docker.APIClient, stand_in: StandIn, report: Report) -> None:
    base = await asyncio.to_thread(_inspect, client, PYTHON)
    assert base is not None
    digest = _digest(_FOLDER / stand_in.folder, base["Id"], stand_in.versions)
    present = await asyncio.to_thread(_inspect, client, stand_in.tag)
    if present is not None and (present["Config"]["Labels"] or {}).get(LABEL, digest) == digest:
        return
    if present is None:
        report(f"{stand_in.tag}: pulling")
        if (reason := await asyncio.to_thread(pull, client, stand_in.tag)) is None:
            return
        report(f"{stand_in.tag}: cannot be pulled ({reason})")
    report(f"{stand_in.tag}: building a stand-in once")
    with tempfile.TemporaryDirectory(prefix="the0-image-") as folder:
        context = Path(folder)
        _copy_recipe(_FOLDER / stand_in.folder, context)
        await stand_in.gather(context)
        _make_programs(context)
        await asyncio.to_thread(_build, client, stand_in.tag, context, digest)


async def _ensure_registry(client: docker.APIClient, report: Report) -> None:
    served = {tag: await asyncio.to_thread(_inspect, client, tag) for tag in (PYTHON, NODE)}
    digest = _digest(_FOLDER / "registry", *(image["Id"] for image in served.values() if image is not None))
    present = await asyncio.to_thread(_inspect, client, REGISTRY)
    if present is not None and (present["Config"]["Labels"] or {}).get(LABEL) == digest:
        return
    report(f"{REGISTRY}: packing the bots' images")
    with tempfile.TemporaryDirectory(prefix="the0-image-") as folder:
        context = Path(folder)
        _copy_recipe(_FOLDER / "registry", context)
        for tag in served:
            archive = await asyncio.to_thread(_export, client, tag, context)
            await asyncio.to_thread(add_image, context / "images", archive, tag)
            archive.unlink()
        await asyncio.to_thread(_build, client, REGISTRY, context, digest)


def _digest(recipe: Path, *inputs: str) -> str:
    """Of the recipe's files and of what else goes into the image."""
    digest = hashlib.sha256("\0".join(inputs).encode())
    for file in sorted(found for found in recipe.iterdir() if found.is_file() and found.name not in _NOT_COPIED):
        digest.update(f"\0{file.relative_to(recipe)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _copy_recipe(recipe: Path, context: Path) -> None:
    ignored = shutil.ignore_patterns(*_NOT_COPIED, "__pycache__")
    shutil.copytree(recipe, context, dirs_exist_ok=True, ignore=ignored)


def _make_programs(context: Path) -> None:
    # Not in the image: a layer that changes the mode of a file has a copy of it.
    for file in context.iterdir():
        if file.is_file():
            file.chmod(0o755)


def _inspect(client: docker.APIClient, tag: str) -> Mapping[str, Any] | None:
    try:
        return dict(client.inspect_image(tag))  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return None


def _build(client: docker.APIClient, tag: str, context: Path, digest: str) -> None:
    lines: list[str] = []
    # The host's network: where registries are reached through it alone, containers of the bridge reach none.
    options: dict[str, Any] = {"network_mode": "host", "labels": {LABEL: digest}, "buildargs": {"BASE": PYTHON}}
    for event in client.build(path=str(context), tag=tag, rm=True, forcerm=True, decode=True, **options):
        lines.append(str(event.get("stream", "")))
        if "error" in event:
            raise RuntimeError(f"the stand-in of {tag} cannot be built: {event['error']}\n{''.join(lines)[-2000:]}")


def _export(client: docker.APIClient, tag: str, folder: Path) -> Path:
    image = _inspect(client, tag)
    assert image is not None, f"the engine has no image {tag}"
    name = tag.replace("/", "_").replace(":", "_")
    archive = folder / f"{name}-{image['Id'].removeprefix('sha256:')[:16]}.tar"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for older in folder.glob(f"{name}-*.tar"):
            older.unlink()
        unfinished = archive.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            for piece in client.get_image(tag):
                file.write(piece)
        unfinished.rename(archive)
    return archive
