"""The rules that Prometheus is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus" / "rules"
FILES = tuple(sorted(FOLDER.glob("*.yml")))


@dataclass(frozen=True)
class Rule:
    """One rule. *name* is that of the alert, or of the metric that is recorded."""

    name: str
    expr: str
    is_alert: bool
    severity: str
    annotations: dict[str, str]


def groups() -> list[dict[str, Any]]:
    """The groups of all files, in the order of the files' names."""
    return [group for path in FILES for group in yaml.safe_load(path.read_text())["groups"]]


def rules() -> list[Rule]:
    """All rules."""
    return [
        Rule(
            name=rule.get("alert") or rule["record"],
            expr=rule["expr"],
            is_alert="alert" in rule,
            severity=rule.get("labels", {}).get("severity", ""),
            annotations=rule.get("annotations", {}),
        )
        for group in groups()
        for rule in group["rules"]
    ]


def alerts() -> dict[str, Rule]:
    """The alerts by name."""
    return {rule.name: rule for rule in rules() if rule.is_alert}
