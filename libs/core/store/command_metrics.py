"""Count and time every command that the MongoDB driver sends."""

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from libs.core.observability.metrics import record


class CommandMetrics(CommandListener):
    """Records each command as an operation of the system ``mongodb``, by the command's name."""

    def started(self, event: CommandStartedEvent) -> None:
        """Do nothing: the outcome is unknown yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Record an answer; it may still contain write errors, which the caller counts."""
        record("mongodb", event.command_name, "ok", event.duration_micros / 1e6)

    def failed(self, event: CommandFailedEvent) -> None:
        """Record a rejection or a broken connection."""
        record("mongodb", event.command_name, "error", event.duration_micros / 1e6)
