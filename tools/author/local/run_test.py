"""The output of a local run, from an engine that is played."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.executable import Executable
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.runner import DockerRunner
from tools.author.local.run import LocalRun
from tools.author.local.workplace import Workplace

CONTAINER = cast(ManagedContainer, object())
ENDED = Ended(CONTAINER, 0, False, EndReason.FINISHED, None, None)
# The streams are stamped before they are written: an older piece may come after a younger one, or at the same instant.
PIECES = [
    LogLine("2026-01-01T00:00:00.000000001Z", "stdout", b"1"),
    LogLine("2026-01-01T00:00:00.000900000Z", "stderr", b"2"),
    LogLine("2026-01-01T00:00:00.000000700Z", "stdout", b"3"),
    LogLine("2026-01-01T00:00:00.000000700Z", "stdout", b"4"),
]


class PlayedRunner:
    """Its stream breaks after *first* pieces; the whole output is there when the container has ended."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._looks = 0

    async def start(self, _executable: object) -> object:
        return CONTAINER

    async def exit_info(self, _container: object) -> Ended | None:
        self._looks += 1
        return ENDED if self._looks > 1 else None

    async def logs(self, _container: object, since: datetime | None, follow: bool) -> AsyncGenerator[LogLine, None]:
        for piece in PIECES[: self._first] if follow else PIECES:
            stamp = datetime.fromisoformat(piece.timestamp[:26]).replace(tzinfo=UTC)
            if since is None or stamp >= since:
                yield piece

    async def remove(self, _container: object) -> None:
        return


@pytest.mark.parametrize("first", range(len(PIECES) + 1))
async def test_each_piece_of_output_is_written_once_after_a_broken_stream(tmp_path: Path, first: int) -> None:
    (tmp_path / "memory").mkdir()
    place = Workplace("local-1", tmp_path, tmp_path / "memory")
    written: list[LogLine] = []
    runner: Any = PlayedRunner(first)
    run = LocalRun(
        cast(DockerRunner, runner), cast(Executable, None), place, written.append, lambda text: None, walls_seconds=60.0
    )

    assert await run.carry_out() == ENDED

    assert written == PIECES
