"""The dashboards of the three services: the service's own rows, then the shared ones."""

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
    """Build the dashboard of bots."""
    selector = _selector("bot-runner")
    own = Row(
        "Bots",
        [
            Lines(
                "Bots by state",
                "As the owners of their segments report them. Backing off: failed, starts again later. Rejected: the "
                "bot must be repaired. Disabled, killed: switched off by a user or an operator.",
                "none",
                [Query(f"sum by (state) (runtime_entities{{{selector}}})", "{{state}}")],
                stacked=True,
                width=9,
            ),
            Lines(
                "Restarts by reason",
                "Reasons for which the containers of restarted bots ended.",
                "cps",
                [Query(or_zero(rate("runtime_restarts_total", selector, "reason")), "{{reason}}")],
                (0.1, 1),
                width=9,
            ),
            Number(
                "Backing off or rejected",
                "Bots that should run but fail repeatedly or cannot be started.",
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
    return _board("bot-runner", "Bots", "Bots run continuously: which bots run, and why others do not.", own)


def backtest_runner() -> Board:
    """Build the dashboard of backtests."""
    selector = _selector("backtest-runner")
    own = Row(
        "Backtests",
        [
            Lines(
                "Queue",
                "Backtests that have not started, and all backtests of the workers' segments by state.",
                "none",
                [
                    Query(f"sum(runtime_backtest_queue_length{{{selector}}})", "queue"),
                    Query(f"sum by (state) (runtime_entities{{{selector}}})", "{{state}}"),
                ],
                width=6,
            ),
            Lines(
                "Age of the queue",
                "How long the oldest backtest that has not started has waited.",
                "s",
                [Query(f"max(runtime_backtest_queue_age_seconds{{{selector}}})", "oldest")],
                (60, 600),
                width=6,
            ),
            Lines(
                "Ended attempts by reason",
                "Finished: main returned. Error, oom, timeout: caused by the backtest. Lost, not-started: caused by "
                "the runtime; these are retried.",
                "cps",
                [Query(rate("runtime_backtest_runs_total", selector, "reason"), "{{reason}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Completion events",
                "Published events the0.backtest.completed, by outcome; events that fail remain in the outbox.",
                "cps",
                [Query(or_zero(rate("runtime_events_published_total", selector, "outcome")), "{{outcome}}")],
                width=6,
            ),
        ],
    )
    return _board("backtest-runner", "Backtests", "Backtests run once: queue and outcomes.", own)


def bot_scheduler() -> Board:
    """Build the dashboard of schedules."""
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
                "Time from a firing's due time to the start request for its container. Gaps mean that nothing was due.",
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
                "Finished: main returned. Error, oom, timeout: caused by the bot. Missing, not-started: caused by the "
                "runtime. Replaced: the next run was due and the schedule has overlap: replace.",
                "cps",
                [Query(rate("runtime_schedule_runs_total", selector, "reason"), "{{reason}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Firings without a run",
                "Skipped: the previous run was still active. Missed: no worker was available at the due time, and the "
                "schedule has misfire: skip or its grace period was over.",
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
    return _board("bot-scheduler", "Schedules", "Schedules run at their due times: punctuality and outcomes.", own)
