"""The tables of deploy/METRICS.md, written from the metrics' declarations.

`python -m tests.deploy.metrics_table` writes them anew; a test fails while the file says something else.
"""

from pathlib import Path

from libs.core.process.service import SERVICES
from tests.deploy.manifests import ROOT
from tests.deploy.metrics_declared import Where, declared
from tests.deploy.metrics_of_module import ShownMetric

DOCUMENT = ROOT / "deploy" / "METRICS.md"
BEGIN = "<!-- metrics: python -m tests.deploy.metrics_table -->"
END = "<!-- end of metrics -->"

ROLES = ("master", "worker")
LABELS = {
    "bot": "the id of a bot or a schedule, cut to 128 characters; only in the metric of METRICS_BOT_VALUES",
    "call": "a call of the segment handler: `run`, `stop`",
    "dependency": "a name in `/readyz`",
    "dry_run": "`true`, `false`",
    "event": "the name of a notification's event, from a fixed list",
    "id": "a bot; only in metrics of METRICS_PER_BOT, and of the bots of one segment at a time",
    "kind": "of garbage: `code`, `logs`, `results`, `state`, `data`, `records`, `revisions`",
    "lease": "`segment`, `leadership`",
    "metric": "the name of a metric that a bot prints, METRICS_BOT_NAMES of each bot at most",
    "operation": "the requested operation, from a fixed list: a verb, a route, a message of the protocol",
    "outcome": "`ok`, `refused` (answered with a refusal), `error`, `cancelled` (by the caller); "
    "of events and autoscaler rounds: the result; of notifications: `sent`, `failed` (repeated), `given-up`, "
    "`refused`, `dropped`",
    "part": "of the room on an engine: `total`, `free`",
    "quota": "`count`, `memory`, `cpus`, `starts`",
    "reason": "the reason, from a fixed list",
    "receiver": "`all` (NOTIFY_URL), `own` (config.notify)",
    "setting": "a setting that names a file with certificates",
    "source": "`cache`, `storage`",
    "state": "a state of a segment or an entity; every state is always exposed",
    "subject": "a subject of the contract",
    "system": "`collector` (rounds of garbage collection), `containers` (work on all containers of a worker), `docker` "
    "(requests to the engine), `events`, `grpc`, `http`, `kubernetes`, `lease`, `master`, `mongodb`, `nats`, "
    "`reconcile` (rounds of the three services), `storage`",
    "where": "the interrupted operation, from a fixed list",
}
"""Every label, and why the number of its values has a bound."""


def everything() -> dict[str, tuple[ShownMetric, set[Where]]]:
    """All metrics by name, each with the services and roles that show it."""
    found: dict[str, tuple[ShownMetric, set[Where]]] = {}
    for where, metrics in declared().items():
        for metric in metrics:
            found.setdefault(metric.name, (metric, set()))[1].add(where)
    return dict(sorted(found.items()))


def tables() -> str:
    """Both tables in Markdown: the metrics, and their labels."""
    lines = ["| metric | type | labels | meaning | shown by |", "|---|---|---|---|---|"]
    for metric, where in everything().values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} | {_shown_by(where)} |")
    lines += ["", "| label | values |", "|---|---|"]
    lines += [f"| `{label}` | {values} |" for label, values in LABELS.items()]
    return "\n".join(lines)


def in_document(path: Path = DOCUMENT) -> str:
    """What stands in the file now, without the marks."""
    return path.read_text().split(BEGIN)[1].split(END)[0].strip()


def write(path: Path = DOCUMENT) -> None:
    """Put the tables into the file."""
    head, rest = path.read_text().split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n\n{tables()}\n\n{END}{tail}")


def _shown_by(where: set[Where]) -> str:
    names = [service.name for service in SERVICES]
    parts = []
    for role in ROLES:
        services = [name for name in names if (name, role) in where]
        if len(services) == len(names):
            parts.append(f"every {role}")
        elif services:
            parts.append(f"{role}s of {', '.join(services)}")
    return "every process" if parts == [f"every {role}" for role in ROLES] else "; ".join(parts)


if __name__ == "__main__":
    write()
