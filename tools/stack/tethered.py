"""Run a command that dies with the process that started it: `python tethered.py PARENT_PID COMMAND...`.

A killed test run must leave no server behind. Only the child itself can request a signal at the parent's death,
and doing that between fork and exec in a threaded Python may deadlock; so this file does it and then
becomes the command. Run by path with `-I -S`, it starts in a few milliseconds. On other systems than Linux it only
becomes the command.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become the command, bound to the parent. Does not return."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the command is the caller's


if __name__ == "__main__":
    main(sys.argv[1:])
