"""`runtime bot`: commands for bots."""

from tools.cli.lazy import LazyCommand, LazyGroup

_COMMANDS = {
    "init": LazyCommand("tools.cli.bot_init", "init", "Write a folder to start from."),
    "check": LazyCommand("tools.cli.bot_check", "check", "Check a folder as a deploy does, without a server."),
    "run": LazyCommand("tools.cli.bot_run", "run", "Run a folder here in the foreground, without servers."),
    "deploy": LazyCommand(
        "tools.cli.bot_deploy", "deploy", "Upload a folder and run it as a bot, or update an existing bot."
    ),
    "config": LazyCommand("tools.cli.bot_config", "config", "Show or change the config of a bot."),
    "data": LazyCommand("tools.cli.bot_data", "data", "Upload, list and remove shared data sets."),
    "ls": LazyCommand("tools.cli.bot_ls", "ls", "List the bots with their states."),
    "show": LazyCommand("tools.cli.bot_show", "show_bot", "Show one bot: state, config, version, runs."),
    "metrics": LazyCommand("tools.cli.entity_metrics", "bot_metrics", "Show the metrics that a bot has printed."),
    "logs": LazyCommand("tools.cli.bot_logs", "logs", "Show a bot's output; -f follows it."),
    "query": LazyCommand("tools.cli.query", "bot_query", "Ask a bot a question, which its own code answers."),
    "state": LazyCommand("tools.cli.bot_state", "state", "Show and change the state that a bot keeps."),
    "rm": LazyCommand("tools.cli.bot_rm", "rm", "Remove a bot and stop its container."),
    "history": LazyCommand(
        "tools.cli.bot_history", "history", "Show a bot's revisions: what, when, by whom, how long."
    ),
    "rollback": LazyCommand("tools.cli.bot_rollback", "rollback", "Deploy an earlier revision of a bot again."),
    "restart": LazyCommand("tools.cli.bot_restart", "restart", "Restart bots gracefully, one after another."),
    "stop": LazyCommand("tools.cli.bot_holds", "stop", "Stop bots gracefully and keep them stopped."),
    "start": LazyCommand("tools.cli.bot_holds", "start", "Undo a stop."),
    "kill": LazyCommand("tools.cli.bot_holds", "kill", "Kill bots at once and keep them down."),
    "resume": LazyCommand("tools.cli.bot_holds", "resume", "Undo a kill."),
}
_HELP = """Deploy, list, follow, stop and remove bots.

Servers are taken from the environment (MONGO_URI, NATS_URL, MINIO_ENDPOINT and its keys), or else from the dev stack
started by `runtime dev up`.
"""

bot = LazyGroup("bot", _HELP, _COMMANDS)
