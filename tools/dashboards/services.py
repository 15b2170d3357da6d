"""The dashboards of the three services: what each does, then what all have in common."""

from tools.dashboards import sections
from tools.dashboards.board import Board, Row
from tools.dashboards.panels import Lines, Number, Query
from tools.dashboards.queries import increase, or_zero, quantile, rate


def _selector(service: str) -> str:
    return f'service="{service}", instance=~"$instance"'


def _board(service: str, title: str, description: str, own: Row) -> Board:
    selector = _selector(service)
    return Board(
        uid=f"the0-{service}",
        title=f"the0 / {title}",
        description=description,
        variables=[sections.instances(service)],
        links=[sections.traces(service)],
        rows=[
            own,
            sections.coordination(selector),
            sections.containers(selector),
            sections.events(selector, publishes=service == "backtest-runner"),
            sections.leases(selector),
            sections.dependencies(selector),
            sections.processes(selector),
        ],
    )


def bot_runner() -> Board:
    """Bots: which run, which do not, and why."""
    selector = _selector("bot-runner")
    own = Row(
        "Bots",
        [
            Lines(
                "Bots by state",
                "As their owners' workers see them. Backing off: it died and starts again by itself. Rejected: its "
                "owner must mend it. Disabled, killed: somebody wants it not to run.",
                "none",
                [Query(f"sum by (state) (runtime_entities{{{selector}}})", "{{state}}")],
                stacked=True,
                width=9,
            ),
            Lines(
                "Restarts by reason",
                "Why containers of bots ended that were begun again.",
                "cps",
                [Query(or_zero(rate("runtime_restarts_total", selector, "reason")), "{{reason}}")],
                (0.1, 1),
                width=9,
            ),
            Number(
                "Back off or rejected",
                "Bots that should run and do not: they die again and again, or cannot be started at all.",
                "none",
                Query(
                    f'sum(runtime_entities{{{selector}, state=~"backing-off|rejected"}}) '
                    f"or 0 * sum(runtime_containers{{{selector}}})",
                    "bots",
                ),
                (1, 10),
                width=6,
                height=8,
            ),
        ],
    )
    return _board("bot-runner", "Bots", "Bots run for ever: which do, and what ails the others.", own)


def backtest_runner() -> Board:
    """Backtests: the queue, and how runs end."""
    selector = _selector("backtest-runner")
    own = Row(
        "Backtests",
        [
            Lines(
                "Queue",
                "Backtests that nobody has begun yet, and all of the workers' segments by state.",
                "none",
                [
                    Query(f"sum(runtime_backtest_queue_length{{{selector}}})", "queue"),
                    Query(f"sum by (state) (runtime_entities{{{selector}}})", "{{state}}"),
                ],
                width=6,
            ),
            Lines(
                "Age of the queue",
                "For how long the oldest backtest that nobody has begun has waited.",
                "s",
                [Query(f"max(runtime_backtest_queue_age_seconds{{{selector}}})", "oldest")],
                (60, 600),
                width=6,
            ),
            Lines(
                "Ended attempts by reason",
                "Finished: main returned. Error, oom, timeout: the backtest's own fault. Lost, not-started: the "
                "runtime's; these are tried again.",
                "cps",
                [Query(rate("runtime_backtest_runs_total", selector, "reason"), "{{reason}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Completion events",
                "Events the0.backtest.completed that were published, by outcome; what fails waits in the outbox.",
                "cps",
                [Query(or_zero(rate("runtime_events_published_total", selector, "outcome")), "{{outcome}}")],
                width=6,
            ),
        ],
    )
    return _board("backtest-runner", "Backtests", "Backtests run once: how many wait, and how they end.", own)


def bot_scheduler() -> Board:
    """Schedules: whether they are on time, and how runs end."""
    selector = _selector("bot-scheduler")
    lateness = "runtime_schedule_lateness_seconds"
    own = Row(
        "Schedules",
        [
            Lines(
                "Schedules by state",
                "All schedules of the workers' segments.",
                "none",
                [Query(f"sum by (state) (runtime_entities{{{selector}}})", "{{state}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Lateness",
                "How long after its due time the container of a run was asked for. A gap: nothing was due.",
                "s",
                [
                    Query(quantile(0.5, lateness, selector), "median"),
                    Query(quantile(0.99, lateness, selector), "p99"),
                ],
                (0.05, 1),
                width=6,
            ),
            Lines(
                "Ended attempts by reason",
                "Finished: main returned. Error, oom, timeout: the bot's own fault. Missing, not-started: the "
                "runtime's. Replaced: the next run was due and its schedule says overlap: replace.",
                "cps",
                [Query(rate("runtime_schedule_runs_total", selector, "reason"), "{{reason}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Firings without a run",
                "Skipped: the run before was still going on. Missed: nobody was there when it was due, and its "
                "schedule says misfire: skip or its grace was over.",
                "none",
                [
                    Query(
                        or_zero(increase("runtime_schedule_firings_dropped_total", selector, "reason")),
                        "{{reason}}",
                    )
                ],
                (1, 10),
                width=6,
            ),
        ],
    )
    return _board("bot-scheduler", "Schedules", "Schedules run when they are due: whether on time, and how.", own)
