"""A MongoDB whose clock a test sets, and other processes' clocks, by libfaketime (Debian's package `libfaketime`)."""

from pathlib import Path

import pytest

from tools.stack.mongod import MongoServer

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def faked_clock(ahead_seconds: float) -> dict[str, str]:
    """Return the environment of a process whose time of day is *ahead_seconds* ahead; its other clocks are true."""
    return {
        "LD_PRELOAD": str(_library()),
        "FAKETIME": f"{ahead_seconds:+g}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _library() -> Path:
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed: apt-get install libfaketime")
    return LIBRARIES[0]


class SettableMongoServer(MongoServer):
    """MongoServer with another time of day; its timers go on by the true monotonic clock."""

    def set_ahead(self, seconds: float) -> None:
        """Let its clock be *seconds* ahead of the true time from now on; it jumps."""
        unfinished = self._clock.with_suffix(".new")
        unfinished.write_text(f"{seconds:+g}")
        unfinished.rename(self._clock)

    @property
    def _clock(self) -> Path:
        return self.directory / "clock"

    async def _prepare(self) -> None:
        _library()
        await super()._prepare()
        self.set_ahead(0.0)

    def _environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
