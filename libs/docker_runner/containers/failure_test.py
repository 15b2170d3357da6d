"""What is taken over from a supervisor's note about a failure."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.docker_runner.containers.failure import Failure, FailureReason, failure_from

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["reason", "type", "message", "hint"]), inner),
)


def test_a_note_becomes_a_failure() -> None:
    note = {"reason": "exception", "type": "ValueError", "message": "no", "hint": "try"}

    assert failure_from(note) == Failure(FailureReason.EXCEPTION, "no", "ValueError", "try")


@pytest.mark.parametrize("note", [None, [], "exception", 1, {}, {"reason": "nonsense"}, {"reason": ["exception"]}])
def test_nonsense_is_no_failure(note: object) -> None:
    assert failure_from(note) is None


def test_a_note_is_bounded_and_can_be_stored() -> None:
    # Half a character, as JSON can say it.
    note = {"reason": "exception", "type": "T" * 9999, "message": json.loads(r'"\ud800"') + "x" * 99999}
    failure = failure_from(note)

    assert failure is not None
    assert (len(failure.type), len(failure.message)) == (200, 2000)
    assert failure.message.startswith("?x")


@given(JSON)
def test_no_note_raises(note: object) -> None:
    failure = failure_from(note)

    assert failure is None or failure.sentence.encode()
