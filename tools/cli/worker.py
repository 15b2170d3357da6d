"""`runtime worker`: what an operator does with workers."""

from tools.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "ls": LazyCommand("tools.cli.worker_ls", "ls", "List the workers with their segments."),
    "cordon": LazyCommand("tools.cli.worker_cordon", "cordon", "Assign nothing new to workers."),
    "drain": LazyCommand("tools.cli.worker_drain", "drain", "Move the segments of workers to other workers."),
    "uncordon": LazyCommand("tools.cli.worker_cordon", "uncordon", "Undo a cordon or a drain."),
}
_HELP = """List workers, and take them out of use and back.

IDs are those that `runtime worker ls` shows. Where workers of several services have the same ID all of them are meant,
unless --service names one. A cordon outlives restarts of masters and of the worker under the same ID; that of a worker
which does not come back is forgotten after 7 days.
"""

worker = LazyGroup("worker", _HELP, _COMMANDS)
