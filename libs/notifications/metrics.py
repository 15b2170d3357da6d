"""Metrics of notifications."""

from prometheus_client import Counter, Gauge

from libs.core.config.notify_settings import EVENT_NAMES

NOTIFICATIONS = Counter(
    "runtime_notifications_total",
    "Notifications by the receiver (all: NOTIFY_URL, own: config.notify) and outcome; failed ones are repeated.",
    ["event", "receiver", "outcome"],
)
WAITING = Gauge("runtime_notifications_waiting", "Notifications that wait to be sent, as last read.")

RECEIVERS = ("all", "own")
OUTCOMES = ("sent", "failed", "given-up", "refused", "dropped")

for _event in EVENT_NAMES:
    for _receiver in RECEIVERS:
        for _outcome in OUTCOMES:
            NOTIFICATIONS.labels(_event, _receiver, _outcome)  # from 0 on, so that the first one shows as an increase
