"""The report in the result of a run: the status and the message that bots return or write. Pure."""

from dataclasses import dataclass

from libs.core.hostile_json import Bounds, Refused, parse

REPORT_BYTES = 64 * 1024
"""Larger results are not searched for a report."""

_BOUNDS = Bounds(bytes=REPORT_BYTES, depth=50, values=10_000)
_MESSAGE_CHARACTERS = 2000
_ERROR = "error"


@dataclass(frozen=True)
class Report:
    """The report in a result such as ``{"status": "error", "message": "no funds"}``."""

    message: str
    is_error: bool = False


def report_in(result: bytes) -> Report | None:
    """Return the report in the text of a result, which is hostile input; None when it is no object with a message."""
    parsed = parse(result, _BOUNDS)
    if isinstance(parsed, Refused) or not isinstance(parsed.value, dict):
        return None
    message = parsed.value.get("message")
    if not isinstance(message, str) or not message.strip():
        return None
    # Lone surrogates cannot be encoded in UTF-8.
    text = message[:_MESSAGE_CHARACTERS].encode("utf-8", "replace").decode()
    return Report(text, is_error=parsed.value.get("status") == _ERROR)
