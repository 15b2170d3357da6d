"""`runtime worker`: commands for operators of workers."""

from tools.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "ls": LazyCommand("tools.cli.worker_ls", "ls", "List the workers with their segments."),
    "cordon": LazyCommand("tools.cli.worker_cordon", "cordon", "Assign nothing new to workers."),
    "drain": LazyCommand("tools.cli.worker_drain", "drain", "Move the segments of workers to other workers."),
    "uncordon": LazyCommand("tools.cli.worker_cordon", "uncordon", "Undo a cordon or a drain."),
}
_HELP = """List workers, and take them out of service and back.

IDs are shown by `runtime worker ls`. If workers of several services have the same ID, all of them are selected,
unless --service names one. A cordon survives restarts of masters and of the worker under the same ID; the cordon of a
worker that does not return is removed after 7 days.
"""

worker = LazyGroup("worker", _HELP, _COMMANDS)
