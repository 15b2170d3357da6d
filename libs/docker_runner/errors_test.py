"""The messages of errors name the remedy."""

import errno
import os

import pytest

from libs.docker_runner.errors import DiskUnavailable


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room below TEMP_DIR"),
        (errno.EDQUOT, "make room below TEMP_DIR"),
        (errno.EACCES, f"writable for user {os.geteuid()}"),
        (errno.EPERM, f"writable for user {os.geteuid()}"),
        (errno.EROFS, "mount TEMP_DIR for writing"),
    ],
)
def test_disk_error_names_the_file_and_the_remedy_for_its_cause(number: int, remedy: str) -> None:
    message = str(DiskUnavailable("code", OSError(number, os.strerror(number), "/work/code")))

    assert "/work/code" in message
    assert remedy in message
