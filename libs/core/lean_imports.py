"""Keeping out of memory what a library would import only because it happens to be installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Let the imports of the block find no package *name*, unless it has been imported before."""
    if name in sys.modules:
        yield
        return
    # This is how the import system marks a module that is known not to exist.
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
