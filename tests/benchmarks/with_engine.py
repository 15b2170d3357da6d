"""What the benchmarks with containers need: this machine's engine, the bots' images, and a folder."""

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from tools.engine.ensure import Engine, ensure_engine
from tools.images.ensure import ensure_images

T = TypeVar("T")


async def with_engine(measure: Callable[[Path, Engine], Awaitable[T]]) -> T:
    """Return what *measure* returns; its folder is removed afterwards."""
    engine = await ensure_engine()
    await ensure_images(engine)
    with tempfile.TemporaryDirectory() as folder:
        return await measure(Path(folder), engine)
