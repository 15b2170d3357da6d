"""A collected run ends with its complete output and its result, or leaves neither container nor files."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.docker_runner.containers.container import Ended, EndReason, ManagedContainer
from libs.docker_runner.containers.failure import Failure, FailureReason
from libs.docker_runner.containers.returned import NO_PAYLOAD, Payload
from libs.docker_runner.containers.run_folders import Outcome, RunFolders
from libs.docker_runner.containers.secret_masks import SecretMasks
from libs.docker_runner.errors import DiskUnavailable, EngineUnavailable
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Placement
from libs.docker_runner.logs.output import LogLine
from libs.docker_runner.runs.collection import Collection, Collector
from tests.support.fakes.fake_host import container_of
from tests.support.virtual_time import in_virtual_time

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OUTPUT_BYTES = 100
RESULT_BYTES = 1000
NO_SECRETS: Any = None  # none has to be resolved


async def never() -> Any:
    raise AssertionError("nothing is taken")


def collection() -> tuple[Collection, "asyncio.Future[None]"]:
    following: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return Collection(following, never), following


async def end_after(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "ended"


def seconds() -> float:
    return asyncio.get_running_loop().time()


# --- the watch


@in_virtual_time
async def test_watch_goes_on_while_the_output_is_followed() -> None:
    made, _ = collection()
    assert await made.during(end_after(5.0)) == "ended"
    assert seconds() == 5.0


@in_virtual_time
async def test_watch_goes_on_after_the_end_of_the_output() -> None:
    made, following = collection()
    following.set_result(None)
    assert await made.during(end_after(5.0)) == "ended"


@in_virtual_time
async def test_output_that_cannot_be_kept_ends_the_watch_at_once() -> None:
    made, following = collection()
    watching = asyncio.ensure_future(end_after(50.0))
    following.set_exception(DiskUnavailable("the output of a run", OSError(28, "no space")))
    with pytest.raises(DiskUnavailable):
        await made.during(watching)
    assert watching.cancelled()
    assert seconds() == 0.0


@in_virtual_time
async def test_output_that_can_no_longer_be_kept_ends_the_watch_at_that_moment() -> None:
    made, following = collection()
    fault = DiskUnavailable("the output of a run", OSError(28, "no space"))
    asyncio.get_running_loop().call_later(3.0, following.set_exception, fault)
    with pytest.raises(DiskUnavailable):
        await made.during(end_after(50.0))
    assert seconds() == 3.0


@in_virtual_time
async def test_watch_ends_with_its_caller() -> None:
    made, _ = collection()
    watching = asyncio.ensure_future(end_after(50.0))
    calling = asyncio.create_task(made.during(watching))
    await asyncio.sleep(1.0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert watching.cancelled()


# --- the result and the output


class Inline:
    """Calls at once what production calls in a thread: virtual time does not wait for threads."""

    async def run(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0)
        return call(*arguments, **options)


@dataclass
class Run:
    """A container that prints *lines*, the last ones after its end, and then has *outcome*."""

    folder: Path
    lines: tuple[str, ...] = ("one\n", "two\n")
    printing_seconds: float = 2.0
    reason: EndReason = EndReason.FINISHED
    outcome: Outcome = field(
        default_factory=lambda: Outcome(reason="done", kind="result", payload=Payload(b'{"a": 1}'))
    )
    failure: Failure | None = None
    secrets: tuple[str, ...] = ()
    stop_seconds: float = 0.0
    stop_faults: list[Exception] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    reaped_with: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        placement, code = Placement("image"), CodeRef("bots", "key")
        self.container = container_of(
            Executable("b", "s", "x", "python3.11", Entrypoint.BACKTEST, "main.py", code, placement, run_id="r")
        )
        self.folders = RunFolders(self.folder)
        (self.folder / "outputs").mkdir()

    @property
    def output(self) -> Path:
        return self.folders.output_path(self.container)

    async def logs(self, container: str, **options: object) -> AsyncIterator[LogLine]:
        """As the engine."""
        for number, line in enumerate(self.lines):
            await asyncio.sleep(self.printing_seconds / len(self.lines))
            at = BEGIN + timedelta(microseconds=number)
            yield LogLine(f"{at:%Y-%m-%dT%H:%M:%S.%f}000Z", "stdout", line.encode())

    async def stop(self, container: ManagedContainer, grace_seconds: float) -> None:
        """As the stopper."""
        self.calls.append(f"stopped with {grace_seconds:g}")
        if self.stop_faults:
            raise self.stop_faults.pop(0)
        await asyncio.sleep(self.stop_seconds)

    async def reap(
        self,
        container: ManagedContainer,
        payload_bytes: int = 0,
        last_lines: list[str] | None = None,
        payload_path: Path | None = None,
    ) -> tuple[Ended, Outcome]:
        """As the stopper."""
        self.calls.append("reaped")
        self.reaped_with = [payload_bytes, last_lines, payload_path]
        ended = Ended(self.container, 0, False, self.reason, BEGIN, BEGIN, failure=self.failure)
        return ended, self.outcome

    def collecting(self, *, is_handed_over: bool = False) -> AbstractAsyncContextManager[Collection]:
        def removed(ended: Ended) -> Ended:
            self.calls.append("counted")
            return replace(ended, cpu_seconds=1.5)

        engine: Any = self
        threads: Any = Inline()
        masks = SecretMasks(self.folders, NO_SECRETS, threads)
        masks.remember(self.container.token, self.secrets)
        collector = Collector(
            engine=engine,
            stopper=engine,
            folders=self.folders,
            threads=threads,
            masks=masks,
            output_bytes=OUTPUT_BYTES,
            removed=removed,
        )
        return collector.collecting(self.container, RESULT_BYTES, 60.0, lambda: is_handed_over)

    def with_large_result(self) -> Path:
        """Put a large result beside the output, and return its path."""
        path = self.output.with_suffix(".result")
        path.write_bytes(b'{"a": 1}')
        return path


@in_virtual_time
async def test_taken_run_has_its_result_and_all_of_its_output(tmp_path: Path) -> None:
    run = Run(tmp_path)
    async with run.collecting() as collecting:
        await collecting.during(end_after(1.0))
        outcome = await collecting.take()
    assert (outcome.result, outcome.failure, outcome.output_truncated) == ({"a": 1}, None, False)
    assert outcome.output_path.read_text() == "one\ntwo\n"
    assert outcome.ended.cpu_seconds == 1.5
    assert run.calls == ["reaped", "counted"]
    assert run.reaped_with == [RESULT_BYTES, ["one", "two"], run.output.with_suffix(".result")]
    assert seconds() == 2.0


@in_virtual_time
async def test_collected_output_hides_the_values_of_secrets(tmp_path: Path) -> None:
    run = Run(tmp_path, lines=("key s3cr3t-value\n",), secrets=("s3cr3t-value",))
    async with run.collecting() as collecting:
        outcome = await collecting.take()
    assert outcome.output_path.read_text() == "key ************\n"


@in_virtual_time
async def test_output_that_never_ends_is_cut_off_when_it_is_silent(tmp_path: Path) -> None:
    run = Run(tmp_path, lines=("one\n", "never\n"), printing_seconds=1000.0)
    async with run.collecting() as collecting:
        outcome = await collecting.take()
    assert outcome.output_truncated
    assert run.reaped_with[1] is None
    assert seconds() == 10.0


@in_virtual_time
async def test_output_past_the_limit_is_not_kept(tmp_path: Path) -> None:
    run = Run(tmp_path, lines=("x" * OUTPUT_BYTES, "y"))
    async with run.collecting() as collecting:
        outcome = await collecting.take()
    assert outcome.output_truncated
    assert outcome.output_path.read_text() == "x" * OUTPUT_BYTES


@in_virtual_time
async def test_run_that_returned_nothing_has_neither_result_nor_failure(tmp_path: Path) -> None:
    run = Run(tmp_path, outcome=Outcome(reason="done", kind="none", payload=NO_PAYLOAD))
    async with run.collecting() as collecting:
        outcome = await collecting.take()
    assert (outcome.returned, outcome.failure, outcome.ended.failure) == (None, None, None)


@in_virtual_time
async def test_failed_run_has_its_failure_and_no_file_of_a_result(tmp_path: Path) -> None:
    failure = Failure(FailureReason.EXCEPTION, "no funds", "ValueError")
    run = Run(tmp_path, reason=EndReason.ERROR, failure=failure)
    large = run.with_large_result()
    run.outcome = Outcome(reason="done", kind="error", payload=Payload(path=large))
    async with run.collecting() as collecting:
        outcome = await collecting.take()
    assert (outcome.returned, outcome.failure, outcome.ended.failure) == (None, failure, failure)
    assert not large.exists()


@in_virtual_time
async def test_run_without_a_usable_result_has_failed_though_it_finished(tmp_path: Path) -> None:
    run = Run(tmp_path, outcome=Outcome(reason="done", kind="result", payload=Payload(b"no JSON")))
    async with run.collecting() as collecting:
        outcome = await collecting.take()
    assert outcome.returned is None
    assert outcome.failure is not None
    assert outcome.ended.failure == outcome.failure


@in_virtual_time
async def test_failure_of_a_stopped_run_is_not_the_failure_of_its_code(tmp_path: Path) -> None:
    run = Run(tmp_path, reason=EndReason.STOPPED)
    async with run.collecting() as collecting:
        outcome = await collecting.take()
    assert outcome.failure is not None
    assert outcome.failure.reason is FailureReason.INTERRUPTED
    assert outcome.ended.failure is None


# --- runs that are given up


@in_virtual_time
async def test_block_that_fails_kills_and_removes_the_container_and_its_files(tmp_path: Path) -> None:
    run = Run(tmp_path)
    large = run.with_large_result()
    with pytest.raises(ValueError, match="no place"):
        async with run.collecting():
            raise ValueError("no place")
    assert run.calls == ["stopped with 0", "reaped"]
    assert not run.output.exists()
    assert not large.exists()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_cancelled_block_kills_and_removes_the_container_and_its_files(tmp_path: Path) -> None:
    run = Run(tmp_path)

    async def collect() -> None:
        async with run.collecting() as collecting:
            await collecting.during(end_after(1000.0))

    collecting = asyncio.create_task(collect())
    await asyncio.sleep(1.5)
    assert run.output.exists()
    collecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting
    assert run.calls == ["stopped with 0", "reaped"]
    assert not run.output.exists()


@in_virtual_time
async def test_cancelled_block_leaves_a_container_that_was_handed_over(tmp_path: Path) -> None:
    run = Run(tmp_path)

    async def collect() -> None:
        async with run.collecting(is_handed_over=True) as collecting:
            await collecting.during(end_after(1000.0))

    collecting = asyncio.create_task(collect())
    await asyncio.sleep(1.5)
    collecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting
    assert run.calls == []
    assert run.output.exists()


@in_virtual_time
async def test_failed_block_removes_a_container_that_was_handed_over(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ValueError, match="no place"):
        async with run.collecting(is_handed_over=True):
            raise ValueError("no place")
    assert run.calls == ["stopped with 0", "reaped"]


@in_virtual_time
async def test_second_cancellation_leaves_the_removal_of_the_container_running(tmp_path: Path) -> None:
    run = Run(tmp_path, stop_seconds=5.0)

    async def collect() -> None:
        async with run.collecting() as collecting:
            await collecting.during(end_after(1000.0))

    collecting = asyncio.create_task(collect())
    await asyncio.sleep(1.0)
    for _ in range(2):
        collecting.cancel()
        await asyncio.sleep(1.0)
    with pytest.raises(asyncio.CancelledError):
        await collecting
    await asyncio.sleep(10.0)
    assert run.calls == ["stopped with 0", "reaped"]
    assert not run.output.exists()


@pytest.mark.parametrize("failing", ["silent", "away"])
@in_virtual_time
async def test_engine_that_does_not_remove_the_container_hides_no_error_of_the_block(
    tmp_path: Path, failing: str
) -> None:
    run = Run(tmp_path, stop_seconds=1000.0, stop_faults=[EngineUnavailable("stop", "no answer")])
    if failing == "silent":
        run.stop_faults = []
    with pytest.raises(ValueError, match="no place"):
        async with run.collecting():
            raise ValueError("no place")
    assert run.calls == ["stopped with 0"]
    assert seconds() == (30.0 if failing == "silent" else 0.0)
    assert not run.output.exists()
