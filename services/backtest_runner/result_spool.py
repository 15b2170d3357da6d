"""The result of a run, on this host's disk until the database and the storage have it. Blocks briefly.

It outlives the worker: a restarted worker on the same host completes it without running the backtest again.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from libs.core.hostile_json import Kind
from libs.docker_runner.containers.returned import Returned
from libs.docker_runner.executable import to_json
from libs.docker_runner.runs.attempt import AttemptResult
from services.backtest_runner.state import Outcome

INLINE_BYTES = 128 * 1024
"""Maximum size of content that is part of the outcome, and so is stored in the document until its completion."""

ANALYSIS, LOGS = "analysis.json", "logs.txt"
_KEEP_SECONDS = 7 * 86_400.0
_TRUNCATED = b"\n[the0: the output was longer than is kept; the rest is missing]\n"


class ResultSpool:
    """The folder *directory*, with one folder per run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self) -> None:
        """Create the folder, and remove abandoned results."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if folder.stat().st_mtime < time.time() - _KEEP_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)

    def put(self, run_id: str, result: AttemptResult) -> Outcome:
        """Store the final end of a run, and take over its result and output files. May be repeated after a failure.

        It is valid once its last file is written.

        Raises:
            OSError: the disk is full or fails.
        """
        folder, outcome = self.folder(run_id), result.outcome
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / ANALYSIS).open("wb") as file:
            if outcome is not None and result.succeeded:
                file.writelines(_analysis(outcome.returned))
            else:
                failed = {"status": "error", "message": result.message, "error": result.message}
                file.write(to_json(failed).encode("utf-8", "replace"))
        if outcome is not None and outcome.output_path.exists():
            if outcome.output_truncated:
                with outcome.output_path.open("ab") as file:
                    file.write(_TRUNCATED)
            shutil.move(outcome.output_path, folder / LOGS)
        else:
            (folder / LOGS).touch()
        written = folder / "verdict.new"
        said = {"reason": result.reason, "error": result.message, "again": result.again}
        written.write_text(json.dumps({**said, "ended_at": result.at.isoformat()}))
        written.rename(folder / "verdict.json")
        kept = self._outcome(run_id, result)
        if outcome is not None and outcome.returned is not None:
            # Last: a put that failed is repeated, and reads it again.
            outcome.returned.discard()
        return kept

    def get(self, run_id: str) -> Outcome | None:
        """Return the stored end of this run; None when this host has none."""
        try:
            said = json.loads((self.folder(run_id) / "verdict.json").read_text())
            at = datetime.fromisoformat(said["ended_at"])
            return self._outcome(run_id, AttemptResult(said["reason"], said["error"], at=at))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def drop(self, run_id: str) -> None:
        """Remove it. May be repeated."""
        shutil.rmtree(self.folder(run_id), ignore_errors=True)

    def folder(self, run_id: str) -> Path:
        """Return the folder with this run's ANALYSIS and LOGS."""
        # The id comes from the database, so it is not safe as a folder name.
        return self._directory / hashlib.sha256(run_id.encode(errors="replace")).hexdigest()[:32]

    def _outcome(self, run_id: str, result: AttemptResult) -> Outcome:
        return Outcome(
            run_id=run_id,
            success=result.succeeded,
            reason=str(result.reason),
            error=result.message,
            ended_at=result.at,
            analysis=_small(self.folder(run_id) / ANALYSIS),
            logs=_small(self.folder(run_id) / LOGS),
        )


def _small(file: Path) -> bytes | None:
    """Return the content of *file*; None when it is too large for the outcome."""
    return file.read_bytes() if file.stat().st_size <= INLINE_BYTES else None


def _analysis(returned: Returned | None) -> Iterator[bytes]:
    """Yield the text of `analysis.json`, an object: no result becomes an empty one, a list its results."""
    if returned is None or returned.kind is Kind.NULL:
        yield b"{}"
    elif returned.kind is Kind.ARRAY:
        yield b'{"results": '
        yield from returned.pieces()
        yield b"}"
    else:
        yield from returned.pieces()
