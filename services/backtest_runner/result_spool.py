"""The result of a run, on this host's disk until the database and the storage have it. Blocking, and quick.

It outlives the worker: one that is started again on the same host hands it over without running the backtest again.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from libs.core.hostile_json import Kind
from libs.docker_runner.containers.json_text import to_json
from libs.docker_runner.containers.returned import Returned
from libs.docker_runner.runs.attempt import AttemptResult

_KEEP_SECONDS = 7 * 86_400.0
_TRUNCATED = b"\n[the0: the output was longer than is kept; the rest is missing]\n"


@dataclass(frozen=True)
class SpooledResult:
    """How an attempt ended, with its result and output as files."""

    result: AttemptResult
    analysis: Path
    logs: Path


class ResultSpool:
    """The folder *directory*, with one folder a run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self) -> None:
        """Make the folder, and remove abandoned results."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if folder.stat().st_mtime < time.time() - _KEEP_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)

    def put(self, run_id: str, result: AttemptResult) -> SpooledResult:
        """Keep what a run came to; takes over the files of its result and output. May be repeated after a failure.

        The last file written makes it count.

        Raises:
            OSError: the disk does not take it.
        """
        folder, outcome = self._folder(run_id), result.outcome
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = SpooledResult(result, folder / "analysis.json", folder / "logs.txt")
        with kept.analysis.open("wb") as file:
            if outcome is not None and result.succeeded:
                file.writelines(_analysis(outcome.returned))
            else:
                failed = {"status": "error", "message": result.message, "error": result.message}
                file.write(to_json(failed).encode("utf-8", "replace"))
        if outcome is not None and outcome.output_path.exists():
            if outcome.output_truncated:
                with outcome.output_path.open("ab") as file:
                    file.write(_TRUNCATED)
            shutil.move(outcome.output_path, kept.logs)
        elif not kept.logs.exists():
            kept.logs.write_bytes(b"")
        written = folder / "verdict.new"
        said = {"reason": result.reason, "error": result.message, "again": result.again}
        written.write_text(json.dumps({**said, "ended_at": result.at.isoformat()}))
        written.rename(folder / "verdict.json")
        if outcome is not None and outcome.returned is not None:
            outcome.returned.discard()
        return kept

    def get(self, run_id: str) -> SpooledResult | None:
        """What this run came to; None when this host does not know."""
        folder = self._folder(run_id)
        try:
            said = json.loads((folder / "verdict.json").read_text())
            at = datetime.fromisoformat(said["ended_at"])
            result = AttemptResult(said["reason"], said["error"], said["again"], at)
            return SpooledResult(result, folder / "analysis.json", folder / "logs.txt")
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def drop(self, run_id: str) -> None:
        """Let go of it. May be repeated."""
        shutil.rmtree(self._folder(run_id), ignore_errors=True)

    def _folder(self, run_id: str) -> Path:
        # Read back out of the database, and so no name for a folder as it is.
        return self._directory / hashlib.sha256(run_id.encode(errors="replace")).hexdigest()[:32]


def _analysis(returned: Returned | None) -> Iterator[bytes]:
    """The text of `analysis.json`, which is an object: nothing becomes an empty one, a list its results."""
    if returned is None or returned.kind is Kind.NULL:
        yield b"{}"
    elif returned.kind is Kind.ARRAY:
        yield b'{"results": '
        yield from returned.pieces()
        yield b"}"
    else:
        yield from returned.pieces()
