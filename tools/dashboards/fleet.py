"""The dashboard of all services: the overall state, and where to investigate."""

from tools.dashboards.board import Board, Row, Variable
from tools.dashboards.panels import Lines, Number, Query, Table
from tools.dashboards.queries import OPERATIONS, increase, not_well, or_zero, quantile, rate, rate_or_zero
from tools.dashboards.sections import INSTANCES, traces

_S = 'service=~"$service"'


def fleet() -> Board:
    """Build the dashboard of all services."""
    return Board(
        uid="the0-fleet",
        title="the0 / Fleet",
        description="All masters and workers of all services: state, backlog and errors.",
        variables=[
            Variable("service", "Service", "One of the three services, or all", "runtime_process_info", "service"),
        ],
        links=[traces()],
        rows=[_now(), _work(), _segments(), _events(), _dependencies(), _processes(), _autoscaler()],
    )


def _now() -> Row:
    return Row(
        "Now",
        [
            Number(
                "Processes that do not respond",
                "Masters and workers that Prometheus cannot scrape. Their bots may still run.",
                "none",
                Query(f"count(up{{{_S}}} == 0) or 0 * count(up{{{_S}}})", "down"),
                (1,),
            ),
            Number(
                "Services without a leader",
                "Services with no leading master or with more than one.",
                "none",
                Query(
                    f"count(group by (service) (up{{{_S}}}) unless on (service) "
                    f"(sum by (service) (runtime_master_leading{{{_S}}}) == 1)) or 0 * count(up{{{_S}}})",
                    "services",
                ),
                (1,),
            ),
            Number(
                "Longest wait of a segment",
                "How long the longest-waiting segment has had no worker. The entities of such a segment do not run.",
                "s",
                Query(f"max(runtime_segment_wait_seconds{{{_S}}})", "wait"),
                (10, 60),
            ),
            Number(
                "Containers",
                "Running containers of bots, backtests and scheduled runs.",
                "none",
                Query(f"sum(runtime_containers{{{_S}}})", "containers"),
            ),
            Number(
                "Dead letters",
                "Events that could not be applied and need a decision: `runtime dlq ls`.",
                "none",
                Query(f"sum(max by (service) (runtime_dead_letter_messages{{{_S}}}))", "messages"),
                (1,),
            ),
            Number(
                "Failed operations",
                "Operations on other systems, and rounds of internal loops, that ended with an error.",
                "ops",
                Query(
                    f'sum(rate({OPERATIONS}_count{{{_S}, outcome="error"}}[$__rate_interval])) '
                    f"or 0 * sum(rate({OPERATIONS}_count{{{_S}}}[$__rate_interval]))",
                    "errors",
                ),
                (0.1, 1),
            ),
        ],
    )


def _work() -> Row:
    return Row(
        "Work",
        [
            Lines(
                "Workers",
                "Workers connected to the leading master of each service. Standby workers own no segment; "
                "cordoned workers receive no new segments.",
                "none",
                [Query(f"sum by (service, state) (runtime_workers{{{_S}}})", "{{service}} {{state}}")],
                stacked=True,
            ),
            Lines(
                "Containers",
                "Running containers, by service.",
                "none",
                [Query(f"sum by (service) (runtime_containers{{{_S}}})", "{{service}}")],
                stacked=True,
            ),
            Lines(
                "Memory of containers",
                "Memory that the containers of a service use, as a share of their limit.",
                "percentunit",
                [
                    Query(
                        f"sum by (service) (runtime_containers_memory_bytes{{{_S}}}) / "
                        f"sum by (service) (runtime_containers_memory_limit_bytes{{{_S}}} > 0)",
                        "{{service}}",
                    )
                ],
                (0.8, 0.95),
            ),
        ],
    )


def _segments() -> Row:
    return Row(
        "Segments and leases",
        [
            Lines(
                "Masters",
                "Leading masters, by service. A value other than 1 for longer than a lease's life (5 s) is a fault.",
                "none",
                [Query(f"sum by (service) (runtime_master_leading{{{_S}}})", "{{service}}")],
                width=6,
            ),
            Lines(
                "Segments",
                "Segments with entities. Waiting: no worker has room for the segment, so its entities do not run.",
                "none",
                [Query(f"sum by (service, state) (runtime_segments{{{_S}}})", "{{service}} {{state}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Time since a lease was proven",
                "Age of the oldest lease of each service. At 5 s a lease expires; its containers are stopped before.",
                "s",
                [Query(f"max by (service) (runtime_lease_age_seconds{{{_S}}})", "{{service}}")],
                (3, 5),
                width=6,
            ),
            Lines(
                "Lost",
                "Leases that could not be renewed in time, and workers whose connection timed out or broke.",
                "none",
                [
                    Query(
                        or_zero(increase("runtime_lease_lapses_total", f'{_S}, reason="lost"', "service, lease")),
                        "{{service}} lease of {{lease}}",
                    ),
                    Query(
                        or_zero(increase("runtime_workers_gone_total", f'{_S}, reason=~"silent|broken"', "service")),
                        "{{service}} worker",
                    ),
                ],
                (1,),
                width=6,
            ),
        ],
    )


def _events() -> Row:
    return Row(
        "Events",
        [
            Lines(
                "Events",
                "Events that workers received from the stream, by outcome.",
                "cps",
                [Query(rate("runtime_events_total", _S, "service, outcome"), "{{service}} {{outcome}}")],
                width=6,
            ),
            Lines(
                "Event lag, p99",
                "Time from publishing an event until MongoDB has it. Gaps mean that no events arrived.",
                "s",
                [Query(quantile(0.99, "runtime_event_seconds", _S, "service"), "{{service}}")],
                (1, 10),
                width=6,
            ),
            Lines(
                "Events in hand and outbox",
                "Events received but not yet applied, and the runtime's own events that wait to be published.",
                "none",
                [
                    Query(f"sum by (service) (runtime_events_in_hand{{{_S}}})", "{{service}} in hand"),
                    Query(f"max by (service) (runtime_outbox_events{{{_S}}})", "{{service}} outbox"),
                ],
                (100, 1000),
                width=6,
            ),
            Lines(
                "Dead letters",
                "Events that could not be applied and are stored in the stream THE0_DLQ.",
                "none",
                [Query(f"max by (service) (runtime_dead_letter_messages{{{_S}}})", "{{service}}")],
                (1,),
                width=6,
            ),
        ],
    )


def _dependencies() -> Row:
    return Row(
        "Dependencies",
        [
            Lines(
                "Operations",
                "Operations by target system; lease, master and events are internal loops.",
                "ops",
                [Query(rate(f"{OPERATIONS}_count", _S, "system"), "{{system}}")],
            ),
            Lines(
                "Failed operations",
                "Operations that ended with an error, without cancelled and refused ones.",
                "ops",
                [Query(rate_or_zero(f"{OPERATIONS}_count", _S, 'outcome="error"', "system"), "{{system}}")],
                (0.1, 1),
            ),
            Lines(
                "Duration, p95",
                "95 % were at most this long. gRPC is excluded: its calls last as long as a worker is connected.",
                "s",
                [Query(quantile(0.95, OPERATIONS, f'{_S}, system!="grpc"', "system"), "{{system}}")],
                (1, 10),
            ),
            Lines(
                "Dependencies not ready",
                "Processes whose /readyz reports a problem. Standby masters report the leadership as a problem for "
                "10 s after another master took it, which is expected.",
                "none",
                [Query(not_well(_S, "service, dependency"), "{{service}} {{dependency}}")],
                (1,),
                width=12,
            ),
            Lines(
                "Output not uploaded yet",
                "Output of containers that exists only on the workers' disks.",
                "bytes",
                [Query(f"sum by (service) (runtime_logs_pending_bytes{{{_S}}})", "{{service}}")],
                (16 * 1024**2, 64 * 1024**2),
                width=12,
            ),
        ],
    )


def _processes() -> Row:
    return Row(
        "Processes",
        [
            Lines(
                "Resident memory",
                "Of each master and worker, without containers. An idle process needs up to 100 MB.",
                "bytes",
                [Query(f"process_resident_memory_bytes{{{_S}}}", f"{{{{service}}}} {INSTANCES}")],
                (200 * 1024**2, 256 * 1024**2),
            ),
            Lines(
                "Processors",
                "Processors that each master and worker uses; a Python process can use at most one.",
                "none",
                [Query(f"rate(process_cpu_seconds_total{{{_S}}}[$__rate_interval])", f"{{{{service}}}} {INSTANCES}")],
                (0.5, 0.9),
            ),
            Lines(
                "Event loop lag",
                "Largest delay of a timer within the last second. More than 100 ms: something blocks the loop.",
                "s",
                [Query(f"runtime_event_loop_lag_seconds{{{_S}}}", f"{{{{service}}}} {INSTANCES}")],
                (0.1, 1),
            ),
            Table(
                "All processes",
                "Every master and worker with its version. Two versions are expected only during an upgrade.",
                "none",
                Query(
                    f"sum by (service, role, instance, version) (runtime_process_info{{{_S}}})", "{{service}} {{role}}"
                ),
                ("service", "role", "instance", "version"),
                value_name="processes",
            ),
        ],
    )


def _autoscaler() -> Row:
    return Row(
        "Autoscaler (Kubernetes only; elsewhere its values are 0) and compaction",
        [
            Lines(
                "Replicas",
                "Worker replicas needed for segments and standby, replicas wanted within the bounds, and "
                "replicas set in the cluster.",
                "none",
                [
                    Query(f"max by (service) (runtime_autoscaler_replicas_needed{{{_S}}})", "{{service}} needed"),
                    Query(f"max by (service) (runtime_autoscaler_replicas_wanted{{{_S}}})", "{{service}} wanted"),
                    Query(f"max by (service) (runtime_autoscaler_replicas{{{_S}}})", "{{service}} set"),
                ],
                width=12,
            ),
            Lines(
                "Segments without capacity after the loss of a node",
                "Segments for which MAX_REPLICAS allows no standby workers.",
                "none",
                [Query(f"max by (service) (runtime_autoscaler_node_loss_segments{{{_S}}})", "{{service}}")],
                width=12,
            ),
            Lines(
                "Rounds by outcome",
                "One round every 15 s. Failed: nothing was changed; outside a cluster every round fails.",
                "cps",
                [
                    Query(
                        f"sum by (service, outcome) (rate(runtime_autoscaler_looks_total{{{_S}}}[$__rate_interval]))",
                        "{{service}} {{outcome}}",
                    )
                ],
                width=12,
            ),
            Lines(
                "Compaction",
                "Entities that are to move out of half-empty segments, and segments that became empty by it.",
                "none",
                [
                    Query(
                        or_zero(increase("runtime_compaction_orders_total", _S, "service")),
                        "{{service}} moves",
                    ),
                    Query(
                        or_zero(increase("runtime_compaction_segments_freed_total", _S, "service")),
                        "{{service}} segments freed",
                    ),
                ],
                width=12,
            ),
        ],
    )
