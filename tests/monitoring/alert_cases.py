"""When each alert fires and when it does not: what is measured each minute, for half an hour.

The name of the namespace is filled in: each case has one of its own, so that all can be tried at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MINUTES = 30
NAMESPACE = "NAMESPACE"
"""Stands for the name of the namespace in every series."""

BOTS = 'namespace="NAMESPACE", service="bot-runner"'
LEADER = f'{BOTS}, instance="m1"'
OTHER = f'{BOTS}, instance="m2"'
WORKER = f'{BOTS}, instance="w1"'
BACKTESTS = 'namespace="NAMESPACE", service="backtest-runner", instance="w1"'
SCHEDULES = 'namespace="NAMESPACE", service="bot-scheduler", instance="w1"'

_OF_BOTS = {"service": "bot-runner"}
_OF_A_WORKER = {**_OF_BOTS, "instance": "w1"}

Series = Mapping[str, str]


def always(value: float) -> str:
    """The same each minute."""
    return f"{value:g}+0x{MINUTES + 10}"


def growing(each_minute: float) -> str:
    """A counter that grows evenly."""
    return f"0+{each_minute:g}x{MINUTES + 10}"


def once(value: float, minute: int) -> str:
    """A counter that has grown in this minute only."""
    return f"0+0x{minute - 1} {value:g}+0x{MINUTES + 10 - minute}"


@dataclass(frozen=True)
class Case:
    """One alert.

    Attributes:
        labels: what the alert that fires has, besides its name, severity and namespace.
        fires: series under which it fires at the end.
        quiet: series under which it does not; close to the others, so that the limit is what makes the difference.
    """

    alert: str
    labels: Mapping[str, str]
    fires: Series
    quiet: Series = field(default_factory=dict)


def _up(role: str, instance: str, value: float) -> Series:
    return {f'up{{{BOTS}, role="{role}", instance="{instance}"}}': always(value)}


def _operations(system: str, *, ok: float, error: float) -> Series:
    labels = f'{WORKER}, system="{system}", operation="x"'
    return {
        f'runtime_operation_seconds_count{{{labels}, outcome="ok"}}': growing(ok),
        f'runtime_operation_seconds_count{{{labels}, outcome="error"}}': growing(error),
    }


def _durations(histogram: str, labels: str, *, within: str, all_take: str) -> Series:
    """Sixty a minute, which all take longer than *within* seconds and at most *all_take*."""
    return {
        f'{histogram}_bucket{{{labels}, le="{within}"}}': always(0),
        f'{histogram}_bucket{{{labels}, le="{all_take}"}}': growing(60),
        f'{histogram}_bucket{{{labels}, le="+Inf"}}': growing(60),
    }


def _failing(alert: str, system: str) -> Case:
    return Case(
        alert,
        {**_OF_BOTS, "system": system},
        _operations(system, ok=60, error=6),
        _operations(system, ok=60, error=2),
    )


def _slow(alert: str, system: str, *, too_long: tuple[str, str], long: tuple[str, str]) -> Case:
    labels = f'{WORKER}, system="{system}", operation="x", outcome="ok"'
    histogram = "runtime_operation_seconds"
    return Case(
        alert,
        {**_OF_BOTS, "system": system},
        _durations(histogram, labels, within=too_long[0], all_take=too_long[1]),
        _durations(histogram, labels, within=long[0], all_take=long[1]),
    )


COORDINATION = [
    Case(
        "NoLeader",
        _OF_BOTS,
        {
            **_up("master", "m1", 1),
            f"runtime_master_leading{{{LEADER}}}": always(0),
            f"runtime_master_leading{{{OTHER}}}": always(0),
        },
        {**_up("master", "m1", 1), f"runtime_master_leading{{{LEADER}}}": always(1)},
    ),
    # Its masters are gone, and nothing that they measured is there.
    Case("NoLeader", _OF_BOTS, _up("worker", "w1", 1), {}),
    Case("NoLeader", _OF_BOTS, {f'up{{{BOTS}, role="master", instance="m1"}}': "1+0x5 stale"}, {}),
    Case(
        "SeveralLeaders",
        _OF_BOTS,
        {f"runtime_master_leading{{{LEADER}}}": always(1), f"runtime_master_leading{{{OTHER}}}": always(1)},
        {f"runtime_master_leading{{{LEADER}}}": always(1), f"runtime_master_leading{{{OTHER}}}": always(0)},
    ),
    Case(
        "SegmentsWaiting",
        _OF_BOTS,
        {f"runtime_segment_wait_seconds{{{LEADER}}}": growing(60)},
        {f"runtime_segment_wait_seconds{{{LEADER}}}": always(8)},
    ),
    Case(
        "SegmentsNotRead",
        _OF_BOTS,
        {f"runtime_survey_age_seconds{{{LEADER}}}": growing(60)},
        {f"runtime_survey_age_seconds{{{LEADER}}}": always(10)},
    ),
    Case(
        "MoreSegmentsThanPlanned",
        _OF_BOTS,
        {
            f'runtime_segments{{{LEADER}, state="owned"}}': always(10),
            f'runtime_segments{{{LEADER}, state="waiting"}}': always(7),
            f"runtime_segments_max{{{LEADER}}}": always(16),
        },
        {
            f'runtime_segments{{{LEADER}, state="owned"}}': always(16),
            f"runtime_segments_max{{{LEADER}}}": always(16),
        },
    ),
    Case(
        "WorkerLost",
        _OF_BOTS,
        {f'runtime_workers_gone_total{{{LEADER}, reason="broken"}}': once(1, MINUTES - 5)},
        {f'runtime_workers_gone_total{{{LEADER}, reason="left"}}': once(1, MINUTES - 5)},
    ),
    Case(
        "LeaseLapsed",
        {**_OF_BOTS, "lease": "segment"},
        {f'runtime_lease_lapses_total{{{WORKER}, lease="segment", reason="lost"}}': once(1, MINUTES - 5)},
        {f'runtime_lease_lapses_total{{{WORKER}, lease="segment", reason="superseded"}}': once(1, MINUTES - 5)},
    ),
    Case(
        "StoreClockJumped",
        _OF_BOTS,
        {f"runtime_store_clock_jumps_total{{{WORKER}}}": once(1, MINUTES - 5)},
        {f"runtime_store_clock_jumps_total{{{WORKER}}}": always(1)},
    ),
    Case(
        "HandlerFailing",
        {**_OF_A_WORKER, "call": "run"},
        {f'runtime_handler_failures_total{{{WORKER}, call="run"}}': growing(1)},
        {f'runtime_handler_failures_total{{{WORKER}, call="run"}}': once(1, MINUTES - 5)},
    ),
    Case(
        "UnexpectedErrors",
        {**_OF_A_WORKER, "where": "act on bot"},
        {f'runtime_unexpected_errors_total{{{WORKER}, where="act on bot"}}': growing(1)},
        {f'runtime_unexpected_errors_total{{{WORKER}, where="act on bot"}}': once(1, MINUTES - 5)},
    ),
    Case(
        "AutoscalerAtMaximum",
        _OF_BOTS,
        {
            f"runtime_autoscaler_replicas_needed{{{LEADER}}}": always(5),
            f"runtime_autoscaler_replicas_wanted{{{LEADER}}}": always(4),
            # It led before and remembers what it wanted then.
            f"runtime_autoscaler_replicas_wanted{{{OTHER}}}": always(9),
            f"runtime_master_leading{{{LEADER}}}": always(1),
            f"runtime_master_leading{{{OTHER}}}": always(0),
        },
        # Outside a cluster there are no replicas.
        {
            f"runtime_autoscaler_replicas_needed{{{LEADER}}}": always(5),
            f"runtime_autoscaler_replicas_wanted{{{LEADER}}}": always(0),
            f"runtime_master_leading{{{LEADER}}}": always(1),
        },
    ),
    Case(
        "NodeLossUncovered",
        _OF_BOTS,
        {
            f"runtime_autoscaler_node_loss_segments{{{LEADER}}}": always(2),
            f"runtime_master_leading{{{LEADER}}}": always(1),
        },
        # It led before and remembers what it saw then.
        {
            f"runtime_autoscaler_node_loss_segments{{{OTHER}}}": always(2),
            f"runtime_master_leading{{{OTHER}}}": always(0),
            f"runtime_master_leading{{{LEADER}}}": always(1),
        },
    ),
    Case(
        "WorkerPodsHindered",
        {**_OF_BOTS, "reason": "FailedCreate"},
        {
            f'runtime_autoscaler_pod_hindrances{{{LEADER}, reason="FailedCreate"}}': always(1),
            f"runtime_master_leading{{{LEADER}}}": always(1),
        },
        # It led before and remembers what it saw then.
        {
            f'runtime_autoscaler_pod_hindrances{{{OTHER}, reason="FailedCreate"}}': always(1),
            f"runtime_master_leading{{{OTHER}}}": always(0),
            f"runtime_master_leading{{{LEADER}}}": always(1),
        },
    ),
    Case(
        "AutoscalerFailing",
        _OF_BOTS,
        {
            f'runtime_autoscaler_looks_total{{{LEADER}, outcome="failed"}}': growing(4),
            f"runtime_autoscaler_replicas{{{LEADER}}}": always(3),
        },
        {
            f'runtime_autoscaler_looks_total{{{LEADER}, outcome="failed"}}': growing(4),
            f"runtime_autoscaler_replicas{{{LEADER}}}": always(0),
        },
    ),
]

WORK = [
    Case(
        "CollectionFailing",
        {**_OF_BOTS, "kind": "code"},
        {f'runtime_collection_failures_total{{{LEADER}, kind="code"}}': growing(0.2)},
        {
            f'runtime_collection_failures_total{{{LEADER}, kind="code"}}': growing(0.05),
            f'runtime_collection_failures_total{{{LEADER}, kind="logs"}}': growing(0.05),
        },
    ),
    Case(
        "NotificationsFailing",
        _OF_BOTS,
        {
            f'runtime_notifications_total{{{WORKER}, event="bot.held", receiver="all", outcome="failed"}}': growing(1),
            f'runtime_notifications_total{{{WORKER}, event="bot.held", receiver="own", outcome="sent"}}': growing(1),
        },
        {
            f'runtime_notifications_total{{{WORKER}, event="bot.held", receiver="all", outcome="failed"}}': growing(1),
            f'runtime_notifications_total{{{WORKER}, event="bot.held", receiver="all", outcome="sent"}}': growing(1),
            f'runtime_notifications_total{{{WORKER}, event="bot.held", receiver="own", outcome="failed"}}': growing(1),
        },
    ),
    Case(
        "BotsBackingOff",
        _OF_BOTS,
        {f'runtime_entities{{{WORKER}, state="backing-off"}}': always(1)},
        {f'runtime_entities{{{WORKER}, state="backing-off"}}': "0+0x20 1+0x20"},
    ),
    Case(
        "ManyBotsFailing",
        _OF_BOTS,
        {
            f'runtime_entities{{{WORKER}, state="running"}}': always(2),
            f'runtime_entities{{{WORKER}, state="rejected"}}': always(2),
        },
        {
            f'runtime_entities{{{WORKER}, state="running"}}': always(9),
            f'runtime_entities{{{WORKER}, state="rejected"}}': always(1),
            f'runtime_entities{{{WORKER}, state="killed"}}': always(9),
        },
    ),
    Case(
        "WaitingForRoom",
        _OF_BOTS,
        {f"runtime_waiting_for_room{{{WORKER}}}": always(1)},
        {f"runtime_waiting_for_room{{{WORKER}}}": f"0+0x{MINUTES - 1} 1+0x10"},
    ),
    Case(
        "MemoryMissing",
        _OF_BOTS,
        {f"runtime_room_missing_memory_bytes{{{LEADER}}}": always(2**20)},
        {f"runtime_room_missing_memory_bytes{{{LEADER}}}": f"0+0x{MINUTES - 1} 1+0x10"},
    ),
    Case(
        "ProcessorsMissing",
        _OF_BOTS,
        {f"runtime_room_missing_cpus{{{LEADER}}}": always(0.5)},
        {f"runtime_room_missing_cpus{{{LEADER}}}": f"0+0x{MINUTES - 1} 1+0x10"},
    ),
    Case(
        "RunsLost",
        {"service": "bot-scheduler", "reason": "not-started"},
        {f'runtime_schedule_runs_total{{{SCHEDULES}, reason="not-started"}}': growing(1)},
        {f'runtime_schedule_runs_total{{{SCHEDULES}, reason="error"}}': growing(1)},
    ),
    Case(
        "RunsLost",
        {"service": "backtest-runner", "reason": "lost"},
        {f'runtime_backtest_runs_total{{{BACKTESTS}, reason="lost"}}': growing(1)},
        {f'runtime_backtest_runs_total{{{BACKTESTS}, reason="lost"}}': once(1, MINUTES - 5)},
    ),
    Case(
        "BacktestsWaiting",
        {"service": "backtest-runner"},
        {f"runtime_backtest_queue_age_seconds{{{BACKTESTS}}}": growing(60)},
        {f"runtime_backtest_queue_age_seconds{{{BACKTESTS}}}": always(500)},
    ),
    Case(
        "SchedulesLate",
        {"service": "bot-scheduler"},
        _durations("runtime_schedule_lateness_seconds", SCHEDULES, within="1", all_take="5"),
        _durations("runtime_schedule_lateness_seconds", SCHEDULES, within="0.1", all_take="0.25"),
    ),
    Case(
        "SchedulesMissed",
        {"service": "bot-scheduler"},
        {f'runtime_schedule_firings_dropped_total{{{SCHEDULES}, reason="missed"}}': once(1, MINUTES - 5)},
        {f'runtime_schedule_firings_dropped_total{{{SCHEDULES}, reason="skipped"}}': once(1, MINUTES - 5)},
    ),
    Case(
        "EventsLate",
        _OF_BOTS,
        _durations("runtime_event_seconds", WORKER, within="10", all_take="30"),
        _durations("runtime_event_seconds", WORKER, within="1", all_take="2.5"),
    ),
    Case(
        "IngestionStuck",
        _OF_BOTS,
        {
            f"runtime_events_in_hand{{{WORKER}}}": always(3),
            f'runtime_events_total{{{WORKER}, outcome="retried"}}': growing(9),
            f'runtime_events_total{{{WORKER}, outcome="applied"}}': always(5),
        },
        {
            f"runtime_events_in_hand{{{WORKER}}}": always(3),
            f'runtime_events_total{{{WORKER}, outcome="applied"}}': growing(5),
        },
    ),
    Case(
        "DeadLetters",
        _OF_BOTS,
        {f"runtime_dead_letter_messages{{{WORKER}}}": always(1)},
        {f"runtime_dead_letter_messages{{{WORKER}}}": f"NaN+0x{MINUTES + 10}"},
    ),
    Case(
        "OutboxNotDraining",
        {"service": "backtest-runner"},
        {f"runtime_outbox_events{{{BACKTESTS}}}": always(1)},
        {f"runtime_outbox_events{{{BACKTESTS}}}": f"0+0x{MINUTES - 5} 9+0x10"},
    ),
    Case(
        "LogSpoolGrowing",
        _OF_A_WORKER,
        {f"runtime_logs_pending_bytes{{{WORKER}}}": always(20e6)},
        # Much, but it is uploaded each time.
        {f"runtime_logs_pending_bytes{{{WORKER}}}": " ".join(["20000000 0"] * 20)},
    ),
    Case(
        "LogsDropped",
        _OF_A_WORKER,
        {f"runtime_logs_dropped_bytes_total{{{WORKER}}}": once(100, MINUTES - 5)},
        {f"runtime_logs_dropped_bytes_total{{{WORKER}}}": always(100)},
    ),
    Case(
        "ContainersNearMemoryLimit",
        _OF_A_WORKER,
        {
            f"runtime_containers_memory_bytes{{{WORKER}}}": always(95),
            f"runtime_containers_memory_limit_bytes{{{WORKER}}}": always(100),
        },
        {
            f"runtime_containers_memory_bytes{{{WORKER}}}": always(0),
            f"runtime_containers_memory_limit_bytes{{{WORKER}}}": always(0),
        },
    ),
]

DEPENDENCIES = [
    _failing("MongoDBFailing", "mongodb"),
    _slow("MongoDBSlow", "mongodb", too_long=("0.5", "1"), long=("0.1", "0.25")),
    _failing("NatsFailing", "nats"),
    _slow("NatsSlow", "nats", too_long=("1", "2.5"), long=("0.25", "0.5")),
    _failing("StorageFailing", "storage"),
    _slow("StorageSlow", "storage", too_long=("5", "10"), long=("1", "2.5")),
    Case(
        "StateUnsaved",
        _OF_A_WORKER,
        {f"runtime_state_unsaved_seconds{{{WORKER}}}": always(61)},
        {f"runtime_state_unsaved_seconds{{{WORKER}}}": always(59)},
    ),
    _failing("EngineFailing", "docker"),
    Case(
        "EngineSlow",
        _OF_BOTS,
        _durations(
            "runtime_operation_seconds",
            f'{WORKER}, system="containers", operation="start", outcome="ok"',
            within="10",
            all_take="30",
        ),
        # A bot may take its time to end.
        _durations(
            "runtime_operation_seconds",
            f'{WORKER}, system="containers", operation="stop", outcome="ok"',
            within="10",
            all_take="30",
        ),
    ),
    Case(
        "HostAgentDown",
        _OF_A_WORKER,
        {f"runtime_host_agent_up{{{WORKER}}}": always(0)},
        {f"runtime_host_agent_up{{{WORKER}}}": f"1+0x{MINUTES - 4} 0+0x10"},
    ),
    Case(
        "ContainerOutlivedKeepalive",
        _OF_BOTS,
        {f"runtime_host_agent_killed_total{{{WORKER}}}": once(1, MINUTES - 5)},
        {f"runtime_host_agent_killed_total{{{WORKER}}}": once(1, MINUTES - 15)},
    ),
    Case(
        "NatsReconnecting",
        _OF_A_WORKER,
        {f"runtime_nats_connections_total{{{WORKER}}}": growing(1)},
        {f"runtime_nats_connections_total{{{WORKER}}}": once(2, MINUTES - 5)},
    ),
    Case(
        "DependencyDown",
        {**_OF_A_WORKER, "dependency": "mongodb"},
        {f'runtime_dependency_ok{{{WORKER}, dependency="mongodb"}}': always(0)},
        {
            f'runtime_dependency_ok{{{WORKER}, dependency="mongodb"}}': always(1),
            # One master leads, and the other never does.
            f'runtime_dependency_ok{{{OTHER}, dependency="leadership"}}': always(0),
        },
    ),
    Case(
        "CertificateEnding",
        {**_OF_A_WORKER, "setting": "TLS_CERT_FILE"},
        # The time begins at 0.
        {f'runtime_certificate_not_after_seconds{{{WORKER}, setting="TLS_CERT_FILE"}}': always(13 * 86_400)},
        {f'runtime_certificate_not_after_seconds{{{WORKER}, setting="TLS_CERT_FILE"}}': always(15 * 86_400)},
    ),
    Case(
        "TargetDown",
        {**_OF_A_WORKER, "role": "worker"},
        _up("worker", "w1", 0),
        {
            **_up("worker", "w1", 1),
            'up{job="prometheus"}': always(0),
            # Prometheus was stopped three minutes ago, just after the worker was, and is back.
            f'up{{{BOTS}, role="worker", instance="w2"}}': f"1+0x{MINUTES - 5} 0+0x1 _x{MINUTES}",
        },
    ),
    Case(
        "EventLoopLag",
        _OF_A_WORKER,
        {f"runtime_event_loop_lag_seconds{{{WORKER}}}": always(0.2)},
        {f"runtime_event_loop_lag_seconds{{{WORKER}}}": always(0.01)},
    ),
    Case(
        "ProcessMemoryHigh",
        _OF_A_WORKER,
        {f"process_resident_memory_bytes{{{WORKER}}}": always(300e6)},
        {f"process_resident_memory_bytes{{{WORKER}}}": always(90e6)},
    ),
]

CASES = [*COORDINATION, *WORK, *DEPENDENCIES]
