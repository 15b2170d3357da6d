"""The dashboard of one bot. Requires workers that measure each bot (METRICS_PER_BOT, METRICS_BOT_VALUES)."""

from tools.dashboards.board import Board, Row, Variable
from tools.dashboards.panels import AnyPanel, Lines, Note, Number, Query
from tools.dashboards.queries import increase
from tools.dashboards.sections import traces

_BOT = 'id=~"$bot"'

_WORDS = """\
These figures exist only while the workers of bot-runner have `METRICS_PER_BOT=true`: each bot then adds several series
to Prometheus, which is too many with thousands of bots. The metrics that a bot prints need `METRICS_BOT_VALUES=true`;
the status page, `runtime bot metrics ID` and the API show them in any case.

**Its output** is not in Prometheus: `runtime bot logs -f ID` follows it, and the logs bucket stores it
as `logs/ID/YYYYMMDD.log`. **The reason of each end** is in the list of runs on the status page of the leading master.
"""


def single_bot() -> Board:
    """Build the dashboard of one bot."""
    return Board(
        uid="the0-bot",
        title="the0 / One bot",
        description="Resources and restarts of one bot. Requires METRICS_PER_BOT=true.",
        variables=[
            Variable("bot", "Bot", "The bot's id", "runtime_bot_up", "id", several=False),
        ],
        links=[traces("bot-runner", tags="runtime.id=$bot")],
        rows=[
            Row("What this shows", [Note("Source of these figures", _WORDS)]),
            Row("The bot", [*_now_and_use(), _restarts()]),
            Row("What it prints", [_printed()]),
            Row("Its service", _service()),
        ],
    )


def _now_and_use() -> list[AnyPanel]:
    return [
        Number(
            "Runs",
            "1: the container runs. 0: it does not; the bot's status gives the reason.",
            "none",
            Query(f"max(runtime_bot_up{{{_BOT}}})", "runs"),
            only_good=1,
            width=4,
            height=8,
        ),
        Lines(
            "Processor",
            "Processors that the bot uses; 1 is one whole processor.",
            "none",
            [Query(f"sum by (id) (rate(runtime_bot_cpu_seconds_total{{{_BOT}}}[$__rate_interval]))", "{{id}}")],
            (0.5, 1),
            width=7,
        ),
        Lines(
            "Memory",
            "Memory that the container uses, files in /tmp included. At its limit (MEMORY_LIMIT_MB, or the limit in "
            "the bot's config) the kernel kills it.",
            "bytes",
            [Query(f"sum by (id) (runtime_bot_memory_bytes{{{_BOT}}})", "{{id}}")],
            (256 * 1024**2, 480 * 1024**2),
            width=7,
        ),
    ]


def _restarts() -> AnyPanel:
    return Lines(
        "Restarts",
        "Restarts since the bot was created and within the last hour.",
        "none",
        [
            Query(f"sum by (id) (runtime_bot_restarts_total{{{_BOT}}})", "in all"),
            Query(increase("runtime_bot_restarts_total", _BOT, "id", "1h"), "last hour"),
        ],
        (1, 10),
        width=6,
    )


def _printed() -> AnyPanel:
    return Lines(
        "Metrics of the bot",
        "Latest values of the metrics that the bot prints: lines of output with the field `_metric`.",
        "none",
        [Query('max by (metric) (runtime_bot_value{bot=~"$bot"})', "{{metric}}")],
        from_zero=False,
        width=24,
    )


def _service() -> list[AnyPanel]:
    return [
        Lines(
            "Bots by state",
            "All bots, for comparison with this one.",
            "none",
            [Query('sum by (state) (runtime_entities{service="bot-runner"})', "{{state}}")],
            stacked=True,
            width=12,
        ),
        Lines(
            "Where it runs",
            "The worker that runs the bot. A change: its segment moved, and the bot was restarted or taken over.",
            "none",
            [Query(f"max by (instance) (runtime_bot_up{{{_BOT}}})", "{{instance}}")],
            stacked=True,
            width=12,
        ),
    ]
