"""The observer on a folder like containerd's, with ordinary processes in place of containers."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import bots
from tests.chaos.observer import Observer
from tests.chaos.reading import Observations
from tests.chaos.timeline import Copy


def copies_in(path: Path) -> tuple[Copy, ...]:
    """What a reader finds in the observer's file."""
    observations = Observations(path)
    observations.read()
    return observations.copies


@pytest.fixture
def container(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that containerd's folder lists as the first one of container `c1`."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    task = tmp_path / "engine" / "run/io.containerd.runtime.v2.task/moby/c1"
    task.mkdir(parents=True)
    (task / "init.pid").write_text(str(process.pid))
    yield process
    process.kill()
    process.wait()


def test_ticks_are_recorded_also_after_the_end_of_the_container(
    tmp_path: Path, container: "subprocess.Popen[bytes]"
) -> None:
    ticks = tmp_path / "ticks"
    observer = Observer(tmp_path / "out", {"e1": tmp_path / "engine"}, str(ticks))
    observer.look()
    ticks.write_bytes(json.dumps({"id": "b1", "number": 4}).encode() + b"\n1.5\n1.6\n1.")
    observer.look()
    observer.read()

    with ticks.open("ab") as file:
        file.write(b"75\n")
    # The observer reads through its open file: a container's file system is gone with it.
    ticks.unlink()
    container.kill()
    container.wait()
    observer.close()

    [copy] = copies_in(tmp_path / "out")
    assert (copy.entity_id, copy.number, copy.engine, copy.ticks) == ("b1", 4, "e1", (1.5, 1.6, 1.75))


def test_container_without_ticks_is_no_copy(tmp_path: Path, container: "subprocess.Popen[bytes]") -> None:
    engines = {"e1": tmp_path / "engine", "e2": tmp_path / "none"}
    observer = Observer(tmp_path / "out", engines, str(tmp_path / "ticks"))

    observer.look()
    observer.close()

    assert copies_in(tmp_path / "out") == ()


@pytest.mark.parametrize("source", [bots.BOT, bots.DEAF, bots.HOSTILE_BACKTEST], ids=["bot", "deaf", "hostile"])
def test_code_of_bots_reports_its_id_its_version_and_increasing_times(source: str, tmp_path: Path) -> None:
    path = tmp_path / "ticks"
    code = source.replace(bots.TICKS, str(path)) + '\nmain("b1", {"number": 7, "seconds": 0.5})\n'
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + 30
        while len(lines := path.read_text().splitlines() if path.exists() else []) < 3 and time.monotonic() < ends:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
        _end_of_session(code)
    assert json.loads(lines[0]) == {"id": "b1", "number": 7}
    times = [float(line) for line in lines[1:]]
    assert times == sorted(times)
    assert abs(times[0] - time.monotonic()) < 60


def test_bot_with_a_count_goes_on_from_its_state(tmp_path: Path) -> None:
    paths = {bots.TICKS: str(tmp_path / "ticks"), "/state": str(tmp_path)}
    code = bots.BOT + '\nmain("b1", {"seconds": 0.05, "counts": True})\n'
    for old, new in paths.items():
        code = code.replace(old, new)

    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

    head, tick, *others = (tmp_path / "ticks").read_text().splitlines()
    assert json.loads(head)["count"] == 0
    assert tick.split()[1] == "1"
    last = int(others[-1].split()[1])
    assert json.loads(others[-2])["count"] == last - 1


def _end_of_session(code: str) -> None:
    """Kill the processes that the bot has left."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if code.encode() in (folder / "cmdline").read_bytes():
                    os.kill(int(folder.name), 9)
            except OSError:
                continue
