"""What labels say, also those of containers that another program made."""

import pytest

from libs.docker_runner.containers.container import ContainerState, Label, from_labels


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("7", 7),
        (str((1 << 63) - 1), (1 << 63) - 1),
        (str(1 << 63), -1),
        (str(-(1 << 63) - 1), -1),
        ("9" * 100, -1),
        ("9" * 100_000, -1),
        ("x", -1),
        ("", -1),
    ],
)
def test_a_number_that_the_database_cannot_hold_is_none(text: str, segment: int) -> None:
    found = from_labels({Label.SEGMENT: text}, container_id="c", name="n", state=ContainerState.RUNNING)

    assert found.segment == segment


@pytest.mark.parametrize(
    ("name", "is_standby", "reservation"),
    [("bot-standby", True, "bot-standby"), ("bot", False, "bot"), ("", False, "bot")],
    ids=["waits", "renamed", "without a name"],
)
def test_standby_is_told_by_its_name_and_has_that_of_its_bot(name: str, is_standby: bool, reservation: str) -> None:
    found = from_labels({Label.STANDBY: "bot"}, container_id="c", name=name, state=ContainerState.RUNNING)

    assert (found.name, found.is_standby, found.was_standby) == ("bot", is_standby, True)
    assert found.reservation == reservation


def test_other_container_with_such_a_name_is_no_standby() -> None:
    found = from_labels({}, container_id="c", name="bot-standby", state=ContainerState.RUNNING)

    assert (found.name, found.is_standby, found.was_standby) == ("bot-standby", False, False)
