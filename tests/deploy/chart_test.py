"""The Helm chart: it renders what the Kustomize base renders, and its values change what they say."""

import functools
import json
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, SERVICES, ServiceDefinition
from tests.deploy.manifests import ROOT, Manifest, container, of_kind, pod_spec, rendered
from tools.helm.__main__ import CHART, chart_files
from tools.helm.template import ChartError, service_template
from tools.stack import binaries

NAMESPACE = "trading"
PREFIX = re.compile(rf"\b(?:{NAMESPACE}|the0)-(?=(?:bot|backtest)-)")
LIKE_BASE = {"image": {"tag": "latest"}, "tls": {"mode": "off"}}
"""The tag that the base names, and no TLS, which overlays add by a component."""
CLUSTER_WIDE = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ClusterRole", "ClusterRoleBinding")


def helm(*arguments: str, values: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm on the chart with these values."""
    command = [str(binaries.helm()), *arguments, str(ROOT / CHART), "--namespace", NAMESPACE, "--values=-"]
    text = json.dumps(values or {})
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)


def chart(values: Mapping[str, Any] | None = None) -> list[Manifest]:
    """All objects of a release."""
    return [document for document in yaml.safe_load_all(templated(json.dumps(values or {}))) if document]


@functools.cache
def templated(values: str) -> str:
    """What Helm renders."""
    process = helm("template", "runtime", values=json.loads(values))
    assert process.returncode == 0, process.stderr
    return process.stdout


def comparable(document: Manifest) -> Manifest:
    """An object without what Kustomize and Helm do each in their own way.

    A change of settings starts new pods: Kustomize changes the name of the ConfigMap, the chart an annotation. Of the
    objects without namespace each release and each overlay has its own.
    """
    text = re.sub(r"(-runner|-scheduler)-(settings|engine)-[0-9a-z]{10}\b", r"\1-\2", json.dumps(document))
    found: Manifest = json.loads(PREFIX.sub("", text) if document["kind"] in CLUSTER_WIDE else text)
    found["metadata"].pop("namespace", None)
    for subject in found.get("subjects", []):
        subject.pop("namespace", None)
    if found["kind"] == "Deployment":
        metadata = found["spec"]["template"]["metadata"]
        metadata["annotations"] = {
            name: value for name, value in metadata.get("annotations", {}).items() if not name.startswith("checksum/")
        }
    return found


def by_name(documents: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    found = [comparable(document) for document in documents]
    names = {(document["kind"], document["metadata"]["name"]): document for document in found}
    assert len(names) == len(found)
    return names


def deployment(documents: list[Manifest], name: str) -> Manifest:
    (found,) = [found for found in documents if (found["kind"], found["metadata"]["name"]) == ("Deployment", name)]
    return found


def settings(documents: list[Manifest], service: ServiceDefinition) -> dict[str, str]:
    name = ("ConfigMap", f"{service.name}-settings")
    (found,) = [found for found in documents if (found["kind"], found["metadata"]["name"]) == name]
    return dict(found["data"])


def test_generated_files_are_those_of_the_present_base() -> None:
    made = chart_files(ROOT)

    assert {path: (ROOT / path).read_text() for path in made} == made, "run `python -m tools.helm`"


def test_chart_renders_the_objects_of_the_bases() -> None:
    bases = [document for service in SERVICES for document in rendered(f"base/{service.name}")]

    assert by_name(chart(LIKE_BASE)) == by_name(bases)


def test_chart_with_the_values_of_production_renders_the_overlay() -> None:
    operator = "monitoring.coreos.com/v1"
    wanted = [found for found in rendered("overlays/production") if found["kind"] != "Namespace"]
    # A class belongs to the cluster, and a release names one.
    wanted = [document for document in wanted if document["kind"] != "PriorityClass"]
    made = chart(
        {
            "image": {"registry": "registry.example.com", "tag": "1.0.0"},
            "monitoring": {"prometheusOperator": True, "grafanaDashboards": True},
            "engine": {"resources": {"requests": {"cpu": "1", "memory": "6Gi"}, "limits": {"memory": "6Gi"}}},
            "settings": {"MAX_REPLICAS": 20, "MAX_SEGMENT": 20, "LOG_LEVEL": "info"},
            "masters": {"priorityClassName": "the0-runtime"},
            "workers": {"priorityClassName": "the0-runtime"},
        }
    )

    assert by_name(made) == by_name(wanted)
    assert {document["kind"] for document in made if document["apiVersion"] == operator} == {
        "PrometheusRule",
        "ServiceMonitor",
    }


def test_release_without_monitoring_has_no_object_of_it() -> None:
    made = chart()

    assert [document["kind"] for document in made if document["apiVersion"].startswith("monitoring.coreos.com")] == []
    assert "grafana_dashboard" not in json.dumps(made)


def test_release_has_the_rules_as_files_when_they_are_wanted() -> None:
    (wanted,) = rendered("../prometheus")
    made = chart({"monitoring": {"rulesConfigMap": True}})
    (found,) = [document for document in made if document["metadata"]["name"] == "the0-rules"]

    assert comparable(found) == comparable(wanted)


def test_objects_of_the_operator_get_the_labels_by_which_it_selects_them() -> None:
    made = chart({"monitoring": {"prometheusOperator": True, "labels": {"release": "stack"}}})

    of_operator = [document for document in made if document["apiVersion"].startswith("monitoring.coreos.com")]
    assert {document["metadata"]["labels"]["release"] for document in of_operator} == {"stack"}
    assert {document["metadata"]["labels"]["app.kubernetes.io/part-of"] for document in of_operator} == {"the0"}
    assert [document for document in made if document not in of_operator and "stack" in json.dumps(document)] == []


@pytest.mark.parametrize("mode", ["off", False])
def test_release_without_tls_names_no_certificate(mode: object) -> None:
    made = chart({"tls": {"mode": mode}})

    assert "tls" not in json.dumps(made).lower()


def test_release_that_passes_through_allow_has_the_certificates_of_require() -> None:
    allowing, requiring = chart({"tls": {"mode": "allow"}}), chart({"tls": {"mode": "require"}})

    assert settings(allowing, BOT_RUNNER)["TLS_MODE"] == "allow"
    assert settings(requiring, BOT_RUNNER)["TLS_MODE"] == "require"
    kept = [one for one in allowing if one["kind"] != "ConfigMap"]
    assert by_name(kept) == by_name([one for one in requiring if one["kind"] != "ConfigMap"])


def test_service_that_is_switched_off_has_no_object() -> None:
    made = chart({"services": {BACKTEST_RUNNER.name: {"enabled": False}}})

    names = {document["metadata"]["labels"]["app.kubernetes.io/name"] for document in made}
    assert names == {service.name for service in SERVICES if service is not BACKTEST_RUNNER}


def test_setting_of_a_service_comes_before_the_one_of_all_and_both_before_the_charts() -> None:
    made = chart(
        {
            "settings": {"MAX_REPLICAS": 7, "MEMORY_LIMIT_MB": 300},
            "services": {BOT_RUNNER.name: {"settings": {"MAX_REPLICAS": 9}}},
        }
    )

    assert settings(made, BOT_RUNNER)["MAX_REPLICAS"] == "9"
    assert settings(made, BACKTEST_RUNNER)["MAX_REPLICAS"] == "7"
    assert settings(made, BOT_RUNNER)["MEMORY_LIMIT_MB"] == "300"


def test_setting_of_any_type_becomes_the_text_that_was_written_and_null_removes_it() -> None:
    values = {"A": 3_000_000, "B": 0, "C": 0.25, "D": True, "E": "007", "F": "", "CPU_SHARES": None}

    found = settings(chart({"settings": values}), BOT_RUNNER)

    assert {name: found[name] for name in "ABCDEF"} == {
        "A": "3000000",
        "B": "0",
        "C": "0.25",
        "D": "true",
        "E": "007",
        "F": "",
    }
    assert "CPU_SHARES" not in found


def test_changed_setting_starts_new_pods_of_its_service_only() -> None:
    def checksums(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            document["metadata"]["name"]: document["spec"]["template"]["metadata"]["annotations"]
            for document in chart(values)
            if document["kind"] == "Deployment"
        }

    before, after = checksums({}), checksums({"services": {BOT_RUNNER.name: {"settings": {"LOG_LEVEL": "debug"}}}})
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"bot-runner-master", "bot-runner-worker"}


def test_values_of_pods_reach_them_and_are_valid() -> None:
    toleration = {"key": "dedicated", "operator": "Equal", "value": "bots", "effect": "NoSchedule"}
    made = chart(
        {
            "image": {"registry": "registry.example.com:5000/team", "pullSecrets": [{"name": "pull"}]},
            "connections": {"secretName": "other-connections"},
            "monitoring": {"namespace": "observability"},
            "masters": {"replicas": 3, "priorityClassName": "high"},
            "workers": {"nodeSelector": {"pool": "bots"}, "tolerations": [toleration]},
            "engine": {"image": "registry.example.com/dind:1", "extraArgs": ["--registry-mirror=http://mirror:5000"]},
        }
    )

    master, worker = deployment(made, "bot-runner-master"), deployment(made, "bot-runner-worker")
    assert master["spec"]["replicas"] == 3
    assert "replicas" not in worker["spec"]
    assert pod_spec(master)["priorityClassName"] == "high"
    assert "nodeSelector" not in pod_spec(master)
    assert pod_spec(worker)["nodeSelector"] == {"pool": "bots"}
    assert pod_spec(worker)["tolerations"][-1] == toleration
    assert pod_spec(worker)["imagePullSecrets"] == [{"name": "pull"}]
    assert container(worker, "worker")["image"] == "registry.example.com:5000/team/the0/bot-runner:1.0.0"
    assert container(worker, "engine")["image"] == "registry.example.com/dind:1"
    assert container(worker, "engine")["args"][-1] == "--registry-mirror=http://mirror:5000"
    assert "the0-connections" not in json.dumps(made)
    assert '"kubernetes.io/metadata.name": "observability"' in json.dumps(made)
    for document in made:
        kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"replicas": 3}, "replicas"),
        ({"masters": {"replicas": "three"}}, "replicas"),
        ({"services": {"bots": {"enabled": True}}}, "bots"),
        ({"settings": {"max-replicas": 3}}, "max-replicas"),
        ({"settings": {"BOTS": ["a"]}}, "BOTS"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"tls": {"mode": "on"}}, "mode"),
        ({"engine": {"resources": {"requests": {"cpu": 1, "memory": 1}, "limits": {}}}}, "memory"),
    ],
)
def test_value_that_the_schema_does_not_know_is_refused_by_name(values: dict[str, Any], complaint: str) -> None:
    validator = jsonschema.Draft7Validator(json.loads((ROOT / CHART / "values.schema.json").read_text()))

    errors = [f"{error.json_path} {error.message}" for error in validator.iter_errors(values)]

    assert len(errors) == 1
    assert complaint in errors[0]


def test_helm_refuses_by_the_schema() -> None:
    process = helm("template", "runtime", values={"masters": {"replicas": "three"}})

    assert process.returncode != 0
    assert "masters.replicas" in process.stderr


def test_chart_passes_helms_own_check() -> None:
    process = helm("lint", "--strict")

    assert process.returncode == 0, process.stdout + process.stderr


def test_services_that_differ_in_more_than_name_port_and_settings_are_refused() -> None:
    documents = {service: [dict(document) for document in rendered(f"base/{service.name}")] for service in SERVICES}
    odd = documents[BACKTEST_RUNNER]
    odd[0] = {**odd[0], "automountServiceAccountToken": not odd[0].get("automountServiceAccountToken", True)}

    with pytest.raises(ChartError, match="ServiceAccount of backtest-runner is not like that of bot-runner"):
        service_template(documents)


def test_text_that_helm_would_read_as_an_expression_is_refused() -> None:
    documents = {service: list(rendered(f"base/{service.name}")) for service in SERVICES}
    documents[BOT_RUNNER] = [{**documents[BOT_RUNNER][0], "note": "{{ .Values }}"}, *documents[BOT_RUNNER][1:]]

    with pytest.raises(ChartError, match="bot-runner: Helm would read"):
        service_template(documents)


def test_rights_are_given_to_the_accounts_of_the_releases_namespace() -> None:
    subjects = [subject for document in chart() for subject in document.get("subjects", [])]

    assert {(subject["name"], subject["namespace"]) for subject in subjects} == {
        (f"{service.name}-master", NAMESPACE) for service in SERVICES
    }


def test_release_ships_no_secret() -> None:
    assert [document for document in chart() if document["kind"] == "Secret"] == []
    assert not of_kind("overlays/production", "Secret")
