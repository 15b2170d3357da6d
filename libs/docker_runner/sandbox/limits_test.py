"""What a bot may ask for."""

from typing import Any

import pytest

from libs.core.room import MIB
from libs.docker_runner.errors import LimitsRejected
from libs.docker_runner.executable import Limits
from libs.docker_runner.sandbox.limits import Maxima, limits_for

DEFAULTS = Limits()
MAXIMA = Maxima()


def test_a_bot_that_asks_for_nothing_gets_the_defaults() -> None:
    assert limits_for({}, DEFAULTS, MAXIMA) == DEFAULTS


def test_every_field_is_taken() -> None:
    resources = {"memoryMb": 256, "cpuShares": 512, "cpus": 0.5, "pids": 64, "tmpMb": 32, "openFiles": 128}
    limits = limits_for({"resources": resources}, DEFAULTS, MAXIMA)
    assert limits == Limits(256 * MIB, 512, 0.5, 64, 32 * MIB, 128)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memoryMb", 4096),
        ("memoryMb", 1),
        ("memoryMb", "256m"),
        ("memoryMb", True),
        ("memoryMb", float("nan")),
        ("memoryMb", 100.5),
        ("cpus", 0),
        ("cpus", 64),
        ("pids", 100000),
        ("disk", 1),
    ],
)
def test_value_that_is_no_number_or_too_large_is_reported_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(LimitsRejected, match=field):
        limits_for({"resources": {field: value}}, DEFAULTS, MAXIMA)


def test_resources_that_are_no_object_are_reported() -> None:
    with pytest.raises(LimitsRejected, match="object"):
        limits_for({"resources": [1]}, DEFAULTS, MAXIMA)


def test_tmp_leaves_half_of_the_memory() -> None:
    limits = limits_for({"resources": {"memoryMb": 64, "tmpMb": 512}}, DEFAULTS, MAXIMA)
    assert limits.tmp_bytes == 32 * MIB


def test_a_default_above_the_maximum_is_the_operators_will() -> None:
    assert limits_for({}, Limits(memory_bytes=8192 * MIB), MAXIMA).memory_bytes == 8192 * MIB
