"""The result of a run, on this host's disk until the database and the storage have it. Blocking, and quick.

It outlives the worker: one that is started again on the same host hands it over without running the backtest again.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from libs.core.hostile_json import Kind
from libs.docker_runner.containers.container import RunOutcome
from libs.docker_runner.containers.json_text import to_json
from libs.docker_runner.containers.returned import Returned
from services.backtest_runner.verdict import Verdict

_KEEP_SECONDS = 7 * 86_400.0
_TRUNCATED = b"\n[the0: the output was longer than is kept; the rest is missing]\n"


@dataclass(frozen=True)
class SpooledResult:
    """One attempt's verdict, with its result and output as files."""

    verdict: Verdict
    ended_at: datetime
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

    def put(self, run_id: str, verdict: Verdict, outcome: RunOutcome | None) -> SpooledResult:
        """Keep what a run came to; takes over the files of its result and output. May be repeated after a failure.

        The last file written makes it count.

        Raises:
            OSError: the disk does not take it.
        """
        folder = self._folder(run_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = SpooledResult(verdict, datetime.now(UTC), folder / "analysis.json", folder / "logs.txt")
        with kept.analysis.open("wb") as file:
            if outcome is not None and verdict.success:
                file.writelines(_analysis(outcome.returned))
            else:
                file.write(to_json(verdict.failed_analysis()).encode("utf-8", "replace"))
        if outcome is not None and outcome.output_path.exists():
            if outcome.output_truncated:
                with outcome.output_path.open("ab") as file:
                    file.write(_TRUNCATED)
            shutil.move(outcome.output_path, kept.logs)
        elif not kept.logs.exists():
            kept.logs.write_bytes(b"")
        written = folder / "verdict.new"
        written.write_text(json.dumps({**asdict(verdict), "ended_at": kept.ended_at.isoformat()}))
        written.rename(folder / "verdict.json")
        if outcome is not None and outcome.returned is not None:
            outcome.returned.discard()
        return kept

    def get(self, run_id: str) -> SpooledResult | None:
        """What this run came to; None when this host does not know."""
        folder = self._folder(run_id)
        try:
            verdict = json.loads((folder / "verdict.json").read_text())
            ended_at = datetime.fromisoformat(verdict.pop("ended_at"))
            return SpooledResult(Verdict(**verdict), ended_at, folder / "analysis.json", folder / "logs.txt")
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
