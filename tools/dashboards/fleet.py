"""The dashboard of everything: is all well, and if not, where to look."""

from tools.dashboards.board import Board, Row, Variable
from tools.dashboards.panels import Lines, Number, Query, Table
from tools.dashboards.queries import OPERATIONS, increase, not_well, or_zero, quantile, rate, rate_or_zero
from tools.dashboards.sections import INSTANCES, traces

_S = 'service=~"$service"'


def fleet() -> Board:
    """All services at one look."""
    return Board(
        uid="the0-fleet",
        title="the0 / Fleet",
        description="All masters and workers of all services: who works, what waits, what fails.",
        variables=[
            Variable("service", "Service", "One of the three, or all", "runtime_process_info", "service"),
        ],
        links=[traces()],
        rows=[_now(), _work(), _segments(), _events(), _dependencies(), _processes(), _autoscaler()],
    )


def _now() -> Row:
    return Row(
        "Now",
        [
            Number(
                "Processes that do not answer",
                "Masters and workers that Prometheus knows and cannot read. They may still run their bots.",
                "none",
                Query(f"count(up{{{_S}}} == 0) or 0 * count(up{{{_S}}})", "down"),
                (1,),
            ),
            Number(
                "Services without a leader",
                "Services of which no master, or more than one, leads.",
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
                "For how long the segment that waits longest has been without a worker; what is in it does not run.",
                "s",
                Query(f"max(runtime_segment_wait_seconds{{{_S}}})", "wait"),
                (10, 60),
            ),
            Number(
                "Containers",
                "Bots, backtests and scheduled runs whose containers run.",
                "none",
                Query(f"sum(runtime_containers{{{_S}}})", "containers"),
            ),
            Number(
                "Dead letters",
                "Events that were given up and wait for a person: `runtime dlq ls`.",
                "none",
                Query(f"sum(max by (service) (runtime_dead_letter_messages{{{_S}}}))", "messages"),
                (1,),
            ),
            Number(
                "Failed operations",
                "Operations on other systems and rounds of our own loops that ended with an error.",
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
                "Workers connected to the leading master of each service. Standby ones are free for the next segment; "
                "cordoned ones are given nothing new.",
                "none",
                [Query(f"sum by (service, state) (runtime_workers{{{_S}}})", "{{service}} {{state}}")],
                stacked=True,
            ),
            Lines(
                "Containers",
                "Containers that run, by service.",
                "none",
                [Query(f"sum by (service) (runtime_containers{{{_S}}})", "{{service}}")],
                stacked=True,
            ),
            Lines(
                "Memory of containers",
                "What the containers of a service use, in share of what they may use.",
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
                "Masters that lead, by service. Anything but 1 for longer than a lease lives (5 s) is a fault.",
                "none",
                [Query(f"sum by (service) (runtime_master_leading{{{_S}}})", "{{service}}")],
                width=6,
            ),
            Lines(
                "Segments",
                "Segments with entities. Waiting: no worker can take them, so they do not run.",
                "none",
                [Query(f"sum by (service, state) (runtime_segments{{{_S}}})", "{{service}} {{state}}")],
                stacked=True,
                width=6,
            ),
            Lines(
                "Time since a lease was proven",
                "The oldest of each service. At 5 s a lease is over and its containers are stopped.",
                "s",
                [Query(f"max by (service) (runtime_lease_age_seconds{{{_S}}})", "{{service}}")],
                (3, 5),
                width=6,
            ),
            Lines(
                "Lost",
                "Leases that could not be proven any longer, and workers that fell silent or broke off.",
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
                "Events that workers took from the stream, by what became of them.",
                "cps",
                [Query(rate("runtime_events_total", _S, "service, outcome"), "{{service}} {{outcome}}")],
                width=6,
            ),
            Lines(
                "Event lag, p99",
                "From publishing an event until MongoDB has it. A gap: there were none.",
                "s",
                [Query(quantile(0.99, "runtime_event_seconds", _S, "service"), "{{service}}")],
                (1, 10),
                width=6,
            ),
            Lines(
                "In hand and outbox",
                "Events that were received and are not applied, and events of ours that wait to be published.",
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
                "Events that were given up, as they wait in the stream THE0_DLQ.",
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
                "Operations by the system that they go to; lease, master and events are our own loops.",
                "ops",
                [Query(rate(f"{OPERATIONS}_count", _S, "system"), "{{system}}")],
            ),
            Lines(
                "Failed operations",
                "Those that ended with an error; one that we cancelled or that was refused is none.",
                "ops",
                [Query(rate_or_zero(f"{OPERATIONS}_count", _S, 'outcome="error"', "system"), "{{system}}")],
                (0.1, 1),
            ),
            Lines(
                "Duration, p95",
                "95 % of the operations took no longer; without gRPC, whose calls are open for as long as a worker is.",
                "s",
                [Query(quantile(0.95, OPERATIONS, f'{_S}, system!="grpc"', "system"), "{{system}}")],
                (1, 10),
            ),
            Lines(
                "Not well",
                "Processes whose /readyz says that something is not as it should be; a master that stands by is "
                "without the leadership, as it should be.",
                "none",
                [Query(not_well(_S, "service, dependency"), "{{service}} {{dependency}}")],
                (1,),
                width=12,
            ),
            Lines(
                "Output not uploaded yet",
                "What containers wrote that is on the workers' disks only.",
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
                "Of each master and worker, without containers. Idle ones need up to 100 MB.",
                "bytes",
                [Query(f"process_resident_memory_bytes{{{_S}}}", f"{{{{service}}}} {INSTANCES}")],
                (200 * 1024**2, 256 * 1024**2),
            ),
            Lines(
                "Processors",
                "How many processors each master and worker keeps busy; one is the most that Python can use.",
                "none",
                [Query(f"rate(process_cpu_seconds_total{{{_S}}}[$__rate_interval])", f"{{{{service}}}} {INSTANCES}")],
                (0.5, 0.9),
            ),
            Lines(
                "Event loop lag",
                "How late a timer ran, at worst within the last second. Above 100 ms something blocks the loop.",
                "s",
                [Query(f"runtime_event_loop_lag_seconds{{{_S}}}", f"{{{{service}}}} {INSTANCES}")],
                (0.1, 1),
            ),
            Table(
                "All processes",
                "Every master and worker with its version; two versions are there only during an upgrade.",
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
        "Autoscaler (in Kubernetes; elsewhere it finds no cluster and stays at 0)",
        [
            Lines(
                "Replicas",
                "Worker replicas that are needed for the segments and to stand by, those wanted within the bounds, and "
                "those that the cluster is told to run.",
                "none",
                [
                    Query(f"max by (service) (runtime_autoscaler_replicas_needed{{{_S}}})", "{{service}} needed"),
                    Query(f"max by (service) (runtime_autoscaler_replicas_wanted{{{_S}}})", "{{service}} wanted"),
                    Query(f"max by (service) (runtime_autoscaler_replicas{{{_S}}})", "{{service}} set"),
                ],
                width=12,
            ),
            Lines(
                "Segments that the loss of a node would leave waiting",
                "Where MAX_REPLICAS forbids the workers that would stand by for them.",
                "none",
                [Query(f"max by (service) (runtime_autoscaler_node_loss_segments{{{_S}}})", "{{service}}")],
                width=12,
            ),
            Lines(
                "Looks by outcome",
                "What came of each look, every 15 s. Failed: nothing was changed; outside a cluster every look fails.",
                "cps",
                [
                    Query(
                        f"sum by (service, outcome) (rate(runtime_autoscaler_looks_total{{{_S}}}[$__rate_interval]))",
                        "{{service}} {{outcome}}",
                    )
                ],
                width=12,
            ),
        ],
    )
