"""Keeping out of memory what a library would import only because it happens to be installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


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


@contextmanager
def hollow(name: str, *attributes: str) -> Iterator[None]:
    """Let the imports of the block find in place of module *name*, unless it has been imported before, an empty one.

    Its *attributes* are None. For a module that its package imports always and that we never use.
    """
    if name in sys.modules:
        yield
        return
    module = ModuleType(name)
    for attribute in attributes:
        setattr(module, attribute, None)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
