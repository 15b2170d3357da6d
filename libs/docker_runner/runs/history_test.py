"""Each run has one record: its start and its end belong together, for any writer and number of writes."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.core.run_record import RunRecord
from libs.docker_runner.containers.container import Ended, EndReason
from libs.docker_runner.containers.run_records import Recorder
from libs.docker_runner.errors import EngineUnavailable
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Placement
from libs.docker_runner.runs.attempt import AttemptResult
from libs.docker_runner.runs.history import RunHistory
from tests.support.fakes.fake_host import container_of
from tests.support.virtual_time import in_virtual_time

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
END = BEGIN + timedelta(seconds=60)
SEGMENT, EPOCH, REVISION = 3, 7, 4


@dataclass
class Runs:
    """A store of records; *reads* counts the reads."""

    records: dict[str, RunRecord] = field(default_factory=dict)
    faults: list[Exception] = field(default_factory=list)
    closed: list[dict[str, Any]] = field(default_factory=list)
    reads: int = 0

    async def get(self, run_id: str) -> RunRecord | None:
        self.reads += 1
        return self.records.get(run_id)

    async def start(self, record: RunRecord) -> None:
        self.records[record.run_id] = record

    async def finish(self, record: RunRecord) -> bool:
        if self.faults:
            raise self.faults.pop(0)
        self.records[record.run_id] = record
        return True

    async def adopt(
        self, run_id: str, *, worker_id: str, epoch: int, container_id: str | None, code_digest: str | None
    ) -> bool:
        if run_id not in self.records:
            return False
        self.records[run_id] = replace(
            self.records[run_id], worker_id=worker_id, epoch=epoch, container_id=container_id, code_digest=code_digest
        )
        return True

    async def withdraw(self, run_id: str) -> None:
        self.records.pop(run_id, None)

    async def close_open(self, *, keep: Collection[str], **which: Any) -> int:
        self.closed.append({**which, "keep": set(keep)})
        return 0


@dataclass(frozen=True)
class Bot:
    """An entity."""

    id: str = "b"
    revision: int = REVISION


def executable(run_id: str = "r") -> Executable:
    return Executable(
        id="b",
        service="s",
        scope="x",
        runtime="python3.11",
        entrypoint=Entrypoint.BOT,
        script="main.py",
        code=CodeRef("bots", "key"),
        placement=Placement("image"),
        run_id=run_id,
        segment=SEGMENT,
        epoch=EPOCH - 1,
        worker="earlier",
        revision=REVISION,
    )


def of_earlier() -> RunRecord:
    """The open record of a run that an earlier owner started."""
    return RunRecord(
        run_id="r",
        entity_id="b",
        segment_id=SEGMENT,
        worker_id="earlier",
        host="other",
        epoch=EPOCH - 1,
        started_at=BEGIN,
        attempt=2,
    )


def ended(reason: EndReason = EndReason.ERROR) -> Ended:
    return Ended(container_of(executable()), 1, False, reason, BEGIN, END)


def history(runs: Runs) -> RunHistory:
    return RunHistory(Recorder("w", "h"), segment_id=SEGMENT, epoch=EPOCH, runs=runs)


# --- ends of attempts


@in_virtual_time
async def test_end_completes_the_record_of_the_start_without_reading_it() -> None:
    runs = Runs()
    written = history(runs)
    begun = written.begins(executable(), BEGIN, attempt=2)

    await written.ended(Bot(), "r", AttemptResult("error", at=END, ended=ended()), END, attempt=9)

    found = runs.records["r"]
    assert runs.reads == 0
    assert (found.started_at, found.attempt, found.config_digest) == (BEGIN, 2, begun.config_digest)
    assert (found.ended_at, found.reason, found.exit_code, found.message) == (END, "error", 1, None)


@in_virtual_time
async def test_end_of_a_run_of_an_earlier_owner_completes_the_stored_record() -> None:
    earlier = of_earlier()
    runs = Runs({"r": earlier})

    await history(runs).ended(Bot(), "r", AttemptResult("error", "no funds", at=END), END, attempt=9)

    assert runs.records["r"] == replace(earlier, ended_at=END, reason="error", message="no funds")


@in_virtual_time
async def test_end_of_a_run_without_a_record_names_its_entity_and_this_owner() -> None:
    runs = Runs()

    await history(runs).ended(Bot(), "r", AttemptResult("rejected", "no code", at=END), BEGIN, attempt=1)

    assert replace(runs.records["r"], trace_id=None) == RunRecord(
        run_id="r",
        entity_id="b",
        segment_id=SEGMENT,
        worker_id="w",
        host="h",
        epoch=EPOCH,
        started_at=BEGIN,
        revision=REVISION,
        ended_at=END,
        reason="rejected",
        message="no code",
        attempt=1,
    )


@in_virtual_time
async def test_end_that_is_not_stored_is_repeated_with_the_record_of_the_start() -> None:
    runs = Runs(faults=[EngineUnavailable("finish", "no answer")])
    written = history(runs)
    written.begins(executable(), BEGIN, attempt=2)
    result = AttemptResult("error", at=END)

    with pytest.raises(EngineUnavailable):
        await written.ended(Bot(), "r", result, END)
    await written.ended(Bot(), "r", result, END)

    assert runs.records["r"].attempt == 2


@in_virtual_time
async def test_record_of_an_ended_run_is_read_again() -> None:
    runs = Runs()
    written = history(runs)
    written.begins(executable(), BEGIN, attempt=2)
    result = AttemptResult("error", at=END)
    await written.ended(Bot(), "r", result, END)
    runs.records["r"] = replace(runs.records["r"], attempt=5)

    await written.ended(Bot(), "r", result, END)

    assert (runs.reads, runs.records["r"].attempt) == (1, 5)


@in_virtual_time
async def test_withdrawn_run_leaves_no_record_of_its_start() -> None:
    runs = Runs()
    written = history(runs)
    await runs.start(written.begins(executable(), BEGIN, attempt=2))

    await written.withdrawn("r")

    assert runs.records == {}
    await written.ended(Bot(), "r", AttemptResult("stopped", at=END), END)
    assert runs.records["r"].attempt is None


# --- adoptions and takeovers


@in_virtual_time
async def test_adopted_run_keeps_its_record_with_this_owner_and_its_container() -> None:
    earlier = of_earlier()
    runs = Runs({"r": earlier})

    await history(runs).adopted(container_of(executable()), END, attempt=9)

    mine = replace(earlier, worker_id="w", epoch=EPOCH, container_id="c-r", code_digest="etag")
    assert runs.records == {"r": mine}


@in_virtual_time
async def test_adopted_run_without_a_record_gets_one_from_its_container() -> None:
    runs = Runs()

    await history(runs).adopted(container_of(executable()), BEGIN, attempt=2)

    found = runs.records["r"]
    assert (found.entity_id, found.segment_id, found.host) == ("b", SEGMENT, "h")
    assert (found.worker_id, found.epoch) == ("w", EPOCH)
    assert (found.started_at, found.attempt, found.container_id) == (BEGIN, 2, "c-r")


@in_virtual_time
async def test_takeover_closes_runs_of_earlier_owners_of_this_segment_that_are_not_active() -> None:
    runs = Runs()

    await history(runs).close_earlier(["r"])

    [closed] = runs.closed
    assert (closed["reason"], closed["segment_id"], closed["before_epoch"]) == ("missing", SEGMENT, EPOCH)
    assert closed["keep"] == {"r"}
    assert "its worker died" in closed["message"]
    assert closed["ended_at"].tzinfo is not None


# --- ends without an attempt


@pytest.mark.parametrize(("reason", "stored"), [(None, "error"), ("deleted", "deleted")])
@in_virtual_time
async def test_end_of_a_container_has_the_given_reason_or_that_of_the_engine(reason: str | None, stored: str) -> None:
    begun = of_earlier()
    runs = Runs({"r": begun})

    await history(runs).container_ended(ended(), reason)

    found = runs.records["r"]
    assert (found.reason, found.attempt, found.exit_code, found.ended_at) == (stored, 2, 1, END)
