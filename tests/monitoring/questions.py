"""Everything that dashboards ask Prometheus, as Grafana would send it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.monitoring.promql import Selector, selectors
from tests.monitoring.rules import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
_VARIABLE_QUERY = re.compile(r"label_values\((.+), (\w+)\)")
# The window that Grafana would take for the scrape interval of the tests: four times it, and room for a slow machine.
_FILLED_IN = {"$__rate_interval": "20s"}


@dataclass(frozen=True)
class Question:
    """One query of a panel."""

    panel: str
    expression: str


@dataclass(frozen=True)
class Choice:
    """One variable: the values of *label* among what *selector* selects."""

    name: str
    selector: str
    label: str


def dashboards() -> list[Path]:
    """The committed files."""
    return sorted(FOLDER.glob("*.json"))


def choices(path: Path) -> list[Choice]:
    """The variables of a dashboard."""
    found = []
    for variable in json.loads(path.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            match = _VARIABLE_QUERY.fullmatch(variable["query"])
            assert match is not None, variable["query"]
            found.append(Choice(variable["name"], match[1], match[2]))
    return found


def questions(path: Path, chosen: dict[str, str]) -> Iterator[Question]:
    """The queries of a dashboard's panels, with what was *chosen* for its variables."""
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in {**_FILLED_IN, **{f"${name}": value for name, value in chosen.items()}}.items():
                expression = expression.replace(name, value)
            assert "$" not in expression, expression
            yield Question(panel["title"], expression)


@dataclass(frozen=True)
class Rarity:
    """What a small load does not show: *label* never has the value that a selector of *metric* asks for.

    Such a selector must have data without that label; with None, not even that, but a process declares the metric.
    """

    metric: str
    label: str | None
    because: str


RARITIES = (
    Rarity("runtime_certificate_not_after_seconds", None, "a deployment without TLS has no certificates"),
    Rarity("runtime_operation_seconds_count", "outcome", "nothing fails in a deployment that is well"),
    Rarity("runtime_handler_failures_total", None, "no handler fails in a deployment that is well"),
    Rarity("runtime_unexpected_errors_total", None, "nothing unexpected happens in a deployment that is well"),
    Rarity("runtime_backtest_runs_total", "reason", "no run is lost in a deployment that is well"),
    Rarity("runtime_schedule_runs_total", "reason", "no run is lost in a deployment that is well"),
)


def to_be_found(expression: str) -> Iterator[Selector]:
    """The selectors of an expression, wide enough to have data under a small load."""
    for selector in selectors(expression):
        rarities = [rarity for rarity in RARITIES if rarity.metric == selector.metric]
        if not any(rarity.label is None for rarity in rarities):
            for rarity in rarities:
                assert rarity.label is not None
                selector = selector.without(rarity.label)
            yield selector
