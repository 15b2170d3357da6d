"""Rows that more than one dashboard has, for the processes that a selector chooses."""

import json

from tools.dashboards.board import Link, Row, Variable
from tools.dashboards.panels import Lines, Number, Query
from tools.dashboards.queries import OPERATIONS, increase, not_well, or_zero, quantile, rate, rate_or_zero, total

INSTANCES = "{{role}} {{instance}}"


def instances(service: str) -> Variable:
    """The choice among the processes of one service."""
    return Variable(
        "instance",
        "Process",
        "Masters and workers of this service",
        f'runtime_process_info{{service="{service}"}}',
        "instance",
    )


def traces(service: str = "", tags: str = "") -> Link:
    """Where the traces are: of one service, or of all; *tags* as `name=value`, and may hold a dashboard's variable."""
    query = {"refId": "A", "datasource": {"type": "jaeger", "uid": "jaeger"}, "queryType": "search"}
    query |= {name: value for name, value in (("service", service), ("tags", tags)) if value}
    pane = {"a": {"datasource": "jaeger", "queries": [query], "range": {"from": "now-1h", "to": "now"}}}
    text = json.dumps(pane, separators=(",", ":"))
    return Link("Traces", f"/explore?schemaVersion=1&orgId=1&panes={text}", "Spans of these processes, in Jaeger")


def coordination(selector: str) -> Row:
    """Who leads, who works, and what waits."""
    return Row(
        "Masters, workers, segments",
        [
            Number(
                "Leader",
                "Masters that lead. 0: nobody assigns segments or notices dead workers, though what runs goes on. "
                "More than 1: two masters both believe that they lead, which may last no longer than a lease.",
                "none",
                Query(total("runtime_master_leading", selector), "leading"),
                only_good=1,
                height=8,
            ),
            Number(
                "Workers",
                "Workers that are connected to the leading master.",
                "none",
                Query(total("runtime_workers", selector), "workers"),
                (1,),
                lower_is_bad=True,
                height=8,
            ),
            Number(
                "Longest wait",
                "For how long the segment that waits longest has been without a worker, with entities that do not run.",
                "s",
                Query(f"max(runtime_segment_wait_seconds{{{selector}}})", "wait"),
                (10, 60),
                height=8,
            ),
            Lines(
                "Workers by state",
                "Owning: has a segment or is to take one. Standby: free for the next. Draining: about to end.",
                "none",
                [Query(total("runtime_workers", selector, "state"), "{{state}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Segments by state",
                "Segments with entities. Owned: a worker holds the lease. Assigned: a worker was told to take it. "
                "Waiting: no worker can take them.",
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
    """From the stream into MongoDB, and out of the outbox of a service that *publishes*."""
    outbox = [Query(f"max(runtime_outbox_events{{{selector}}})", "outbox")] if publishes else []
    return Row(
        "Events",
        [
            Lines(
                "Events by outcome",
                "Events that workers took from the stream. Retried ones come again by themselves; dead-lettered ones "
                "wait for a person (`runtime dlq ls`).",
                "cps",
                [Query(rate("runtime_events_total", selector, "outcome"), "{{outcome}}")],
                stacked=True,
            ),
            Lines(
                "Event lag",
                "From the moment when an event was published until MongoDB has it.",
                "s",
                [
                    Query(quantile(0.5, "runtime_event_seconds", selector), "median"),
                    Query(quantile(0.99, "runtime_event_seconds", selector), "p99"),
                ],
                (1, 10),
            ),
            Lines(
                "What waits",
                "Events that were received and are not applied, those of ours that wait to be published, and messages "
                "that were given up. All go back to 0 by themselves, but for dead letters.",
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
    """Rate, errors and duration of everything that goes to another system."""
    return Row(
        "Operations on other systems and of our own loops",
        [
            Lines(
                "Operations",
                "Commands to MongoDB, requests to NATS, S3, the Docker engine and Kubernetes, gRPC and HTTP calls, "
                "lease renewals and rounds of our own loops.",
                "ops",
                [Query(rate(f"{OPERATIONS}_count", selector, "system"), "{{system}}")],
                width=6,
            ),
            Lines(
                "Failed operations",
                "Those that ended with an error. One that was cancelled by us or answered with a refusal is none.",
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
                "95 % of a system's operations took no longer; without gRPC, whose calls last as long as a worker is "
                "connected. A gap: there were none.",
                "s",
                [Query(quantile(0.95, OPERATIONS, f'{selector}, system!="grpc"', "system"), "{{system}}")],
                (1, 10),
                width=6,
            ),
            Lines(
                "Not well",
                "Processes whose /readyz says that something is not as it should be; a master that stands by is "
                "without the leadership, as it should be.",
                "none",
                [Query(not_well(selector, "dependency"), "{{dependency}}")],
                (1,),
                width=6,
            ),
        ],
    )


def containers(selector: str) -> Row:
    """What the containers of workers use."""
    return Row(
        "Containers",
        [
            Lines(
                "Running",
                "Containers that run, by worker.",
                "none",
                [Query(total("runtime_containers", selector, "instance"), "{{instance}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Processors",
                "How many processors the containers keep busy, by worker.",
                "none",
                [Query(rate("runtime_containers_cpu_seconds_total", selector, "instance"), "{{instance}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Memory",
                "What the containers use, and what all of them together may use before the kernel ends one.",
                "bytes",
                [
                    Query(total("runtime_containers_memory_bytes", selector), "used"),
                    Query(total("runtime_containers_memory_limit_bytes", selector), "limit"),
                ],
                width=6,
            ),
            *_output(selector),
            Lines(
                "Room on the engines",
                "Memory that the limits of further containers may take up, by worker; those of one engine say the "
                "same. What has no room waits.",
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
                "Processors left on the engines",
                "Processors that the limits of further containers may take up; only containers with such a limit need "
                "any.",
                "none",
                [Query(total("runtime_engine_room_cpus", f'{selector}, part="free"', "instance"), "{{instance}}")],
                width=8,
            ),
            Lines(
                "Waiting for room",
                "Bots, backtests or firings that do not run because the engine has no room for their limits.",
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
            "What containers wrote that is on the workers' disks only. It goes to S3 every 30 s and at the end of "
            "a container; what a full spool dropped is lost.",
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
            "What containers wrote and is in S3 now.",
            "Bps",
            [Query(rate("runtime_logs_appended_bytes_total", selector, "instance"), "{{instance}}")],
            stacked=True,
            width=12,
        ),
        Lines(
            "Code that was asked for",
            "By where it came from: S3, the worker's cache, or the cache although S3 could not be asked.",
            "cps",
            [Query(rate("runtime_code_fetches_total", selector, "source"), "{{source}}")],
            stacked=True,
            width=12,
        ),
    ]


def leases(selector: str) -> Row:
    """Ownership of segments, as workers see it."""
    return Row(
        "Leases",
        [
            Lines(
                "Time since the lease was proven",
                "By worker; 0 without a segment. At 5 s the lease is over, and the containers are stopped before that.",
                "s",
                [Query(f"max by (instance) (runtime_lease_age_seconds{{{selector}}})", "{{instance}}")],
                (3, 5),
            ),
            Lines(
                "Leases taken and lost",
                "Acquired: a worker took a segment. Lost: it could not prove its lease any longer and stopped its "
                "containers. Superseded: a newer process of the same worker has it.",
                "none",
                [
                    Query(increase("runtime_segments_acquired_total", selector), "acquired"),
                    Query(
                        or_zero(increase("runtime_lease_lapses_total", selector, "lease, reason")),
                        "{{lease}} {{reason}}",
                    ),
                ],
                (1,),
            ),
            Lines(
                "Failures of a segment's handler",
                "Run: its loop failed and was begun again. Stop: containers could not be stopped and were tried again. "
                "Others: an error that no code expects interrupted that work, which was tried again.",
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
    """What masters and workers themselves use."""
    return Row(
        "Processes",
        [
            Lines(
                "Resident memory",
                "Of each master and worker, without the containers. Idle ones need up to 100 MB.",
                "bytes",
                [Query(f"process_resident_memory_bytes{{{selector}}}", INSTANCES)],
                (200 * 1024**2, 256 * 1024**2),
                width=6,
            ),
            Lines(
                "Processors",
                "How many processors each master and worker keeps busy. One is the most that Python can use.",
                "none",
                [Query(f"rate(process_cpu_seconds_total{{{selector}}}[$__rate_interval])", INSTANCES)],
                (0.5, 0.9),
                width=6,
            ),
            Lines(
                "Event loop lag",
                "How late a timer ran, at worst within the last second. Above 100 ms something blocks the loop, or the "
                "machine has no processor to spare; above 1 s leases are in danger.",
                "s",
                [Query(f"runtime_event_loop_lag_seconds{{{selector}}}", INSTANCES)],
                (0.1, 1),
                width=6,
            ),
            Lines(
                "Open files",
                "Share of the files that each process may have open.",
                "percentunit",
                [Query(f"process_open_fds{{{selector}}} / process_max_fds{{{selector}}}", INSTANCES)],
                (0.5, 0.8),
                width=6,
            ),
        ],
    )
