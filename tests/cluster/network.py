"""Enter the network of the cluster of `tests/cluster/up`, where pods have their addresses."""

import ctypes
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.layout import API_ADDRESS, API_PORT, KUBECONFIG, PROCESS

_CLONE_NEWNET = 0x40000000


@contextmanager
def in_cluster_network(folder: Path) -> Iterator[Path]:
    """Have this thread, and those that it starts, in the cluster's network; yield a KUBECONFIG file for there."""
    process = json.loads(PROCESS.read_text())["pid"]
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    theirs = os.open(f"/proc/{process}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    kubeconfig = folder / "kubeconfig"
    server = f'"server": "https://{API_ADDRESS}:{API_PORT}"'
    kubeconfig.write_text(re.sub(r'"server": "[^"]*"', server, KUBECONFIG.read_text()))
    try:
        _enter(theirs)
        yield kubeconfig
    finally:
        _enter(own)
        os.close(theirs)
        os.close(own)


def _enter(namespace: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "the network cannot be entered")
