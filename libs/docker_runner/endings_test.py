"""Why a container ended, from what is known of it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from libs.docker_runner.container import ContainerState, Ended, EndReason, ManagedContainer, from_labels
from libs.docker_runner.endings import end_reason, result_of
from libs.docker_runner.executable import MIB
from libs.docker_runner.run_folders import Outcome


def container(exit_code: int | None, oom_killed: bool = False) -> ManagedContainer:
    return from_labels(
        {}, container_id="c", name="n", state=ContainerState.EXITED, exit_code=exit_code, oom_killed=oom_killed
    )


@pytest.mark.parametrize(
    ("exit_code", "oom_killed", "outcome", "stopped", "expected"),
    [
        (0, False, Outcome("exit", "result"), None, EndReason.FINISHED),
        (1, False, Outcome("exit", "error"), None, EndReason.ERROR),
        (3, False, Outcome("exit"), None, EndReason.ERROR),
        (137, True, Outcome("exit"), None, EndReason.OOM),
        (137, False, Outcome("exit", oom_kills=1), None, EndReason.OOM),
        (137, True, Outcome(), None, EndReason.OOM),
        (137, False, Outcome(), None, EndReason.KILLED),
        (143, False, Outcome("terminated"), None, EndReason.KILLED),
        (143, False, Outcome("terminated"), EndReason.STOPPED, EndReason.STOPPED),
        (0, False, Outcome("terminated", "result"), EndReason.STOPPED, EndReason.STOPPED),
        (137, False, Outcome(), EndReason.TIMEOUT, EndReason.TIMEOUT),
        (75, False, Outcome("lease-lost"), None, EndReason.LEASE_LOST),
        (75, False, Outcome(), None, EndReason.LEASE_LOST),
        (75, False, Outcome("lease-lost"), EndReason.STOPPED, EndReason.LEASE_LOST),
        (75, False, Outcome("exit"), None, EndReason.ERROR),
        # A grandchild was killed for its memory, and the bot went on.
        (0, True, Outcome("exit", "result", oom_kills=1), None, EndReason.FINISHED),
    ],
)
def test_the_reason(
    exit_code: int, oom_killed: bool, outcome: Outcome, stopped: EndReason | None, expected: EndReason
) -> None:
    assert end_reason(container(exit_code, oom_killed), outcome, stopped) is expected


def result(reason: EndReason, outcome: Outcome, exit_code: int = 0) -> tuple[object, str | None]:
    now = datetime.now(UTC)
    ended = Ended(container(exit_code), exit_code, False, reason, now, now)
    return result_of(ended, outcome, timeout_seconds=5, memory_bytes=64 * MIB)


@pytest.mark.parametrize(
    ("reason", "outcome", "expected"),
    [
        (EndReason.FINISHED, Outcome("exit", "result", b'{"a": 1}'), ({"a": 1}, None)),
        (EndReason.FINISHED, Outcome("exit", "result", b"null"), (None, None)),
        (EndReason.FINISHED, Outcome("exit"), (None, None)),
        (EndReason.FINISHED, Outcome("exit", "result", b"{"), (None, "its result is not JSON")),
        (EndReason.FINISHED, Outcome("exit", "result", b"[" * 100_000), (None, "its result is not JSON")),
        (EndReason.FINISHED, Outcome("exit", "result", too_large=True), (None, "its result is larger than the limit")),
        (EndReason.ERROR, Outcome("exit", "error", b'{"message": "no"}'), (None, "no")),
        (EndReason.ERROR, Outcome("exit", "error", b"[]"), (None, "main raised an error")),
        (EndReason.ERROR, Outcome("exit"), (None, "it ended with exit code 3")),
        (EndReason.TIMEOUT, Outcome(), (None, "timed out after 5 s")),
        (EndReason.OOM, Outcome(), (None, "out of memory: it may use 64 MiB")),
        (EndReason.STOPPED, Outcome("exit", "result", b"1"), (None, "it was stopped before it ended")),
    ],
)
def test_the_result_or_why_there_is_none(reason: EndReason, outcome: Outcome, expected: Any) -> None:
    assert result(reason, outcome, 3 if reason is EndReason.ERROR else 0) == expected
