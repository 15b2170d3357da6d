"""The return value of ``main``: validated before it is parsed, and kept as bytes.

A result of 64 MiB may be 20 million values, which take gigabytes and block the interpreter for seconds. So no result
is parsed here. A small one is scanned in a thread; a large one stays in the file that its init wrote, and
is scanned in a separate process with limited memory and processor time.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from libs.core.aio.threads import Threads
from libs.core.hostile_json import Bounds, Fault, Kind, Refused, Shape, answer, command, scan, strict
from libs.core.observability.log import get_logger
from libs.docker_runner.containers.failure import Failure, FailureReason

log = get_logger(__name__)

MOST_DEPTH = 100
MOST_VALUES = 10_000_000
SMALL_BYTES = 128 * 1024
"""Results up to this size are kept in memory."""

_PROCESSES = 2
_PIECE_BYTES = 1024 * 1024
_BEGINNING_BYTES = 60
# For a process with the lowest priority.
_CHECK_SECONDS = 900.0
_REASONS = {
    Fault.BYTES: FailureReason.RESULT_TOO_LARGE,
    Fault.DEPTH: FailureReason.RESULT_TOO_DEEP,
    Fault.VALUES: FailureReason.RESULT_TOO_MANY_VALUES,
}


@dataclass(frozen=True)
class Payload:
    """The text of a result as the init left it: *text* itself, or the file that contains it from byte *begin* on."""

    text: bytes = b""
    path: Path | None = None
    begin: int = 0


NO_PAYLOAD = Payload()


@dataclass(frozen=True)
class Returned:
    """A result that is valid JSON within the bounds. *kind* is the type of its outermost value."""

    kind: Kind
    payload: Payload

    def pieces(self) -> Iterator[bytes]:
        """Yield its text. Blocks.

        Raises:
            OSError: its file cannot be read.
        """
        if self.payload.path is None:
            yield self.payload.text
            return
        with self.payload.path.open("rb") as file:
            file.seek(self.payload.begin)
            while piece := file.read(_PIECE_BYTES):
                yield piece

    @property
    def beginning(self) -> str:
        """The first characters of its text."""
        return next(self.pieces(), b"")[:_BEGINNING_BYTES].decode(errors="replace")

    def value(self) -> object:
        """Return its value. Only for a result that is known to be small: values are not bounded."""
        return json.loads(b"".join(self.pieces()))

    def discard(self) -> None:
        """Remove its file. May be repeated."""
        if self.payload.path is not None:
            self.payload.path.unlink(missing_ok=True)


class ResultChecks:
    """Checks results, large ones a few at a time."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._places = asyncio.Semaphore(_PROCESSES)

    async def check(self, payload: Payload, limit_bytes: int) -> Returned | Failure:
        """Return the result, or the failure; its file is then removed, as after a cancellation."""
        bounds = Bounds(limit_bytes, MOST_DEPTH, MOST_VALUES)
        if payload.path is None:
            return await self._threads.run(_checked_text, payload.text, bounds)
        try:
            async with self._places:
                shape = await _scanned(payload.path, payload.begin, bounds)
        except BaseException:
            payload.path.unlink(missing_ok=True)
            raise
        if isinstance(shape, Shape) and not shape.loose:
            return Returned(shape.kind, payload)
        await self._threads.run(payload.path.unlink, missing_ok=True)
        if isinstance(shape, Shape):
            return Returned(shape.kind, Payload(path=_strict_path(payload.path)))
        if shape is None:
            words = "what main returned takes too much time or memory to check"
            return Failure(FailureReason.RESULT_TOO_COMPLEX, words)
        return _refused(shape)


def _checked_text(text: bytes, bounds: Bounds) -> Returned | Failure:
    shape = scan(text, bounds)
    if isinstance(shape, Refused):
        return _refused(shape)
    return Returned(shape.kind, Payload(b"".join(strict(text)) if shape.loose else text))


async def _scanned(path: Path, begin: int, bounds: Bounds) -> Shape | Refused | None:
    """Return the result of a separate process; None when it did not complete."""
    process = await asyncio.create_subprocess_exec(
        *command(str(path), begin, bounds, str(_strict_path(path))),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # A process that reads a bot's output must have no secret of the worker's.
        env={name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ},
    )
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            printed, errors = await process.communicate()
    except TimeoutError:
        log.warning("a result could not be checked in time", path=str(path), seconds=_CHECK_SECONDS)
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = answer(printed)
    if found is None:
        reason = errors[-500:].decode(errors="replace")
        log.warning("a result could not be checked", path=str(path), exit_code=process.returncode, reason=reason)
    return found


def _strict_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.strict")


def _refused(refused: Refused) -> Failure:
    reason = _REASONS.get(refused.fault, FailureReason.RESULT_NOT_JSON)
    return Failure(reason, f"what main returned {refused}")
