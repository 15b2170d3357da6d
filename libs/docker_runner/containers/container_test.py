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
