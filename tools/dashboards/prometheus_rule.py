"""Convert the rules in deploy/prometheus/rules into one object for the Prometheus operator."""

from pathlib import Path

import yaml

RULES = Path("deploy") / "prometheus" / "rules"
OBJECT = Path("deploy") / "kubernetes" / "components" / "prometheus-operator" / "rules.yaml"
"""Relative to the repository's root."""

_HEAD = "# Written by `python -m tools.dashboards` from deploy/prometheus/rules, edit the rules there.\n"


def prometheus_rule(root: Path) -> str:
    """Return the object's text, made from the rules below *root*."""
    documents = [yaml.safe_load(path.read_text()) for path in sorted((root / RULES).glob("*.yml"))]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "the0", "labels": {"app.kubernetes.io/part-of": "the0"}},
        "spec": {"groups": [group for document in documents for group in document["groups"]]},
    }
    return _HEAD + str(yaml.safe_dump(rule, sort_keys=False, width=1000))
