"""`python -m tools.images.third_party`: print the archives of all third-party images, made where they are missing."""

import asyncio
import sys

from tools.engine.ensure import ensure_engine
from tools.images.third_party.archives import cached_archives


async def main() -> None:
    """Print one path a line."""
    for archive in await cached_archives(await ensure_engine()):
        sys.stdout.write(f"{archive}\n")


if __name__ == "__main__":
    asyncio.run(main())
