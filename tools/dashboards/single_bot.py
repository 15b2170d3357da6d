"""The dashboard of one bot, for which workers must be told to measure each one."""

from tools.dashboards.board import Board, Row, Variable
from tools.dashboards.panels import AnyPanel, Lines, Note, Number, Query
from tools.dashboards.queries import increase
from tools.dashboards.sections import traces

_BOT = 'id=~"$bot"'

_WORDS = """\
These figures are there only while the workers of bot-runner have `METRICS_PER_BOT=true`: each bot is then a few series
of its own in Prometheus, which thousands of bots would make too many.

**Its output** is not in Prometheus: `runtime bot logs -f ID` shows it as it is written, and the bucket of logs keeps it
as `logs/ID/YYYYMMDD.log`. **Why it ended** each time: its runs on the status page of the leading master.
"""


def single_bot() -> Board:
    """One bot: whether it runs, what it uses, how often it was begun again."""
    return Board(
        uid="the0-bot",
        title="the0 / One bot",
        description="What one bot uses and how often it was restarted. Needs METRICS_PER_BOT=true.",
        variables=[
            Variable("bot", "Bot", "The bot's id", "runtime_bot_up", "id", several=False),
        ],
        links=[traces("bot-runner", tags="runtime.id=$bot")],
        rows=[
            Row("What this shows", [Note("Where these figures come from, and the rest", _WORDS)]),
            Row("The bot", [*_now_and_use(), _restarts()]),
            Row("Its service", _service()),
        ],
    )


def _now_and_use() -> list[AnyPanel]:
    return [
        Number(
            "Runs",
            "1: its container runs. 0: it does not, and its worker knows why.",
            "none",
            Query(f"max(runtime_bot_up{{{_BOT}}})", "runs"),
            only_good=1,
            width=4,
            height=8,
        ),
        Lines(
            "Processor",
            "How much of a processor it keeps busy; 1 is one whole.",
            "none",
            [Query(f"sum by (id) (rate(runtime_bot_cpu_seconds_total{{{_BOT}}}[$__rate_interval]))", "{{id}}")],
            (0.5, 1),
            width=7,
        ),
        Lines(
            "Memory",
            "What its container uses, files in /tmp included. At its limit (MEMORY_LIMIT_MB, or what its config asks "
            "for) the kernel ends it.",
            "bytes",
            [Query(f"sum by (id) (runtime_bot_memory_bytes{{{_BOT}}})", "{{id}}")],
            (256 * 1024**2, 480 * 1024**2),
            width=7,
        ),
    ]


def _restarts() -> AnyPanel:
    return Lines(
        "Restarts",
        "How often it was begun again, since it was created and within the last hour.",
        "none",
        [
            Query(f"sum by (id) (runtime_bot_restarts_total{{{_BOT}}})", "in all"),
            Query(increase("runtime_bot_restarts_total", _BOT, "id", "1h"), "last hour"),
        ],
        (1, 10),
        width=6,
    )


def _service() -> list[AnyPanel]:
    return [
        Lines(
            "Bots by state",
            "All bots, for comparison: whether this one is alone.",
            "none",
            [Query('sum by (state) (runtime_entities{service="bot-runner"})', "{{state}}")],
            stacked=True,
            width=12,
        ),
        Lines(
            "Where it runs",
            "The worker that has it. A change: its segment moved, and it was restarted or taken over.",
            "none",
            [Query(f"max by (instance) (runtime_bot_up{{{_BOT}}})", "{{instance}}")],
            stacked=True,
            width=12,
        ),
    ]
