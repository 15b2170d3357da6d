"""Data sets in containers."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from libs.docker_runner.errors import DataMissing
from libs.docker_runner.executable import Network
from tests.support.rigs.bot_containers import BotContainers, bot_containers
from tools.engine.ensure import Engine

HOSTILE = """
import errno, os

def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]

def main(id, config):
    return {
        "read": [open("/data/prices.csv").read(), open("/data/days/1.csv").read()],
        "refused": {
            refused(open, "/data/prices.csv", "a"),
            refused(os.chmod, "/data/prices.csv", 0o777),
            refused(os.truncate, "/data/days/1.csv", 0),
            refused(open, "/data/days/2.csv", "w"),
            refused(os.unlink, "/data/days/1.csv"),
            refused(os.rename, "/data/days/1.csv", "/data/days/2.csv"),
            refused(os.symlink, "/etc", "/data/days/link"),
            refused(os.mkdir, "/data/other"),
        } <= {"EROFS", "EACCES", "EPERM"},
    }
"""


class Folders:
    """A source whose data sets are files and folders of *directory*; records the holders."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.holders: set[str] = set()

    async def fetch(self, names: Sequence[str], holder: str | None = None) -> Mapping[str, Path]:
        """Return the paths."""
        if holder is not None:
            self.holders.add(holder)
        found = {name: self.directory / name for name in names}
        for name, path in found.items():
            if not path.exists():
                raise DataMissing(name)
        return found

    async def release(self, holder: str) -> None:
        """Forget *holder*."""
        self.holders.discard(holder)

    async def drop_stale_pins(self, live: Collection[str], older_than_seconds: float = 600.0) -> int:
        """Keep all of them."""
        return 0


@pytest.fixture
def data(tmp_path: Path) -> Folders:
    (tmp_path / "sets" / "days").mkdir(parents=True)
    (tmp_path / "sets" / "prices.csv").write_text("1,2,3")
    (tmp_path / "sets" / "days" / "1.csv").write_text("7")
    return Folders(tmp_path / "sets")


@pytest_asyncio.fixture(loop_scope="session")
async def bots(tmp_path: Path, scope: str, docker_engine: Engine, data: Folders) -> AsyncIterator[BotContainers]:
    async with bot_containers(tmp_path, scope, docker_engine.url, data=data, network=Network.NONE) as bots:
        yield bots


async def test_bot_reads_its_data_sets_and_changes_nothing_of_them(bots: BotContainers, data: Folders) -> None:
    outcome, output = await bots.run(HOSTILE, data=("days", "prices.csv"))

    assert outcome.result == {"read": ["1,2,3", "7"], "refused": True}, output
    assert (data.directory / "prices.csv").read_text() == "1,2,3"
    assert data.holders == set()


async def test_start_without_its_data_set_leaves_nothing(bots: BotContainers, data: Folders) -> None:
    with pytest.raises(DataMissing, match="missing data set 'absent'"):
        await bots.runner.start(bots.executable(HOSTILE, data=("absent", "days")))

    assert await bots.list() == []
    assert data.holders == set()
