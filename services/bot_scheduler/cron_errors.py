"""Error messages for a schedule's expression, for the user who wrote it."""

from libs.core.errors import UserError


class CronInvalid(UserError):
    """An expression that no schedule can follow. *field* is the part that is wrong, such as ``hour``."""

    def __init__(self, expression: str, field: str, reason: str, remedy: str) -> None:
        super().__init__(f"schedule {expression[:200]!r}: {field} {reason}; {remedy}")
        self.expression = expression
        self.field = field
        self.reason = reason
        self.remedy = remedy
