"""The control groups that hold the cluster's pods: made before the kubelets start, removed after they have ended."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.layout import GROUP, NODES, SYSTEM_GROUP

_PROCESSES = 16
"""How many processes of the machine all pods and the cluster's own programs together count for when its processors are
busy. By default it is one, and beside a build they would get almost no time."""
_WEIGHTS = {"cpu.shares": 1024, "cpu.weight": 100}
"""Of one process, in each version of control groups."""
_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


def make_groups() -> None:
    """Make a group for each node in every hierarchy. May be repeated."""
    for root in _hierarchies():
        for path in (root / GROUP, *(root / GROUP / node for node in NODES)):
            path.mkdir(exist_ok=True)
            # In version 1, a group without processors and memory nodes takes no process.
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (path / name).exists() and not (root / "cgroup.controllers").exists():
                    (path / name).write_text((path.parent / name).read_text())
        if (root / "cgroup.controllers").exists():
            for path in (root, root / GROUP, *(root / GROUP / node for node in NODES)):
                for controller in _V2_CONTROLLERS:
                    with contextlib.suppress(OSError):  # not on this machine, or in another hierarchy
                        (path / "cgroup.subtree_control").write_text(f"+{controller}")
        for name, of_one in _WEIGHTS.items():
            if (weight := root / GROUP / name).exists():
                weight.write_text(str(of_one * _PROCESSES))
                (root / GROUP / SYSTEM_GROUP).mkdir(exist_ok=True)


def in_system_group(command: Sequence[str]) -> list[str]:
    """Return the command that runs *command* in the group of the cluster's own programs. Make the groups before."""
    groups = [root / GROUP / SYSTEM_GROUP for root in _hierarchies()]
    files = [str(group / "cgroup.procs") for group in groups if group.exists()]
    join = " && ".join([*(f"echo 0 > {file}" for file in files), 'exec "$@"'])
    return ["sh", "-c", join, "sh", *command]


def remove_groups() -> bool:
    """Remove the groups, and return whether none is left. A group is busy until its processes are reaped."""
    left = False
    for root in _hierarchies():
        top = root / GROUP
        if not top.exists():
            continue
        folders = [path for path in top.rglob("*") if path.is_dir()]
        for path in [*sorted(folders, key=lambda path: len(path.parts), reverse=True), top]:
            try:
                path.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                left = True
    return not left


def _hierarchies() -> list[Path]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        root, target = fields.split()[3:5]
        if rest.split()[0] in ("cgroup", "cgroup2") and root == "/":
            found.append(Path(target))
    return found
