"""The compiled programs."""

import pytest

from libs.docker_runner.sandbox.init import NoProgram, program

ELF_MACHINES = {"x86_64": 62, "AMD64": 62, "aarch64": 183, "arm64": 183}


@pytest.mark.parametrize(("machine", "number"), ELF_MACHINES.items())
def test_each_kind_of_machine_has_a_small_static_program(machine: str, number: int) -> None:
    content = program(machine)
    assert content[:5] == b"\x7fELF\x02"
    assert int.from_bytes(content[18:20], "little") == number
    # No interpreter: neither a loader nor a C library of the image is needed.
    offset, size, count = (
        int.from_bytes(content[32:40], "little"),
        int.from_bytes(content[54:56], "little"),
        int.from_bytes(content[56:58], "little"),
    )
    kinds = [int.from_bytes(content[offset + size * n :][:4], "little") for n in range(count)]
    assert 1 in kinds
    assert 3 not in kinds
    assert len(content) < 128 * 1024


def test_machine_without_a_program_is_reported_with_the_supported_ones() -> None:
    with pytest.raises(NoProgram, match=r"'riscv64', only for aarch64, amd64, arm64, x86_64"):
        program("riscv64")
