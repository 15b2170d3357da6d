"""Where engine.sh puts the control groups of bots, with the layouts of both versions recorded as plain files.

Only the paths and the written values are tested: a plain file accepts what the kernel may refuse.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.manifests import KUBERNETES

SCRIPT = KUBERNETES / "base" / "service" / "engine.sh"
LIMIT_MB = 2048
ENGINE_NEEDS_MB = 512
BOTS_BYTES = str((LIMIT_MB - ENGINE_NEEDS_MB) * 1024 * 1024)
POD = "/kubepods.slice/kubepods-pod7c1.slice/cri-containerd-0a.scope"


@dataclass(frozen=True)
class Layout:
    """What a process sees in /proc/self, with CGROUP for /sys/fs/cgroup, and the resulting paths below that."""

    mounts: str
    groups: str
    own: str
    parent: str


UNIFIED = "35 25 0:31 {root} CGROUP rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
UNIFIED_LAYOUTS = {
    "own-namespace": Layout(UNIFIED.format(root="/"), "0::/\n", "", "/bots"),
    "privileged": Layout(UNIFIED.format(root="/"), f"0::{POD}\n", POD, f"{POD}/bots"),
    "mounted-at-its-group": Layout(UNIFIED.format(root=POD), f"0::{POD}\n", "", "/bots"),
    "mounted-at-a-parent": Layout(UNIFIED.format(root=POD), f"0::{POD}/inner\n", "/inner", "/inner/bots"),
    "begins-like-its-mount": Layout(UNIFIED.format(root=POD), f"0::{POD}-other\n", "", "/bots"),
    "mounted-twice": Layout(UNIFIED.format(root="/") + UNIFIED.format(root=POD), f"0::{POD}\n", "", "/bots"),
}

LEGACY = (
    "34 25 0:30 {root} CGROUP/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
    "36 25 0:32 {root} CGROUP/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
)
LEGACY_LAYOUTS = {
    "privileged": Layout(LEGACY.format(root="/"), f"8:memory:{POD}\n4:cpu,cpuacct:{POD}\n0::/\n", POD, f"{POD}/bots"),
    "mounted-at-its-group": Layout(
        LEGACY.format(root=POD), f"8:memory:{POD}\n4:cpu,cpuacct:{POD}\n0::/\n", "", "/bots"
    ),
}


def run(folder: Path, layout: Layout) -> str:
    """Run the script on the layout in *folder*, and return the arguments that the daemon was started with."""
    self, groups, programs = folder / "self", folder / "cgroup", folder / "programs"
    for path in (self, programs):
        path.mkdir()
    (self / "mountinfo").write_text(layout.mounts.replace("CGROUP", str(groups)))
    (self / "cgroup").write_text(layout.groups)
    daemon = programs / "dockerd-entrypoint.sh"
    daemon.write_text('#!/bin/sh\necho "$@"\n')
    daemon.chmod(0o755)
    text = SCRIPT.read_text().replace("/proc/self", str(self)).replace("/sys/fs/cgroup", str(groups))
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "ENGINE_LIMIT_MB": str(LIMIT_MB)}
    process = subprocess.run(
        ["sh", "-s", "dockerd"], input=text, env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    return process.stdout.strip()


@pytest.mark.parametrize("layout", UNIFIED_LAYOUTS.values(), ids=UNIFIED_LAYOUTS.keys())
def test_bots_have_a_limited_group_below_that_of_the_engine_in_version_2(layout: Layout, tmp_path: Path) -> None:
    own = tmp_path / "cgroup" / layout.own.lstrip("/")
    bots = own / "bots"
    bots.mkdir(parents=True)
    (tmp_path / "cgroup" / "cgroup.controllers").write_text("cpu memory\n")
    (own / "cgroup.controllers").write_text("memory\n")
    (own / "cgroup.procs").write_text("")

    arguments = run(tmp_path, layout)

    assert arguments == f"dockerd --cgroup-parent={layout.parent}"
    assert (bots / "memory.max").read_text().strip() == BOTS_BYTES
    assert (bots / "memory.oom.group").read_text().strip() == "0"
    assert (own / "engine" / "cpu.weight").read_text().strip() == "1000"
    assert (own / "cgroup.subtree_control").read_text().strip() == "+memory"


@pytest.mark.parametrize("layout", LEGACY_LAYOUTS.values(), ids=LEGACY_LAYOUTS.keys())
def test_bots_have_a_limited_group_below_that_of_the_engine_in_version_1(layout: Layout, tmp_path: Path) -> None:
    folders = {name: tmp_path / "cgroup" / name / layout.own.lstrip("/") for name in ("memory", "cpu,cpuacct")}
    for folder in folders.values():
        folder.mkdir(parents=True)

    arguments = run(tmp_path, layout)

    assert arguments == f"dockerd --cgroup-parent={layout.parent}"
    assert (folders["memory"] / "bots" / "memory.limit_in_bytes").read_text().strip() == BOTS_BYTES
    assert (folders["cpu,cpuacct"] / "bots" / "cpu.shares").read_text().strip() == "102"
