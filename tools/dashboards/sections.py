"""Rows that several dashboards share, for the processes that a selector chooses."""

import json

from tools.dashboards.board import Link, Row, Variable
from tools.dashboards.panels import Lines, Number, Query
from tools.dashboards.queries import OPERATIONS, increase, not_well, or_zero, quantile, rate, rate_or_zero, total

INSTANCES = "{{role}} {{instance}}"


def instances(service: str) -> Variable:
    """Return the variable that selects processes of one service."""
    return Variable(
        "instance",
        "Process",
        "Masters and workers of this service",
        f'runtime_process_info{{service="{service}"}}',
        "instance",
    )


def traces(service: str = "", tags: str = "") -> Link:
    """Return a link to the traces of one service, or of all; *tags* as `name=value`, may contain variables."""
    query = {"refId": "A", "datasource": {"type": "jaeger", "uid": "jaeger"}, "queryType": "search"}
    query |= {name: value for name, value in (("service", service), ("tags", tags)) if value}
    pane = {"a": {"datasource": "jaeger", "queries": [query], "range": {"from": "now-1h", "to": "now"}}}
    text = json.dumps(pane, separators=(",", ":"))
    return Link("Traces", f"/explore?schemaVersion=1&orgId=1&panes={text}", "Spans of these processes, in Jaeger")


def coordination(selector: str) -> Row:
    """Return the row of leaders, workers and waiting segments."""
    return Row(
        "Masters, workers, segments",
        [
            Number(
                "Leader",
                "Leading masters. 0: no master assigns segments or detects dead workers; running containers continue. "
                "More than 1: two masters consider themselves leader, for at most the life of a lease.",
                "none",
                Query(total("runtime_master_leading", selector), "leading"),
                only_good=1,
                height=8,
            ),
            Number(
                "Workers",
                "Workers connected to the leading master.",
                "none",
                Query(total("runtime_workers", selector), "workers"),
                (1,),
                lower_is_bad=True,
                height=8,
            ),
            Number(
                "Longest wait",
                "How long the longest-waiting segment with entities has had no worker. Its entities do not run.",
                "s",
                Query(f"max(runtime_segment_wait_seconds{{{selector}}})", "wait"),
                (10, 60),
                height=8,
            ),
            Lines(
                "Workers by state",
                "Owning: owns or is assigned a segment. Standby: owns none. Draining: stops after its segments moved.",
                "none",
                [Query(total("runtime_workers", selector, "state"), "{{state}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Segments by state",
                "Segments with entities. Owned: a worker holds the lease. Assigned: a worker should acquire the lease. "
                "Waiting: no worker has room.",
                "none",
                [
                    Query(total("runtime_segments", selector, "state"), "{{state}}"),
                    Query(f"max(runtime_segments_max{{{selector}}})", "sized for"),
                ],
                width=6,
            ),
        ],
    )


def events(selector: str, *, publishes: bool = False) -> Row:
    """Return the row of events: from the stream to MongoDB, and the outbox of a service that *publishes*."""
    outbox = [Query(f"max(runtime_outbox_events{{{selector}}})", "outbox")] if publishes else []
    return Row(
        "Events",
        [
            Lines(
                "Events by outcome",
                "Events that workers received from the stream. Retried events are delivered again; dead-lettered "
                "events need a decision (`runtime dlq ls`).",
                "cps",
                [Query(rate("runtime_events_total", selector, "outcome"), "{{outcome}}")],
                stacked=True,
            ),
            Lines(
                "Event lag",
                "Time from publishing an event until MongoDB has it.",
                "s",
                [
                    Query(quantile(0.5, "runtime_event_seconds", selector), "median"),
                    Query(quantile(0.99, "runtime_event_seconds", selector), "p99"),
                ],
                (1, 10),
            ),
            Lines(
                "Backlog",
                "Events received but not yet applied, the runtime's own events to be published, and dead letters. "
                "All but the dead letters return to 0 without intervention.",
                "none",
                [
                    Query(total("runtime_events_in_hand", selector), "in hand"),
                    *outbox,
                    Query(f"max(runtime_dead_letter_messages{{{selector}}})", "dead letters"),
                ],
                (1, 1000),
            ),
        ],
    )


def dependencies(selector: str) -> Row:
    """Return the row with rate, errors and duration of operations on other systems."""
    return Row(
        "Operations on other systems and internal loops",
        [
            Lines(
                "Operations",
                "Commands to MongoDB, requests to NATS, S3, the Docker engine and Kubernetes, gRPC and HTTP calls, "
                "lease renewals and rounds of internal loops.",
                "ops",
                [Query(rate(f"{OPERATIONS}_count", selector, "system"), "{{system}}")],
                width=6,
            ),
            Lines(
                "Failed operations",
                "Operations that ended with an error, without cancelled and refused ones.",
                "ops",
                [
                    Query(
                        rate_or_zero(f"{OPERATIONS}_count", selector, 'outcome="error"', "system"),
                        "{{system}}",
                    )
                ],
                (0.1, 1),
                width=6,
            ),
            Lines(
                "Duration, p95",
                "95 % of a system's operations were at most this long. gRPC is excluded: its calls last as long as a "
                "worker is connected. Gaps mean that there were none.",
                "s",
                [Query(quantile(0.95, OPERATIONS, f'{selector}, system!="grpc"', "system"), "{{system}}")],
                (1, 10),
                width=6,
            ),
            Lines(
                "Dependencies not ready",
                "Processes whose /readyz reports a problem. Standby masters report the leadership as a problem for "
                "10 s after another master took it, which is expected.",
                "none",
                [Query(not_well(selector, "dependency"), "{{dependency}}")],
                (1,),
                width=6,
            ),
        ],
    )


def containers(selector: str) -> Row:
    """Return the row of the resources that containers use."""
    return Row(
        "Containers",
        [
            Lines(
                "Running",
                "Running containers, by worker.",
                "none",
                [Query(total("runtime_containers", selector, "instance"), "{{instance}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Processors",
                "Processors that the containers use, by worker.",
                "none",
                [Query(rate("runtime_containers_cpu_seconds_total", selector, "instance"), "{{instance}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Memory",
                "Memory that the containers use, and their limit, at which the kernel kills one.",
                "bytes",
                [
                    Query(total("runtime_containers_memory_bytes", selector), "used"),
                    Query(total("runtime_containers_memory_limit_bytes", selector), "limit"),
                ],
                width=6,
            ),
            *_output(selector),
            Lines(
                "Saves of state",
                "Saves of the state of bots and schedules, by how they ended, each second. Refused: it is no state, or "
                "too large. Superseded: a later run continues it.",
                "cps",
                [Query(rate("runtime_state_saves_total", selector, "outcome"), "{{outcome}}")],
                width=12,
            ),
            Lines(
                "Unsaved state",
                "How long the state has waited that could not be saved and exists only on the worker's machine.",
                "s",
                [Query(f"max by (instance) (runtime_state_unsaved_seconds{{{selector}}})", "{{instance}}")],
                (30, 60),
                width=12,
            ),
            Lines(
                "Free memory on the engines",
                "Memory available for the limits of further containers, by worker; workers of one engine report the "
                "same value. An entity that does not fit waits.",
                "bytes",
                [
                    Query(
                        f'sum by (instance) (runtime_engine_room_memory_bytes{{{selector}, part="free"}})',
                        "{{instance}}",
                    )
                ],
                width=8,
            ),
            Lines(
                "Free processors on the engines",
                "Processors available for the limits of further containers; only containers with such a limit need "
                "any.",
                "none",
                [Query(total("runtime_engine_room_cpus", f'{selector}, part="free"', "instance"), "{{instance}}")],
                width=8,
            ),
            Lines(
                "Waiting for room",
                "Bots, backtests or firings that wait because the engine has too little room for their limits.",
                "none",
                [Query(total("runtime_waiting_for_room", selector, "instance"), "{{instance}}")],
                (1,),
                stacked=True,
                width=8,
            ),
        ],
    )


def _output(selector: str) -> list[Lines]:
    return [
        Lines(
            "Output not uploaded yet",
            "Output of containers that exists only on the workers' disks. It is uploaded every 30 s and when "
            "a container ends; output that a full spool dropped is lost.",
            "bytes",
            [
                Query(total("runtime_logs_pending_bytes", selector), "waiting"),
                Query(increase("runtime_logs_dropped_bytes_total", selector), "dropped"),
            ],
            (16 * 1024**2, 64 * 1024**2),
            width=6,
        ),
        Lines(
            "Output uploaded",
            "Output of containers that was uploaded to S3.",
            "Bps",
            [Query(rate("runtime_logs_appended_bytes_total", selector, "instance"), "{{instance}}")],
            stacked=True,
            width=12,
        ),
        Lines(
            "Fetches of code",
            "By source: S3, the worker's cache, or the cache because S3 was not available.",
            "cps",
            [Query(rate("runtime_code_fetches_total", selector, "source"), "{{source}}")],
            stacked=True,
            width=12,
        ),
    ]


def leases(selector: str) -> Row:
    """Return the row of segment ownership as workers report it."""
    return Row(
        "Leases",
        [
            Lines(
                "Time since the lease was proven",
                "By worker; 0 without a segment. The lease expires at 5 s, and the containers are stopped before.",
                "s",
                [Query(f"max by (instance) (runtime_lease_age_seconds{{{selector}}})", "{{instance}}")],
                (3, 5),
            ),
            Lines(
                "Leases acquired and lost",
                "Acquired: a worker acquired a segment. Lost: the worker could not renew the lease and stopped its "
                "containers. Superseded: a newer process of the same worker has the lease. Taken over, handed over: "
                "another worker of the engine has it, with the running containers.",
                "none",
                [
                    Query(increase("runtime_segments_acquired_total", selector), "acquired"),
                    Query(
                        or_zero(increase("runtime_lease_lapses_total", selector, "lease, reason")),
                        "{{lease}} {{reason}}",
                    ),
                    Query(increase("runtime_segments_handed_over_total", selector), "handed over"),
                ],
                (1,),
            ),
            Lines(
                "Jumps of MongoDB's clock",
                "By more than 0.25 s, as workers see it. Expired leases are taken over later then.",
                "none",
                [Query(increase("runtime_store_clock_jumps_total", selector), "jumps")],
                (1,),
            ),
            Lines(
                "Failures of a segment's handler",
                "Run: its loop failed and was restarted. Stop: containers could not be stopped; the stop is repeated. "
                "Others: an unexpected error interrupted the work; the work is repeated.",
                "none",
                [
                    Query(or_zero(increase("runtime_handler_failures_total", selector, "call")), "{{call}}"),
                    Query(or_zero(increase("runtime_unexpected_errors_total", selector, "where")), "{{where}}"),
                ],
                (1, 5),
            ),
        ],
    )


def processes(selector: str) -> Row:
    """Return the row of the resources that masters and workers use."""
    return Row(
        "Processes",
        [
            Lines(
                "Resident memory",
                "Of each master and worker, without the containers. An idle process needs up to 100 MB.",
                "bytes",
                [Query(f"process_resident_memory_bytes{{{selector}}}", INSTANCES)],
                (200 * 1024**2, 256 * 1024**2),
                width=6,
            ),
            Lines(
                "Processors",
                "Processors that each master and worker uses. A Python process can use at most one.",
                "none",
                [Query(f"rate(process_cpu_seconds_total{{{selector}}}[$__rate_interval])", INSTANCES)],
                (0.5, 0.9),
                width=6,
            ),
            Lines(
                "Event loop lag",
                "Largest delay of a timer within the last second. More than 100 ms: something blocks the event loop "
                "or the machine is overloaded. More than 1 s endangers leases.",
                "s",
                [Query(f"runtime_event_loop_lag_seconds{{{selector}}}", INSTANCES)],
                (0.1, 1),
                width=6,
            ),
            Lines(
                "Open files",
                "Open files of each process, as a share of its limit.",
                "percentunit",
                [Query(f"process_open_fds{{{selector}}} / process_max_fds{{{selector}}}", INSTANCES)],
                (0.5, 0.8),
                width=6,
            ),
        ],
    )
