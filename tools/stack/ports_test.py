"""Concurrent requests for a free port get different ports."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tools.stack.ports import free_port, is_free


@pytest.mark.parametrize("content", [b"", b"a port", b"-1\n", b"\xff\x00", b"9" * 5000])
def test_corrupt_counter_is_reset(tmp_path: Path, content: bytes) -> None:
    counter = tmp_path / f"the0-ports-{os.getuid()}"
    counter.write_bytes(content)
    program = "from tools.stack.ports import free_port\nprint(free_port(), free_port())"
    environment = {"PYTHONPATH": ":".join(part for part in sys.path if part), "TMPDIR": str(tmp_path)}
    asked = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    first, second = map(int, asked.stdout.split())
    assert 15_000 <= first < second <= 29_999


def test_processes_that_ask_at_once_are_given_different_ports() -> None:
    program = "from tools.stack.ports import free_port\nfor _ in range(200): print(free_port())"
    path = ":".join(part for part in sys.path if part)
    asking = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", program], env={"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    given = [int(port) for process in asking for port in process.communicate()[0].split()]

    assert len(set(given)) == len(given) == 600


def test_port_with_listener_is_not_free() -> None:
    port = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        taken = not is_free(port)

    assert (taken, is_free(port)) == (True, True)
