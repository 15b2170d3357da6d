"""The last lines of a run without another request to the engine."""

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.logs.output import LAST_LINES, LastLines, LogLine, last_lines_in, last_lines_of
from libs.docker_runner.logs.run_output import RunOutput

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
# The engine's own limit for one piece.
PIECE_BYTES = 16 * 1024


class Printing:
    """An engine with one container that has printed *output*."""

    def __init__(self, output: bytes, each_seconds: float = 0.0) -> None:
        lines = output.splitlines(keepends=True)
        self._each_seconds = each_seconds
        self._pieces = [line[at : at + PIECE_BYTES] for line in lines for at in range(0, len(line), PIECE_BYTES)]

    async def logs(self, container: str, **options: object) -> AsyncIterator[LogLine]:
        """All of it."""
        for number, data in enumerate(self._pieces):
            if self._each_seconds:
                await asyncio.sleep(self._each_seconds)
            time = BEGIN + timedelta(microseconds=number)
            yield LogLine(f"{time:%Y-%m-%dT%H:%M:%S.%f}000Z", "stdout", data)


async def followed(tmp_path: Path, output: bytes, max_bytes: int = 1 << 30) -> RunOutput:
    engine: Any = Printing(output)
    made = RunOutput(engine, "c", tmp_path / "output", max_bytes)
    await made.follow()
    return made


@pytest.mark.parametrize(
    ("output", "known"),
    [
        (b"", []),
        (b"one\ntwo", ["one", "two"]),
        (b"\xff\n", ["\N{REPLACEMENT CHARACTER}"]),
        (b"".join(b"%d\n" % number for number in range(50_000)), [str(n) for n in range(50_000 - LAST_LINES, 50_000)]),
        (b"x" * 5_000 + b"\n", ["x" * 2_000]),
        # As a large result has it, which is the last line.
        (b"first\nsecond\n" + b"x" * 1_000_000 + b"end\n", ["first", "second", "x" * 1_997 + "end"]),
        (b"".join(b"%d" % n * 50_000 + b"\n" for n in range(10)) * 3, [str(n) * 2_000 for n in range(10)] * 2),
        (b"a\r\nb\rc\n\n", ["a", "b", "c", ""]),
    ],
)
async def test_the_last_lines_are_those_of_the_file(tmp_path: Path, output: bytes, known: list[str]) -> None:
    assert (await followed(tmp_path, output)).last_lines() == known


@given(st.lists(st.sampled_from([b"a", b"b\n", b"\n", b"c" * 700, b"\n" * 30, b"d\n" * 25])), st.integers(1, 64))
def test_lines_are_the_same_in_whatever_pieces_they_come(parts: list[bytes], size: int) -> None:
    output = b"".join(parts)
    found = LastLines()
    for at in range(0, len(output), size):
        found.add(output[at : at + size])

    assert found.lines() == last_lines_of(output) == last_lines_in(io.BytesIO(output))


async def test_incomplete_file_has_no_recorded_end(tmp_path: Path) -> None:
    made = await followed(tmp_path, b"one\ntwo\n", max_bytes=4)

    assert made.truncated
    assert made.last_lines() is None


@pytest.mark.parametrize(("each_seconds", "is_whole"), [(0.05, True), (60.0, False)])
async def test_output_that_is_slow_to_come_is_waited_for_as_long_as_it_comes(
    tmp_path: Path, each_seconds: float, is_whole: bool
) -> None:
    engine: Any = Printing(b"line\n" * 10, each_seconds)
    made = RunOutput(engine, "c", tmp_path / "output", 1 << 30)
    following = asyncio.create_task(made.follow())

    await made.until_silent(following, 0.2)

    assert (following.done(), made.truncated) == (is_whole, not is_whole)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert is_whole == ((tmp_path / "output").read_bytes() == b"line\n" * 10)
