"""Errors of the demonstration."""

from libs.core.errors import Permanent


class DemoFailed(Permanent):
    """A step failed; the message has the reason and where to look."""
