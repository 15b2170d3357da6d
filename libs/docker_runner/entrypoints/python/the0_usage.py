"""What a container uses, as its own control group and network cards count it from inside."""


def measured() -> dict[str, str]:
    """What the kernel counted for the whole container; ``null`` where it does not say. Control groups v1, then v2."""
    group, memory = "/sys/fs/cgroup/", "/sys/fs/cgroup/memory/"
    received, sent = traffic()
    return {
        "cpu_seconds": first(
            number_in(group + "cpuacct/cpuacct.usage", scale=1e-9), number_in(group + "cpu.stat", "usage_usec", 1e-6)
        ),
        "memory_bytes": first(number_in(memory + "memory.usage_in_bytes"), number_in(group + "memory.current")),
        "inactive_bytes": first(
            number_in(memory + "memory.stat", "total_inactive_file"), number_in(group + "memory.stat", "inactive_file")
        ),
        "peak_memory_bytes": first(number_in(memory + "memory.max_usage_in_bytes"), number_in(group + "memory.peak")),
        "memory_limit_bytes": first(number_in(memory + "memory.limit_in_bytes"), number_in(group + "memory.max")),
        "oom_kills": first(
            number_in(memory + "memory.oom_control", "oom_kill"), number_in(group + "memory.events", "oom_kill")
        ),
        "pids": first(number_in(group + "pids/pids.current"), number_in(group + "pids.current")),
        "received_bytes": received,
        "sent_bytes": sent,
    }


def first(*values: str) -> str:
    return next((value for value in values if value != "null"), "null")


def number_in(path: str, key: str | None = None, scale: float | None = None) -> str:
    try:
        lines = [line.split() for line in read(path).splitlines()]
        value = next(int(line[-1]) for line in lines if key is None or line[0] == key)
    except (OSError, ValueError, StopIteration, IndexError):
        return "null"
    return str(value) if scale is None else f"{value * scale:.6f}"


def traffic() -> tuple[str, str]:
    """Bytes in and out over all cards but the loopback."""
    received = sent = 0
    try:
        for line in read("/proc/net/dev").splitlines()[2:]:
            name, _, counts = line.partition(":")
            if name.strip() != "lo":
                received += int(counts.split()[0])
                sent += int(counts.split()[8])
    except (OSError, ValueError, IndexError):
        return "null", "null"
    return str(received), str(sent)


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
