"""Dashboards and rules as the cluster and Compose are given them: the same files for both."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests import KUBERNETES, ROOT, named, of_kind, rendered

PRODUCTION = "overlays/production"
COMPOSE = ROOT / "deploy" / "compose"
RULES = ROOT / "deploy" / "prometheus" / "rules"
# What `kubectl apply` may write into the annotation in which it keeps what was applied.
ANNOTATION_BYTES = 262_144


def groups_of_prometheus() -> list[dict[str, Any]]:
    files = sorted(RULES.glob("*.yml"))
    return [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]


def test_cluster_has_the_rules_of_compose() -> None:
    assert named(PRODUCTION, "PrometheusRule", "the0")["spec"] == {"groups": groups_of_prometheus()}


def test_component_of_rules_is_the_files_of_compose_in_one_map(tmp_path: Path) -> None:
    components = [f"{os.path.relpath(KUBERNETES, tmp_path.resolve())}/components/prometheus-rules"]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"namespace": "the0", "components": components}))
    (found,) = rendered(str(tmp_path.resolve()))

    assert (found["kind"], found["metadata"]["name"], found["metadata"]["namespace"]) == (
        "ConfigMap",
        "the0-rules",
        "the0",
    )
    assert found["data"] == {path.name: path.read_text() for path in RULES.glob("*.yml")}
    assert len(json.dumps(found)) < ANNOTATION_BYTES


def test_cluster_has_every_dashboard_with_the_label_of_grafanas_sidecar() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")}
    maps = [m for m in of_kind(PRODUCTION, "ConfigMap") if m["metadata"]["labels"].get("grafana_dashboard") == "1"]

    assert {name: text for found in maps for name, text in found["data"].items()} == files
    assert all(len(json.dumps(found)) < ANNOTATION_BYTES for found in maps)


def test_compose_mounts_the_folders_whose_files_it_names() -> None:
    services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    folder, inside, *_ = next(v for v in services["prometheus"]["volumes"] if "rules" in v).split(":")

    (pattern,) = config["rule_files"]
    assert pattern == f"{inside}/*.yml"
    assert {path.suffix for path in (COMPOSE / folder).iterdir()} == {".yml"}


def test_compose_gives_grafana_the_sources_that_dashboards_name() -> None:
    sources = yaml.safe_load((COMPOSE / "grafana" / "datasources.yaml").read_text())["datasources"]
    named_by_panels = {
        panel["datasource"]["uid"]
        for path in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
        if "datasource" in panel
    }

    assert named_by_panels <= {source["uid"] for source in sources} == {"prometheus", "jaeger"}
