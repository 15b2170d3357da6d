"""Ensure that the images of both runtimes are on the engine: pull them, else build stand-ins."""

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound

from tools.debian.command import CommandFailedError
from tools.debian.locks import file_lock
from tools.debian.packages import Report, to_stderr
from tools.engine.ensure import Engine
from tools.images import stand_ins
from tools.images.errors import ImageFailedError

PYTHON = "python:3.11-slim"
NODE = "node:20-alpine"

# A pull sends progress continuously; without any for this long, the registry is unreachable.
_SILENCE_SECONDS = 30
# The engine is silent while it imports.
_BUILD_SECONDS = 600


async def ensure_images(engine: Engine, report: Report = to_stderr) -> Mapping[str, str]:
    """Return for each tag its source: `present`, `pulled` or `stand-in`. Many processes may call it at once.

    Raises:
        ImageFailedError: an image could neither be pulled nor be built; the message has both reasons.
    """
    client = docker.APIClient(base_url=engine.url, timeout=_SILENCE_SECONDS)
    try:
        if await _present(client, PYTHON) and await _present(client, NODE):
            return {PYTHON: "present", NODE: "present"}
        async with file_lock(Path(tempfile.gettempdir()) / f"the0-images-{os.getuid()}.lock"):
            return {tag: await _ensure(client, engine, tag, report) for tag in (PYTHON, NODE)}
    finally:
        client.close()


async def _ensure(client: docker.APIClient, engine: Engine, tag: str, report: Report) -> str:
    if await _present(client, tag):
        return "present"
    report(f"{tag}: pulling")
    reason = await asyncio.to_thread(pull, client, tag)
    if reason is None:
        return "pulled"
    report(f"{tag}: cannot be pulled ({reason}); building a stand-in once")
    builder = docker.APIClient(base_url=engine.url, timeout=_BUILD_SECONDS)
    try:
        if tag == PYTHON:
            await stand_ins.build_python(builder, tag, report)
        else:
            await stand_ins.build_node(builder, tag, PYTHON, report)
    except (DockerException, CommandFailedError, OSError, stand_ins.StandInFailedError) as error:
        raise ImageFailedError(tag, reason, str(error)) from error
    finally:
        builder.close()
    return "stand-in"


async def _present(client: docker.APIClient, tag: str) -> bool:
    return await asyncio.to_thread(_inspect, client, tag)


def _inspect(client: docker.APIClient, tag: str) -> bool:
    try:
        client.inspect_image(tag)  # type: ignore[no-untyped-call]
    except ImageNotFound:
        return False
    return True


def pull(client: docker.APIClient, tag: str) -> str | None:
    """Pull the image *tag*; return None on success, else the reason."""
    repository, _, version = tag.partition(":")
    try:
        for event in client.pull(repository, version, stream=True, decode=True):
            if "error" in event:
                return str(event["error"])
    except (DockerException, OSError) as error:  # OSError: the time-outs of the HTTP library are
        return str(getattr(error, "explanation", None) or error)
    return None if _inspect(client, tag) else "the registry returned nothing"
