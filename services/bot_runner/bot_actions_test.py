"""What a bot's owner reads about its end."""

import pytest

from libs.docker_runner.containers.container import ContainerState, Ended, EndReason, from_labels
from libs.docker_runner.containers.failure import Failure, FailureReason
from services.bot_runner.bot_actions import describe_end, refused_note

RAISED = Failure(FailureReason.EXCEPTION, "no funds", "ValueError", "pay in")
REMEDY = "raise config.resources.memoryMb or MEMORY_LIMIT_MB"
EXITED = Failure(FailureReason.EXIT_CODE, "it ended with exit code 3")


@pytest.mark.parametrize(
    ("reason", "exit_code", "failure", "expected"),
    [
        (EndReason.FINISHED, 0, None, "main returned; a bot should keep running; its last line: last"),
        (EndReason.ERROR, 1, RAISED, "it ended with exit code 1: ValueError: no funds; pay in"),
        (EndReason.ERROR, 3, EXITED, "it ended with exit code 3; its last line: last"),
        (EndReason.KILLED, 137, None, "it was killed from outside (exit code 137); its last line: last"),
        (
            EndReason.OOM,
            137,
            None,
            f"out of memory: it used more than its 64 MiB; {REMEDY}; its last line: last",
        ),
    ],
)
def test_description_of_an_end_names_the_remedy(
    reason: EndReason, exit_code: int, failure: Failure | None, expected: str
) -> None:
    labels = {"runtime.memory-bytes": str(64 << 20)}
    container = from_labels(labels, container_id="c", name="n", state=ContainerState.EXITED)
    ended = Ended(container, exit_code, False, reason, None, None, last_lines=["first", "last", ""], failure=failure)

    assert describe_end(ended) == expected


def test_owner_reads_where_a_bot_was_refused_and_nothing_when_it_was_not() -> None:
    assert refused_note((), listed=True) == ""
    assert refused_note(["198.51.100.9:80", "[2001:db8::9]:443"], listed=True) == (
        "config.egress does not list where it tried to connect to: 198.51.100.9:80, [2001:db8::9]:443"
    )
    assert refused_note(["10.0.0.1:80"], listed=False) == "bots may not reach where it tried to connect to: 10.0.0.1:80"
