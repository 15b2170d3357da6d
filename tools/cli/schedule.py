"""`runtime schedule`: what a person does with schedules."""

from tools.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "next": LazyCommand("tools.cli.schedule_next", "next_times", "Explain an expression, and show when it fires."),
    "deploy": LazyCommand(
        "tools.cli.schedule_deploy", "deploy", "Upload a folder and run it on a schedule, or bring one to its version."
    ),
    "config": LazyCommand("tools.cli.schedule_config", "config", "Show or change the config of a schedule."),
    "ls": LazyCommand("tools.cli.schedule_ls", "ls", "List the schedules with their next and last runs."),
    "history": LazyCommand(
        "tools.cli.schedule_history", "history", "Show a schedule's runs, and where their logs are."
    ),
    "logs": LazyCommand("tools.cli.schedule_logs", "logs", "Show what a schedule's runs printed, and with -f go on."),
    "trigger": LazyCommand("tools.cli.schedule_control", "trigger", "Run a schedule once, now."),
    "pause": LazyCommand("tools.cli.schedule_control", "pause", "Let a schedule fire no more, until `resume`."),
    "resume": LazyCommand("tools.cli.schedule_control", "resume", "Undo a pause."),
    "rm": LazyCommand("tools.cli.schedule_control", "rm", "Remove a schedule; its run is stopped."),
}
_HELP = """Deploy, list, follow, trigger, pause and remove schedules. Times are shown in this machine's zone.

Servers are found by the environment (MONGO_URI, NATS_URL, MINIO_ENDPOINT and its keys), or else in the dev stack that
`runtime dev up` started.
"""

schedule = LazyGroup("schedule", _HELP, _COMMANDS)
