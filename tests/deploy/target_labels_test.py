"""Prometheus gives every target the labels by which rules and dashboards find it: `service` and `role`."""

import re
from typing import Any

import pytest
import yaml

from libs.core.process.service import SERVICES, ServiceDefinition
from tests.deploy.manifests import ROOT, named

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
each_role = pytest.mark.parametrize("role", ["master", "worker"])


def relabelled(rules: list[dict[str, Any]], discovered: dict[str, str]) -> dict[str, str]:
    """The labels that a target gets, as Prometheus works them out; Compose and the operator spell the keys apart."""
    labels = {}
    for rule in rules:
        sources = rule.get("source_labels") or rule["sourceLabels"]
        value = ";".join(discovered[source] for source in sources)
        match = re.fullmatch(rule.get("regex", "(.*)"), value)
        if match is not None:
            replacement = re.sub(r"\$(\d)", r"\\\1", rule.get("replacement", "$1"))
            labels[rule.get("target_label") or rule["targetLabel"]] = match.expand(replacement)
    return labels


@each_service
@each_role
def test_compose_labels_every_target_with_its_service_and_role(service: ServiceDefinition, role: str) -> None:
    config = yaml.safe_load((ROOT / "deploy" / "compose" / "prometheus.yml").read_text())
    rules = config["scrape_configs"][0]["relabel_configs"]

    labels = relabelled(rules, {"__meta_dns_name": f"{service.name}-{role}"})

    assert labels == {"service": service.name, "role": role}


@each_service
@each_role
def test_kubernetes_labels_every_target_with_its_service_and_role(service: ServiceDefinition, role: str) -> None:
    workload = named("overlays/production", "Deployment", f"{service.name}-{role}")
    monitor = named("overlays/production", "ServiceMonitor", service.name)
    discovered = {
        "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", name): value
        for name, value in workload["spec"]["template"]["metadata"]["labels"].items()
    }

    assert relabelled(monitor["spec"]["endpoints"][0]["relabelings"], discovered) == {
        "service": service.name,
        "role": role,
    }
