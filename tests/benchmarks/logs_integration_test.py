"""A short form of the log benchmark, with the design's target."""

from pathlib import Path

from tests.benchmarks.logs import TARGET_SENT_PER_LOGGED, measure
from tools.stack.s3 import S3Server


async def test_uploading_sends_little_more_than_was_logged(s3_server: S3Server, tmp_path: Path) -> None:
    figures = await measure(s3_server, tmp_path / "spool", megabytes=40, additions=10)

    assert figures.whole
    assert figures.sent_per_logged <= TARGET_SENT_PER_LOGGED
