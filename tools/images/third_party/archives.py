"""Archives of the third-party images, kept between runs in the cache of `./runtime`."""

import os
from pathlib import Path

from tools.engine.ensure import Engine
from tools.images.third_party.ensure import ensure_cluster_images, export
from tools.toolchains.packages import cache_folder


async def cached_archives(engine: Engine) -> list[Path]:
    """One archive for each third-party image; images and archives are made where they are missing.

    Raises:
        ImageFailedError: an image of the bots can neither be pulled nor built.
        CommandFailedError: a program of a stand-in cannot be fetched; the message has the end of its output.
    """
    return await export(engine, await ensure_cluster_images(engine), cache_folder(os.environ) / "cluster-images")
