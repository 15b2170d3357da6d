"""No two of those who ask for a free port at once are given the same."""

import socket
import subprocess
import sys

from tools.stack.ports import free_port, is_free


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


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    port = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        taken = not is_free(port)

    assert (taken, is_free(port)) == (True, True)
