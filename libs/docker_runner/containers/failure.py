"""Why a run has no result: a typed reason, from the init or found on this host. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

_TYPE_CHARACTERS = 200
_TEXT_CHARACTERS = 2000


class FailureReason(StrEnum):
    """Why there is no result.

    EXCEPTION: the bot's code raised. ENTRYPOINT_MISSING: its file is missing. MAIN_MISSING: the file has no
    ``main``. SIGNATURE: ``main`` cannot be called with an id and a config. NEVER_FINISHED: ``main`` waits for an event
    that cannot occur. RESULT_NOT_JSON, RESULT_TOO_LARGE, RESULT_TOO_DEEP, RESULT_TOO_MANY_VALUES, RESULT_TOO_COMPLEX:
    ``main`` returned an unusable value. RESULT_LOST: ``main`` returned, but this host could not store the value.
    REPORTED: the bot ended with a non-zero exit code, and wrote a result that is an error with a message.
    STATE_NOT_RESTORED: its state could not be unpacked, so it was not started.
    HEAP_FULL: Node aborted, since its heap was full before the memory of the container was. EXIT_CODE: the process
    ended with a non-zero exit code, without further information. INTERRUPTED: it did not end by itself; ``EndReason``
    has the reason.
    """

    EXCEPTION = "exception"
    ENTRYPOINT_MISSING = "entrypoint-missing"
    MAIN_MISSING = "main-missing"
    SIGNATURE = "signature"
    NEVER_FINISHED = "never-finished"
    RESULT_NOT_JSON = "result-not-json"
    RESULT_TOO_LARGE = "result-too-large"
    RESULT_TOO_DEEP = "result-too-deep"
    RESULT_TOO_MANY_VALUES = "result-too-many-values"
    RESULT_TOO_COMPLEX = "result-too-complex"
    RESULT_LOST = "result-lost"
    REPORTED = "reported"
    STATE_NOT_RESTORED = "state-not-restored"
    HEAP_FULL = "heap-full"
    EXIT_CODE = "exit-code"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Failure:
    """Why there is no result.

    Attributes:
        type: the exception's type as in a traceback, such as ``ValueError``; empty without an exception.
        message: the exception's message, which may be empty, or a sentence.
        hint: the remedy, with the command; empty when unknown.
    """

    reason: FailureReason
    message: str = ""
    type: str = ""
    hint: str = ""

    @property
    def summary(self) -> str:
        """Type and message, like the last line of a traceback."""
        if self.type and self.message:
            return f"{self.type}: {self.message}"
        return self.type or self.message or "main raised an error"

    @property
    def sentence(self) -> str:
        """The summary and the hint, in one line."""
        line = " ".join(self.summary.split())
        return f"{line}; {self.hint}" if self.hint else line


def failure_from(note: object) -> Failure | None:
    """Return an init's note, which is hostile input, bounded and fit to be stored. None when it is no failure."""
    if not isinstance(note, Mapping):
        return None
    try:
        reason = FailureReason(str(note.get("reason")))
    except ValueError:
        return None
    return Failure(
        reason,
        message=_text(note.get("message"), _TEXT_CHARACTERS),
        type=_text(note.get("type"), _TYPE_CHARACTERS),
        hint=_text(note.get("hint"), _TEXT_CHARACTERS),
    )


def _text(value: object, most: int) -> str:
    """Limit the length, and drop lone surrogates, which cannot be encoded in UTF-8."""
    return value[:most].encode("utf-8", "replace").decode() if isinstance(value, str) else ""
