"""The spool: output is returned once and in order, across kills, and a full spool notes what it dropped."""

import os
import re
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.docker_runner.logs.position import BEGINNING, Position
from libs.docker_runner.logs.spool import LogSpool


def at(number: int) -> Position:
    return BEGINNING.taking(number)


def drain(spool: LogSpool, max_bytes: int = 1000) -> dict[str, bytes]:
    """Upload everything: what each day's object would hold."""
    objects: dict[str, bytes] = {}
    while (chunk := spool.next_chunk(max_bytes)) is not None:
        spool.intend(chunk, "key", 0)
        objects[chunk.day] = objects.get(chunk.day, b"") + chunk.payload
        spool.commit(chunk)
    return objects


def test_output_comes_out_in_order_by_day(tmp_path: Path) -> None:
    spool = LogSpool(tmp_path)
    for number, day in enumerate(["20260131", "20260131", "20260201"]):
        spool.append("c1", day, b"line %d\n" % number, at(number))

    assert drain(spool) == {"20260131": b"line 0\nline 1\n", "20260201": b"line 2\n"}
    assert spool.pending_bytes == 0
    assert [name for name in os.listdir(tmp_path) if name != "state.json"] == []


def test_a_chunk_is_no_larger_than_asked_unless_one_record_is(tmp_path: Path) -> None:
    spool = LogSpool(tmp_path)
    for size in (40, 50, 200):
        spool.append("c1", "20260131", b"x" * size, at(size))

    sizes = []
    while (chunk := spool.next_chunk(100)) is not None:
        sizes.append(len(chunk.payload))
        spool.commit(chunk)

    assert sizes == [90, 200]


def test_after_a_kill_output_and_positions_are_there(tmp_path: Path) -> None:
    LogSpool(tmp_path).append("c1", "20260131", b"one\n", at(1))
    LogSpool(tmp_path).append("c2", "20260131", b"two\n", at(2))

    spool = LogSpool(tmp_path)

    assert (spool.position("c1"), spool.position("c2"), spool.position("c3")) == (at(1), at(2), None)
    assert drain(spool) == {"20260131": b"one\ntwo\n"}
    assert LogSpool(tmp_path).position("c2") == at(2), "positions outlive the output"


@pytest.mark.parametrize("cut", [1, 5, 70])
def test_a_record_that_was_cut_short_is_as_if_never_written(tmp_path: Path, cut: int) -> None:
    spool = LogSpool(tmp_path)
    spool.append("c1", "20260131", b"whole\n", at(1))
    spool.append("c1", "20260131", b"cut\n", at(2))
    file = next(tmp_path.glob("*.spool"))
    os.truncate(file, file.stat().st_size - cut)

    again = LogSpool(tmp_path)
    assert again.position("c1") == at(1)
    again.append("c1", "20260131", b"new\n", at(2))

    assert drain(again) == {"20260131": b"whole\nnew\n"}


def test_intent_survives_a_kill(tmp_path: Path) -> None:
    spool = LogSpool(tmp_path)
    spool.append("c1", "20260131", b"one\n", at(1))
    chunk = spool.next_chunk(1000)
    assert chunk is not None
    intended = spool.intend(chunk, "logs/b/20260131.log", 77)
    spool.append("c1", "20260131", b"two\n", at(2))

    again = LogSpool(tmp_path)

    assert again.intent() == intended
    again.commit(intended.chunk)
    assert again.intent() is None
    assert drain(again) == {"20260131": b"two\n"}


def test_full_spool_drops_oldest_and_counts_bytes(tmp_path: Path) -> None:
    spool = LogSpool(tmp_path, max_bytes=10_000)
    for number in range(100):
        spool.append("c1", "20260131", b"%03d" % number + b"x" * 396 + b"\n", at(number))

    written = drain(LogSpool(tmp_path, max_bytes=10_000))["20260131"]

    marker, _, rest = written.partition(b"\n")
    found = re.search(rb"\[the0: (\d+) bytes of output are missing here", marker)
    assert found is not None
    assert int(found[1]) == 40_000 - len(rest) == spool.take_dropped()
    assert rest.endswith(b"099" + b"x" * 396 + b"\n")
    assert len(rest) > 7_000
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10_000


def test_a_full_spool_keeps_what_may_be_uploaded_already(tmp_path: Path) -> None:
    spool = LogSpool(tmp_path, max_bytes=10_000)
    spool.append("c1", "20260131", b"first\n", at(1))
    chunk = spool.next_chunk(1000)
    assert chunk is not None
    spool.intend(chunk, "key", 0)
    for number in range(100):
        spool.append("c1", "20260131", b"x" * 400, at(number + 2))

    intent = LogSpool(tmp_path, max_bytes=10_000).intent()

    assert intent is not None
    assert intent.chunk == chunk


def test_a_snapshot_can_be_read_after_its_output_is_uploaded(tmp_path: Path) -> None:
    spool = LogSpool(tmp_path)
    end = spool.append("c1", "20260131", b"one\n", at(1))
    snapshot = spool.snapshot()
    later = spool.append("c1", "20260131", b"two\n", at(2))
    drain(spool)

    assert b"".join(snapshot) == b"one\n"
    assert snapshot.end == end < later
    snapshot.close()


def test_a_disk_that_is_full_loses_no_output_that_was_there(tmp_path: Path) -> None:
    spool = LogSpool(tmp_path)
    spool.append("c1", "20260131", b"one\n", at(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            spool.append("c1", "20260131", b"x" * 1000, at(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)

    spool.append("c1", "20260131", b"two\n", at(2))
    assert drain(LogSpool(tmp_path)) == {"20260131": b"one\ntwo\n"}


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.binary(min_size=1, max_size=300)),
        st.tuples(st.sampled_from(["upload", "choose", "kill", "next day"]), st.just(b"")),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS, st.sampled_from([500, 100_000]))
def test_spool_neither_loses_nor_repeats_output(
    tmp_path: Path, actions: list[tuple[str, bytes]], max_bytes: int
) -> None:
    folder = tmp_path / os.urandom(8).hex()
    spool = LogSpool(folder, max_bytes)
    written: dict[str, bytes] = {}
    uploaded: dict[str, bytes] = {}
    day, number = 20260101, 0
    for action, payload in actions:
        if action == "append":
            number += 1
            spool.append("c1", str(day), payload, at(number))
            written[str(day)] = written.get(str(day), b"") + payload
        elif action == "next day":
            day += 1
        elif action == "kill":
            spool = LogSpool(folder, max_bytes)
            assert spool.position("c1") == (at(number) if number else None)
        elif (chunk := spool.next_chunk(200)) is not None:
            spool.intend(chunk, "key", 0)
            if action == "upload":
                uploaded[chunk.day] = uploaded.get(chunk.day, b"") + chunk.payload
                spool.commit(chunk)
    for last_day, payload in drain(LogSpool(folder, max_bytes)).items():
        uploaded[last_day] = uploaded.get(last_day, b"") + payload

    if max_bytes == 100_000:
        assert uploaded == written
    for each_day, content in uploaded.items():
        gaps = [int(size) for size in re.findall(rb"\[the0: (\d+) bytes of output are missing", content)]
        lines = sum(len(line) for line in re.findall(rb"\[the0: \d+ bytes of [^\n]*\n", content))
        assert len(content) - lines + sum(gaps) == len(written[each_day])
