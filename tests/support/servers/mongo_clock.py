"""A MongoDB whose clock a test sets, by libfaketime (Debian's package `libfaketime`)."""

from pathlib import Path

import pytest

from tools.stack.mongod import MongoServer

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


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
        if not _LIBRARIES:
            pytest.skip("libfaketime is not installed: apt-get install libfaketime")
        await super()._prepare()
        self.set_ahead(0.0)

    def _environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(_LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
