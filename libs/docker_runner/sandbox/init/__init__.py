"""The first process of each container, as a static program for each kind of machine; main.c describes it."""

import base64
import zlib
from importlib.util import find_spec
from pathlib import Path

# As `uname -m` says, or Python on macOS, where the engine's virtual machine is of the same kind.
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class NoProgram(RuntimeError):
    """Containers cannot be started from a machine of this kind."""

    def __init__(self, machine: str) -> None:
        known = ", ".join(sorted(_MACHINES))
        super().__init__(f"no first process of containers was built for a machine {machine!r}, only for {known}")
        self.machine = machine


def programs_file() -> Path:
    """Return the generated module that holds the programs."""
    found = find_spec("the0_init_programs")
    if found is None or found.origin is None:
        raise FileNotFoundError("the init of containers is not compiled; run ./runtime, which compiles it")
    return Path(found.origin).resolve()


def program(machine: str) -> bytes:
    """Return the program for *machine*, which is named as by ``platform.machine()``.

    Raises:
        NoProgram: there is none for such a machine.
    """
    # A generated module; it is large, and needed once in the life of a worker.
    from the0_init_programs import PROGRAMS  # pants: no-infer-dep

    known = _MACHINES.get(machine.lower())
    if known is None:
        raise NoProgram(machine)
    return zlib.decompress(base64.b85decode(PROGRAMS[known]))
