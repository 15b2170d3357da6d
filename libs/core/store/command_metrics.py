"""Counts and times every command that the MongoDB driver sends."""

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from libs.core.observability.metrics import record


class CommandMetrics(CommandListener):
    """Records each command as an operation of the system ``mongodb``, by the command's name."""

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing is known yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """The server answered; its answer may still hold write errors, which are the caller's to count."""
        record("mongodb", event.command_name, "ok", event.duration_micros / 1e6)

    def failed(self, event: CommandFailedEvent) -> None:
        """The server refused, or the connection broke."""
        record("mongodb", event.command_name, "error", event.duration_micros / 1e6)
