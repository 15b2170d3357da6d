"""Errors in a schedule's expression, for its author."""

from libs.core.errors import UserError


class CronInvalid(UserError):
    """An invalid expression. *field* is the invalid part, such as ``hour``."""

    def __init__(self, expression: str, field: str, reason: str, remedy: str) -> None:
        super().__init__(f"schedule {expression[:200]!r}: {field} {reason}; {remedy}")
        self.expression = expression
        self.field = field
        self.reason = reason
        self.remedy = remedy
