"""`python -m tools.images.third_party`: print the archives of all third-party images, made where they are missing."""

import asyncio
import os
import sys
from pathlib import Path

from tools.engine.ensure import ensure_engine
from tools.images.third_party.ensure import ensure_cluster_images, export


def cache() -> Path:
    """Where the archives are kept between runs."""
    root = os.environ.get("RUNTIME_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / (
        "the0-runtime"
    )
    return Path(root) / "cluster-images"


async def main() -> None:
    """Print one path a line."""
    engine = await ensure_engine()
    tags = await ensure_cluster_images(engine)
    for archive in await export(engine, tags, cache()):
        sys.stdout.write(f"{archive}\n")


if __name__ == "__main__":
    asyncio.run(main())
