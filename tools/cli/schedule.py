"""`runtime schedule`: commands for schedules."""

from tools.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "next": LazyCommand("tools.cli.schedule_next", "next_times", "Explain a cron expression and list its next times."),
    "run": LazyCommand("tools.cli.bot_run", "run_schedule", "Run a folder here, once and now, without servers."),
    "deploy": LazyCommand(
        "tools.cli.schedule_deploy",
        "deploy",
        "Upload a folder and run it on a schedule, or update an existing schedule.",
    ),
    "config": LazyCommand("tools.cli.schedule_config", "config", "Show or change the config of a schedule."),
    "ls": LazyCommand("tools.cli.schedule_ls", "ls", "List the schedules with their next and last runs."),
    "history": LazyCommand(
        "tools.cli.schedule_history", "history", "List a schedule's runs, with the location of their logs."
    ),
    "logs": LazyCommand("tools.cli.schedule_logs", "logs", "Show the output of a schedule's runs; -f follows it."),
    "query": LazyCommand("tools.cli.query", "schedule_query", "Ask a schedule a question, which its own code answers."),
    "metrics": LazyCommand(
        "tools.cli.entity_metrics", "schedule_metrics", "Show the metrics that a schedule's runs have printed."
    ),
    "trigger": LazyCommand("tools.cli.schedule_control", "trigger", "Run a schedule once, now."),
    "pause": LazyCommand("tools.cli.schedule_control", "pause", "Suspend a schedule until `resume`."),
    "resume": LazyCommand("tools.cli.schedule_control", "resume", "Undo a pause."),
    "state": LazyCommand("tools.cli.schedule_state", "state", "Show and change the state that a schedule keeps."),
    "rm": LazyCommand("tools.cli.schedule_control", "rm", "Remove a schedule and stop its run."),
}
_HELP = """Deploy, list, follow, trigger, pause and remove schedules. Times are shown in this machine's zone.

Servers are taken from the environment (MONGO_URI, NATS_URL, MINIO_ENDPOINT and its keys), or else from the dev stack
started by `runtime dev up`.
"""

schedule = LazyGroup("schedule", _HELP, _COMMANDS)
