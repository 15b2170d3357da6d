"""Keeping out of memory what a library would import only because it happens to be installed."""

import ssl
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


@contextmanager
def trusting_nobody() -> Iterator[None]:
    """Let the imports of the block make TLS contexts that know no certificate, so that every connection fails.

    For a library that makes one when it is imported, whether or not anybody connects: to read the certificates of all
    authorities takes up to 2 MB and 50 ms. Whoever wants TLS brings a context of their own.
    """
    usual = ssl.create_default_context
    ssl.create_default_context = lambda *_, **__: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        yield
    finally:
        ssl.create_default_context = usual
