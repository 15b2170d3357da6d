"""The clock by which leases end: seconds since the machine started, the time of a suspend included."""

import time
from pathlib import Path


def boot_seconds() -> float:
    """Return the seconds since the machine started. All processes of a host share this clock, and it cannot be set.

    ``time.monotonic()`` stands still while the machine is suspended, and a lease in MongoDB does not.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def this_boot() -> str:
    """Return the kernel's id of this start of the machine. The clock of another one cannot be compared."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
