"""What can go wrong with the demonstration itself."""

from libs.core.errors import Permanent


class DemoFailed(Permanent):
    """Something did not happen as it should; the message says what and where to look."""
