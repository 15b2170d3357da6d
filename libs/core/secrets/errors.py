"""Errors of secrets, grouped by the caller's reaction. No message contains a value."""

from libs.core.errors import Retryable, RuntimeFault, UserError


class SecretError(RuntimeFault):
    """The root of this library's errors."""


class SecretRefused(SecretError, UserError):
    """A config refers to a secret that its owner may not use, or that does not exist, or is malformed.

    The message does not reveal whether a secret of that name exists for others.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason = where, reason


class SecretUnavailable(SecretError, Retryable):
    """A provider cannot be read now."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} cannot be read: {reason}")
        self.what, self.reason = what, reason


class KeyInvalid(SecretError, UserError):
    """A key for sealing is malformed."""
